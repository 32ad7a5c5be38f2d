//! The commit protocol's side of the store: put-if-absent, attempts, manifests, versions.
//!
//! Workers only ever put objects under names that nobody else has. Whatever must exist once
//! (plans, manifests, versions) goes through [`Output::create`], the only arbitration in the
//! system: whoever comes second reads what is stored and goes on with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_schemas::TaskId;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fetch::{fetch, fetch_dated};
use crate::lasting::LocalFolder;
use crate::output_error::{CREATE, WRITE, is_refused};
use crate::redact::redact;
use crate::store_error::is_missing;
use crate::stores::{Stores, encoded};
use crate::{staged, upload};

pub use crate::listed::{ListedAttempt, ListedObject};
pub use crate::output_error::OutputError;

/// The outcome of a put-if-absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The object is ours, or somebody stored the very same bytes.
    Stored,
    /// Somebody else's object is there; these are its bytes.
    Exists(Bytes),
}

/// An output: a folder in some store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Output {
    uri: Arc<str>,
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// Where it is a local directory.
    local: Option<Arc<LocalFolder>>,
}

impl Output {
    /// The output at an absolute URI.
    ///
    /// # Errors
    ///
    /// If no store serves the URI.
    pub fn open(stores: &Stores, uri: &str) -> Result<Self, OutputError> {
        let uri = uri.trim_end_matches('/');
        let (store, root) = stores.resolve(uri).map_err(|error| OutputError::Uri {
            uri: redact(uri),
            message: gleaner_schemas::failure::error_chain(&error),
        })?;
        let local = url::Url::parse(uri)
            .ok()
            .filter(|url| url.scheme() == "file");
        let local = local.and_then(|url| url.to_file_path().ok());
        Ok(Self {
            uri: uri.into(),
            store,
            root,
            local: local.map(|root| Arc::new(LocalFolder::new(root))),
        })
    }

    /// The URI of the output, without a slash at its end.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The absolute URI of one of its objects.
    #[must_use]
    pub fn uri_of(&self, key: &str) -> String {
        let location = location(&Path::ROOT, key);
        format!("{}/{}", self.uri, encoded(&location))
    }

    /// The store that it lies in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The place of a key in the store: below the output, whatever the key is.
    #[must_use]
    pub fn path_of(&self, key: &str) -> Path {
        location(&self.root, key)
    }

    fn key_of(&self, path: &Path) -> Option<String> {
        let parts: Vec<_> = path.prefix_match(&self.root)?.collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        Some(parts.join("/"))
    }

    fn store_error(
        &self,
        operation: &'static str,
        key: &str,
        source: object_store::Error,
    ) -> OutputError {
        OutputError::Store {
            operation,
            uri: self.uri_of(key),
            source: source.into(),
        }
    }

