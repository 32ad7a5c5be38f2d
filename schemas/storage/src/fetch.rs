//! Bytes of objects, whole: an answer that was cut is asked for again.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};

use crate::read_error::ReadError;
use crate::redact;
use crate::store_error::{StoreError, StoreProblem};
use crate::stores::Stores;

type Result<T, E = object_store::Error> = std::result::Result<T, E>;

/// Times that an object is asked for. The store's client goes on where an answer was cut if the
/// object has an etag, and repeats what was refused; this is for what is left.
const TRIES_MAX: u32 = 3;

/// The object, or the part of it that `options` ask for.
pub(crate) async fn fetch(
    store: &dyn ObjectStore,
    path: &Path,
    options: GetOptions,
) -> Result<Bytes> {
    Ok(fetch_with_meta(store, path, options).await?.0)
}

/// The same with the time, in milliseconds since 1970 by the store's clock, at which it was put.
pub(crate) async fn fetch_dated(
    store: &dyn ObjectStore,
    path: &Path,
    options: GetOptions,
) -> Result<(Bytes, i64)> {
    let (bytes, meta) = fetch_with_meta(store, path, options).await?;
    Ok((bytes, meta.last_modified.timestamp_millis()))
}

/// The same with what the answer says of the object that the bytes are of.
pub(crate) async fn fetch_with_meta(
    store: &dyn ObjectStore,
    path: &Path,
    options: GetOptions,
) -> Result<(Bytes, ObjectMeta)> {
    let mut n_tries = 1;
    loop {
        match fetch_once(store, path, options.clone()).await {
            Err(error) if n_tries < TRIES_MAX && was_cut(&error) => {
                tracing::info!(%path, error = %StoreError::of(&error), "reading again");
                n_tries += 1;
            }
            ended => return ended,
        }
    }
}

/// Whether the first byte of what lies at an absolute URI can be read.
///
/// # Errors
///
/// Why it cannot. An object without a byte is an error as well.
pub async fn probe_read(stores: &Stores, uri: &str) -> Result<(), ReadError> {
    let (store, path) = stores.resolve(uri)?;
    let options = GetOptions {
        range: Some(GetRange::Bounded(0..1)),
        ..GetOptions::default()
    };
    match fetch(store.as_ref(), &path, options).await {
        Ok(_) => Ok(()),
        Err(error) => Err(ReadError::store(&redact::redact(uri), error)),
    }
}

async fn fetch_once(
    store: &dyn ObjectStore,
    path: &Path,
    options: GetOptions,
) -> Result<(Bytes, ObjectMeta)> {
    let wanted = match &options.range {
        Some(GetRange::Bounded(range)) => Some(range.end - range.start),
        _ => None,
    };
    let answer = store.get_opts(path, options).await?;
    let meta = answer.meta.clone();
    let bytes = answer.bytes().await?;
    match wanted {
        Some(wanted) if bytes.len() as u64 != wanted => Err(object_store::Error::Generic {
            store: "reader",
            source: Box::new(Cut {
                n_bytes: bytes.len() as u64,
                wanted,
            }),
        }),
        _ => Ok((bytes, meta)),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{n_bytes} bytes came where {wanted} were asked for")]
struct Cut {
    n_bytes: u64,
    wanted: u64,
}

fn was_cut(error: &object_store::Error) -> bool {
    let is_short =
        matches!(error, object_store::Error::Generic { source, .. } if source.is::<Cut>());
    is_short || *StoreError::of(error).problem() == StoreProblem::Disconnected
}
