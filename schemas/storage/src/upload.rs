//! Puts of objects: in one request, unless it is too large for that.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, Result};

/// Azure takes no more in one request; S3 and GCS take 5 GiB, a little more.
const SINGLE_PUT_BYTES_MAX: u64 = 5000 << 20;
/// Bytes of each part of a larger object: 10,000 parts at most make 625 GiB.
const PART_BYTES: usize = 64 << 20;

/// Puts an object. It becomes visible when it is whole.
pub(crate) async fn put(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<()> {
    if bytes.len() as u64 > SINGLE_PUT_BYTES_MAX {
        return put_in_parts(store, path, bytes, PART_BYTES).await;
    }
    let put = store.put(path, PutPayload::from_bytes(bytes)).await;
    put.map(|_| ())
}

async fn put_in_parts(
    store: &dyn ObjectStore,
    path: &Path,
    mut bytes: Bytes,
    part_bytes: usize,
) -> Result<()> {
    let mut upload = store.put_multipart(path).await?;
    let sent = async {
        while !bytes.is_empty() {
            let part = bytes.split_to(part_bytes.min(bytes.len()));
            upload.put_part(part.into()).await?;
        }
        upload.complete().await
    };
    let sent = sent.await;
    if sent.is_err() {
        // What stays behind is no object; a rule of the bucket expires it.
        let _ = upload.abort().await;
    }
    sent.map(|_| ())
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn parts_make_the_object() {
        let store = InMemory::new();
        let path = Path::from("a");
        let bytes = Bytes::from_iter((0..=255_u8).cycle().take(1005));
        for part_bytes in [10, 1005, 4096] {
            put_in_parts(&store, &path, bytes.clone(), part_bytes)
                .await
                .unwrap();
            let stored = store.get(&path).await.unwrap().bytes().await.unwrap();
            assert_eq!(stored, bytes, "{part_bytes}");
        }
        put(&store, &path, Bytes::from_static(b"small"))
            .await
            .unwrap();
        assert_eq!(store.head(&path).await.unwrap().size, 5);
    }
}
