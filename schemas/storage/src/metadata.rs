//! Metadata of Parquet objects, fetched from their end.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::fetch::fetch_with_meta;

/// Bytes fetched from the end of an object; most footers fit, and then one request is enough.
const TAIL_BYTES: usize = 64 << 10;

struct Fetch<'a> {
    store: &'a Arc<dyn ObjectStore>,
    path: &'a Path,
    /// The etag that the object is expected to have.
    etag: Option<&'a str>,
    /// Set where an answer was of an object with another etag, or without one.
    is_other: &'a AtomicBool,
}

impl MetadataFetch for Fetch<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range)),
                ..GetOptions::default()
            };
            let fetched = fetch_with_meta(self.store.as_ref(), self.path, options).await;
            let (bytes, meta) = fetched.map_err(|error| ParquetError::External(Box::new(error)))?;
            if self.etag.is_none() || meta.e_tag.as_deref() != self.etag {
                self.is_other.store(true, Ordering::Relaxed);
            }
            Ok(bytes)
        }
        .boxed()
    }
}

/// The metadata of an object of `bytes` bytes, without page indexes.
///
/// # Errors
///
/// [`ParquetError::External`] with the store's error, else the object is not Parquet.
pub async fn fetch(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: u64,
) -> Result<ParquetMetaData, ParquetError> {
    Ok(fetch_checked(store, path, bytes, None).await?.0)
}

/// The same, and whether each answer was of the object that has this etag.
pub(crate) async fn fetch_checked(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: u64,
    etag: Option<&str>,
) -> Result<(ParquetMetaData, bool), ParquetError> {
    let is_other = AtomicBool::new(false);
    let fetch = Fetch {
        store,
        path,
        etag,
        is_other: &is_other,
    };
    let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(TAIL_BYTES));
    let metadata = reader.load_and_finish(fetch, bytes).await?;
    Ok((metadata, !is_other.into_inner()))
}
