//! A store in memory for tests, in which something happens before each request.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use gleaner_storage::{Output, Stores};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What the store is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Put(Path),
    Get(Path),
    Delete(Path),
    List,
}

type Hook = Arc<dyn Fn(Request) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Asks `hook` before it does anything; what fails there is not done.
pub(crate) struct Hooked {
    store: Arc<InMemory>,
    hook: Hook,
}

impl Hooked {
    /// An output in such a store, and the store without the hook.
    pub(crate) fn output(
        hook: impl Fn(Request) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> (Arc<InMemory>, Output) {
        let store = Arc::new(InMemory::new());
        let output = Self::over(&store, hook);
        (store, output)
    }

    /// An output in a store that is there.
    pub(crate) fn over(
        store: &Arc<InMemory>,
        hook: impl Fn(Request) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Output {
        output_in(Arc::new(Self {
            store: Arc::clone(store),
            hook: Arc::new(hook),
        }))
    }
}

/// The output of all tests, in some store.
pub(crate) fn output_in(store: Arc<dyn ObjectStore>) -> Output {
    let stores = Stores::from_env().with("memory://m", store);
    Output::open(&stores, "memory://m/out").unwrap()
}

/// The error of a store that cannot be reached.
pub(crate) fn broken() -> object_store::Error {
    object_store::Error::Generic {
        store: "hooked",
        source: "the connection was reset".into(),
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl fmt::Display for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hooked")
    }
}

#[async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        (self.hook)(Request::Put(location.clone())).await?;
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        (self.hook)(Request::Put(location.clone())).await?;
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        (self.hook)(Request::Get(location.clone())).await?;
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (store, hook) = (Arc::clone(&self.store), Arc::clone(&self.hook));
        let delete = move |location: Path| {
            let (store, hook) = (Arc::clone(&store), Arc::clone(&hook));
            async move {
                hook(Request::Delete(location.clone())).await?;
                store.delete(&location).await?;
                Ok(location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, hook) = (Arc::clone(&self.store), Arc::clone(&self.hook));
        let prefix = prefix.cloned();
        let listed = async move {
            hook(Request::List).await?;
            let listed: Vec<ObjectMeta> = store.list(prefix.as_ref()).try_collect().await?;
            Ok::<_, object_store::Error>(futures::stream::iter(listed.into_iter().map(Ok)))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        (self.hook)(Request::List).await?;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
