use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStoreExt as _, PutPayload};
use proptest::prelude::*;
use std::time::Duration;

use super::*;

const N_BLOCKS: u64 = 5;

/// An object whose last block has three bytes, and its contents.
async fn object(store: &dyn ObjectStore) -> (Path, Vec<u8>) {
    let n_bytes = (N_BLOCKS - 1) * BLOCK_BYTES + 3;
    let contents: Vec<u8> = (0..n_bytes).map(|n| (n / 1000 % 251) as u8).collect();
    let path = Path::from("object");
    store
        .put(&path, PutPayload::from(contents.clone()))
        .await
        .unwrap();
    (path, contents)
}

async fn blocks_of(store: Arc<dyn ObjectStore>) -> (RemoteBlocks, Vec<u8>) {
    let (path, contents) = object(store.as_ref()).await;
    let bytes = contents.len() as u64;
    let handle = Handle::current();
    (
        RemoteBlocks::new(store, path, bytes, None, handle),
        contents,
    )
}

fn expected(contents: &[u8], idx: u64) -> &[u8] {
    let start = (idx * BLOCK_BYTES) as usize;
    &contents[start..(start + BLOCK_BYTES as usize).min(contents.len())]
}

impl RemoteBlocks {
    fn ahead(&self) -> Vec<u64> {
        self.lock().ahead.iter().map(|ahead| ahead.idx).collect()
    }
}

#[tokio::test]
async fn the_next_block_is_on_its_way_if_it_will_be_read() {
    let (blocks, contents) = blocks_of(Arc::new(InMemory::new())).await;
    assert_eq!(blocks.get(0).await.unwrap(), expected(&contents, 0));
    assert!(blocks.ahead().is_empty(), "nobody said what would be read");

    let (second, fourth) = (
        BLOCK_BYTES..BLOCK_BYTES + 1,
        3 * BLOCK_BYTES..3 * BLOCK_BYTES + 1,
    );
    blocks.expect([second, fourth, 7..7]);
    // Also where the block itself is known.
    assert_eq!(blocks.get(0).await.unwrap(), expected(&contents, 0));
    assert_eq!(blocks.ahead(), [1]);
    assert_eq!(blocks.get(1).await.unwrap(), expected(&contents, 1));
    assert!(blocks.ahead().is_empty(), "the third is not to be read");
    assert_eq!(blocks.get(2).await.unwrap(), expected(&contents, 2));
    assert_eq!(blocks.ahead(), [3]);

    // Beyond the end there is nothing.
    blocks.expect(std::iter::once(0..u64::MAX));
    let last = N_BLOCKS - 1;
    assert_eq!(blocks.get(last).await.unwrap(), expected(&contents, last));
    assert_eq!(blocks.ahead(), [3]);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_store_overlaps_with_work() {
    const WAIT: Duration = Duration::from_secs(1);
    let config = ThrottleConfig {
        wait_get_per_call: WAIT,
        ..ThrottleConfig::default()
    };
    let (blocks, _) = blocks_of(Arc::new(ThrottledStore::new(InMemory::new(), config))).await;
    blocks.expect(std::iter::once(0..u64::MAX));
    let began = tokio::time::Instant::now();
    for idx in 0..N_BLOCKS {
        let _ = blocks.get(idx).await.unwrap();
        // What is made of the block.
        tokio::time::sleep(WAIT).await;
    }
    let n_waits = began.elapsed().as_secs_f64() / WAIT.as_secs_f64();
    assert!(n_waits < N_BLOCKS as f64 + 1.5, "{n_waits}");
}

#[tokio::test]
async fn a_block_that_fails_ahead_fails_when_it_is_read() {
    let store = Arc::new(InMemory::new());
    let (blocks, _) = blocks_of(Arc::clone(&store) as Arc<dyn ObjectStore>).await;
    blocks.expect(std::iter::once(0..u64::MAX));
    let _ = blocks.get(0).await.unwrap();
    store.delete(&Path::from("object")).await.unwrap();
    let failed = async {
        for idx in 1..N_BLOCKS {
            blocks.get(idx).await?;
        }
        Ok(())
    };
    let error: object_store::Error = failed.await.unwrap_err();
    assert!(
        matches!(error, object_store::Error::NotFound { .. }),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is said and read in whatever order, blocks are those of the object.
    #[test]
    fn blocks_are_those_of_the_object(
        steps in prop::collection::vec((0..N_BLOCKS, prop::option::of((0..N_BLOCKS, 0..N_BLOCKS))), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (blocks, contents) = blocks_of(Arc::new(InMemory::new())).await;
            for (idx, said) in steps {
                if let Some((from, to)) = said {
                    blocks.expect(std::iter::once(from * BLOCK_BYTES..to * BLOCK_BYTES));
                }
                assert!(blocks.get(idx).await.unwrap() == expected(&contents, idx));
                assert!(blocks.ahead().len() <= AHEAD_MAX);
                assert!(blocks.lock().kept.len() <= KEPT_MAX);
            }
        });
    }
}
