//! Bytes of objects, whole: an answer that was cut is asked for again.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, Result};

use crate::store_error::{StoreError, StoreProblem};

/// Times that an object is asked for. The store's client goes on where an answer was cut if the
/// object has an etag, and repeats what was refused; this is for what is left.
const TRIES_MAX: u32 = 3;

/// The object, or the part of it that `options` ask for.
pub(crate) async fn fetch(
    store: &dyn ObjectStore,
    path: &Path,
    options: GetOptions,
) -> Result<Bytes> {
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

async fn fetch_once(store: &dyn ObjectStore, path: &Path, options: GetOptions) -> Result<Bytes> {
    let wanted = match &options.range {
        Some(GetRange::Bounded(range)) => Some(range.end - range.start),
        _ => None,
    };
    let bytes = store.get_opts(path, options).await?.bytes().await?;
    match wanted {
        Some(wanted) if bytes.len() as u64 != wanted => Err(object_store::Error::Generic {
            store: "reader",
            source: Box::new(Cut {
                n_bytes: bytes.len() as u64,
                wanted,
            }),
        }),
        _ => Ok(bytes),
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
