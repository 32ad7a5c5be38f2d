//! A store whose objects must still be the ones that somebody saw: a file of the corpus that
//! changed under a version is an error, never a mixed result.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Reads of the objects in `etags` succeed only while they have these etags. Nothing is written.
#[derive(Debug)]
pub(crate) struct PinnedStore {
    store: Arc<dyn ObjectStore>,
    etags: HashMap<Path, String>,
}

impl PinnedStore {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, etags: HashMap<Path, String>) -> Self {
        Self { store, etags }
    }
}

impl fmt::Display for PinnedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

const READ_ONLY: object_store::Error = object_store::Error::NotImplemented {
    operation: String::new(),
    implementer: String::new(),
};

#[async_trait]
impl ObjectStore for PinnedStore {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(READ_ONLY)
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(READ_ONLY)
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        if let Some(etag) = self.etags.get(location) {
            options.if_match = Some(etag.clone());
        }
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        Box::pin(futures::stream::once(async { Err(READ_ONLY) }))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(READ_ONLY)
    }
}
