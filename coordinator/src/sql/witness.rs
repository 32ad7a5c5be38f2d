//! Stores that remember why they could not be read.
//!
//! On its way through the readers of Parquet an error becomes a text. Whether to try again or to
//! mend the query is told by the error that the store gave.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::common::DataFusionError;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use gleaner_schemas::FailureKind;
use gleaner_storage::StoreError;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The last error of the stores of a session that may be over when it is tried again.
#[derive(Debug, Default)]
pub(crate) struct Witness(Mutex<Option<String>>);

impl Witness {
    fn see(&self, error: &object_store::Error) {
        if StoreError::of(error).kind() == FailureKind::Transient {
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some(error.to_string());
        }
    }

    /// The error, as one of a store if a store's error is in its text.
    pub(crate) fn restored(&self, error: DataFusionError) -> DataFusionError {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = error.to_string();
        match last.as_ref().filter(|last| text.contains(*last)) {
            Some(last) => DataFusionError::ObjectStore(Box::new(object_store::Error::Generic {
                store: "of the query",
                source: last.clone().into(),
            })),
            None => error,
        }
    }
}

/// A store of a session.
#[derive(Debug)]
pub(crate) struct WitnessedStore {
    store: Arc<dyn ObjectStore>,
    witness: Arc<Witness>,
}

impl WitnessedStore {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, witness: Arc<Witness>) -> Self {
        Self { store, witness }
    }

    fn seen<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.witness.see(error))
    }
}

impl fmt::Display for WitnessedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for WitnessedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.seen(self.store.get_opts(location, options).await)?;
        found.payload = match found.payload {
            GetResultPayload::Stream(stream) => {
                let witness = Arc::clone(&self.witness);
                GetResultPayload::Stream(
                    stream
                        .inspect(move |chunk| {
                            if let Err(error) = chunk {
                                witness.see(error);
                            }
                        })
                        .boxed(),
                )
            }
            local => local,
        };
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