    /// Puts an object under a name that nobody else uses.
    ///
    /// # Errors
    ///
    /// Of the store. The object may be there all the same.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), OutputError> {
        let path = self.path_of(key);
        let put = upload::put(self.store.as_ref(), &path, bytes).await;
        put.map_err(|source| self.store_error(WRITE, key, source))
    }

    /// Puts an object unless there is one: of several callers exactly one's bytes are kept, and
    /// all of them learn which. After an error nothing is known but what is stored, so that is
    /// read and compared.
    ///
    /// # Errors
    ///
    /// Of the store, when it is not known whose object is there, or whether one is.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, OutputError> {
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let payload = PutPayload::from_bytes(bytes.clone());
        let put = self
            .store
            .put_opts(&self.path_of(key), payload, options)
            .await;
        let Err(error) = put else {
            return Ok(Created::Stored);
        };
        match self.get(key).await {
            Ok(Some(stored)) if stored == bytes => Ok(Created::Stored),
            Ok(Some(stored)) => Ok(Created::Exists(stored)),
            Ok(None) => Err(self.store_error(CREATE, key, error)),
            // Where nothing can be put, that nothing can be read either tells less.
            Err(_) if is_refused(&error) => Err(self.store_error(CREATE, key, error)),
            Err(unknown) => Err(unknown),
        }
    }

    /// The bytes of an object, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, OutputError> {
        let path = self.path_of(key);
        match fetch(self.store.as_ref(), &path, GetOptions::default()).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(source) => Err(self.store_error("read", key, source)),
        }
    }

    /// The same with the time at which the object was put, by the store's clock: milliseconds since
    /// 1970.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn get_dated(&self, key: &str) -> Result<Option<(Bytes, i64)>, OutputError> {
        let path = self.path_of(key);
        match fetch_dated(self.store.as_ref(), &path, GetOptions::default()).await {
            Ok(dated) => Ok(Some(dated)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(source) => Err(self.store_error("read", key, source)),
        }
    }

    /// Removes an object; no error if there is none.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn delete(&self, key: &str) -> Result<(), OutputError> {
        match self.store.delete(&self.path_of(key)).await {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(source) => Err(self.store_error("delete", key, source)),
        }
    }

    /// Removes files that writers which were killed left half-written in a local directory, if
    /// nobody wrote to them for `age`. They are no objects: listings do not show them. Returns how
    /// many were removed; on other stores a bucket rule expires unfinished uploads.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub async fn remove_staged(&self, age: Duration) -> Result<u64, OutputError> {
        let Some(local) = &self.local else {
            return Ok(0);
        };
        let root = local.root().to_owned();
        let removed = tokio::task::spawn_blocking(move || staged::remove_below(&root, age)).await;
        removed
            .map_err(std::io::Error::other)
            .and_then(|removed| removed)
            .map_err(|error| self.file_system_error("clean up", error))
    }

    /// Returns once everything that was put before survives a loss of power. A store that is not a
    /// local directory promises that of each put.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub async fn settle(&self) -> Result<(), OutputError> {
        let Some(local) = &self.local else {
            return Ok(());
        };
        let settled = local.settle().await;
        settled.map_err(|error| self.file_system_error("make durable what was written to", error))
    }

    fn file_system_error(&self, operation: &'static str, error: std::io::Error) -> OutputError {
        let source = object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(error),
        };
        self.store_error(operation, "", source)
    }

    /// All objects below a folder; an empty text is the whole output.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn list(&self, folder: &str) -> Result<Vec<ListedObject>, OutputError> {
        let prefix = if folder.is_empty() {
            self.root.clone()
        } else {
            self.path_of(folder)
        };
        let listed = self
            .store
            .list(Some(&prefix))
            .map_ok(|meta| self.listed(&meta))
            .try_filter_map(|object| async move { Ok(object) })
            .try_collect()
            .await;
        match listed {
            Ok(objects) => Ok(objects),
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            Err(source) => Err(self.store_error("list", folder, source)),
        }
    }

    /// The folders right below a folder, and the objects right in it.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn children(
        &self,
        folder: &str,
    ) -> Result<(Vec<String>, Vec<ListedObject>), OutputError> {
        let prefix = self.path_of(folder);
        let listed = match self.store.list_with_delimiter(Some(&prefix)).await {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(Default::default()),
            Err(source) => return Err(self.store_error("list", folder, source)),
        };
        let folders = listed.common_prefixes.iter();
        let folders = folders.filter_map(|path| self.key_of(path)).collect();
        let objects = listed.objects.iter();
        let objects = objects.filter_map(|meta| self.listed(meta)).collect();
        Ok((folders, objects))
    }

    fn listed(&self, meta: &object_store::ObjectMeta) -> Option<ListedObject> {
        Some(ListedObject {
            path: self.key_of(&meta.location)?,
            bytes: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
        })
    }

    /// The attempts whose objects lie below a folder, by task, smallest attempt id first.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn attempts(
        &self,
        folder: &str,
    ) -> Result<BTreeMap<TaskId, Vec<ListedAttempt>>, OutputError> {
        Ok(ListedAttempt::by_task(self.list(folder).await?))
    }

    /// Reads an object as JSON.
    ///
    /// # Errors
    ///
    /// Of the store, or if the object is not of this type.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, OutputError> {
        match self.get(key).await? {
            Some(bytes) => Ok(Some(self.parse_json(key, expected, &bytes)?)),
            None => Ok(None),
        }
    }

    /// The bytes of an object as JSON.
    ///
    /// # Errors
    ///
    /// If it is not of this type.
    pub fn parse_json<T: DeserializeOwned>(
        &self,
        key: &str,
        expected: &'static str,
        bytes: &[u8],
    ) -> Result<T, OutputError> {
        serde_json::from_slice(bytes).map_err(|error| OutputError::Malformed {
            uri: self.uri_of(key),
            expected,
            message: if bytes.is_empty() {
                "it is empty, as a loss of power leaves files of a local directory: remove it, and \
                 run again"
                    .to_owned()
            } else {
                error.to_string()
            },
        })
    }

    /// Puts a value as JSON unless there is one, and returns the value that is stored.
    ///
    /// # Errors
    ///
    /// As [`Output::create`], or if what is stored is not of this type.
    pub async fn create_json<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        expected: &'static str,
        value: T,
    ) -> Result<T, OutputError> {
        match self
            .create(key, self.to_json(key, expected, &value)?)
            .await?
        {
            Created::Stored => Ok(value),
            Created::Exists(bytes) => self.parse_json(key, expected, &bytes),
        }
    }

    /// Puts a value as JSON over what is there. For copies and journals only.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn put_json<T: Serialize>(
        &self,
        key: &str,
        expected: &'static str,
        value: &T,
    ) -> Result<(), OutputError> {
        self.put(key, self.to_json(key, expected, value)?).await
    }

    pub(crate) fn to_json<T: Serialize>(
        &self,
        key: &str,
        expected: &'static str,
        value: &T,
    ) -> Result<Bytes, OutputError> {
        let mut bytes =
            serde_json::to_vec_pretty(value).map_err(|error| OutputError::Malformed {
                uri: self.uri_of(key),
                expected,
                message: error.to_string(),
            })?;
        bytes.push(b'\n');
        Ok(bytes.into())
    }

    /// Runs `operation` over keys, at most `concurrency` at a time, in order.
    ///
    /// # Errors
    ///
    /// The first error.
    pub async fn map_concurrently<K, T, F, Fut>(
        keys: Vec<K>,
        concurrency: usize,
        operation: F,
    ) -> Result<Vec<T>, OutputError>
    where
        F: FnMut(K) -> Fut,
        Fut: Future<Output = Result<T, OutputError>>,
    {
        futures::stream::iter(keys)
            .map(operation)
            .buffered(concurrency)
            .try_collect()
            .await
    }
}

/// `root/key`. Parts that would climb or that stores give a meaning to are encoded.
fn location(root: &Path, key: &str) -> Path {
    key.split('/')
        .filter(|part| !part.is_empty())
        .fold(root.clone(), |path, part| path.join(part))
}
