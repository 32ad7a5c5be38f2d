//! Metadata of Parquet objects, fetched from their end.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

/// Bytes fetched from the end of an object; most footers fit, and then one request is enough.
const TAIL_BYTES: usize = 64 << 10;

struct Fetch<'a> {
    store: &'a Arc<dyn ObjectStore>,
    path: &'a Path,
}

impl MetadataFetch for Fetch<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            self.store
                .get_range(self.path, range)
                .await
                .map_err(|error| ParquetError::External(Box::new(error)))
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
    ParquetMetaDataReader::new()
        .with_prefetch_hint(Some(TAIL_BYTES))
        .load_and_finish(Fetch { store, path }, bytes)
        .await
}
