//! A store in memory some of whose operations wait, or fail, until a test lets them go on.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::TimeDelta;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Get,
    Put,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Passes,
    Waits,
    Fails,
}

#[derive(Debug)]
struct Rule {
    operation: Operation,
    folder: &'static str,
    effect: Effect,
    reached: Semaphore,
    is_over: CancellationToken,
}

#[derive(Debug, Default)]
pub(super) struct HeldStore {
    store: InMemory,
    rules: Mutex<Vec<Arc<Rule>>>,
    /// Folders whose objects are told to be older than they are.
    aged: Mutex<Vec<(&'static str, TimeDelta)>>,
}

/// Ends when it is dropped.
pub(super) struct Held(Arc<Rule>);

impl Held {
    /// Waits until so many operations have come upon it since this was asked last.
    pub(super) async fn reached(&self, n: u32) {
        self.0.reached.acquire_many(n).await.unwrap().forget();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.is_over.cancel();
    }
}

impl HeldStore {
    fn rule(&self, operation: Operation, folder: &'static str, effect: Effect) -> Held {
        let rule = Arc::new(Rule {
            operation,
            folder,
            effect,
            reached: Semaphore::new(0),
            is_over: CancellationToken::new(),
        });
        self.rules.lock().unwrap().push(Arc::clone(&rule));
        Held(rule)
    }

    /// Operations on objects of a folder are counted.
    pub(super) fn watch(&self, operation: Operation, folder: &'static str) -> Held {
        self.rule(operation, folder, Effect::Passes)
    }

    /// Operations on objects of a folder wait, before they do anything, until this is dropped.
    pub(super) fn hold(&self, operation: Operation, folder: &'static str) -> Held {
        self.rule(operation, folder, Effect::Waits)
    }

    /// They fail, and do nothing, until this is dropped.
    pub(super) fn fail(&self, operation: Operation, folder: &'static str) -> Held {
        self.rule(operation, folder, Effect::Fails)
    }

    /// The objects of a folder are told to be older by this than they are.
    pub(super) fn age(&self, folder: &'static str, by: TimeDelta) {
        self.aged.lock().unwrap().push((folder, by));
    }

    async fn come_upon(&self, operation: Operation, location: &Path) -> Result<()> {
        let rules: Vec<_> = self.rules.lock().unwrap().clone();
        for rule in rules {
            let is_meant = rule.operation == operation && location.as_ref().contains(rule.folder);
            if !is_meant || rule.is_over.is_cancelled() {
                continue;
            }
            rule.reached.add_permits(1);
            match rule.effect {
                Effect::Passes => {}
                Effect::Waits => rule.is_over.cancelled().await,
                Effect::Fails => {
                    return Err(object_store::Error::Generic {
                        store: "held",
                        source: "the connection was reset".into(),
                    });
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for HeldStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("held")
    }
}

#[async_trait]
impl ObjectStore for HeldStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.come_upon(Operation::Put, location).await?;
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
        self.come_upon(Operation::Get, location).await?;
        let mut answer = self.store.get_opts(location, options).await?;
        for (folder, by) in self.aged.lock().unwrap().iter() {
            if location.as_ref().contains(folder) {
                answer.meta.last_modified -= *by;
            }
        }
        Ok(answer)
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
