//! Object stores by URI. Credentials come from the environment, under the stores' own names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

use crate::read_error::ReadError;

/// Resolves URIs to stores, one store per scheme and host. Cheap to clone.
#[derive(Clone, Default)]
pub struct Stores {
    known: Arc<Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// Stores that are configured by environment variables (`AWS_ACCESS_KEY_ID`,
    /// `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, ...).
    #[must_use]
    pub fn from_env() -> Self {
        Self::default()
    }

    /// Serves URIs that begin with `scheme://host` from `store`: memory, or a wrapper that adds
    /// faults or limits.
    #[must_use]
    pub fn with(self, scheme_and_host: &str, store: Arc<dyn ObjectStore>) -> Self {
        self.lock().insert(scheme_and_host.to_owned(), store);
        self
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<dyn ObjectStore>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store that serves an absolute URI, and the place in it.
    ///
    /// # Errors
    ///
    /// If the URI is malformed, its scheme unknown, or its store not configured.
    pub fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), ReadError> {
        let refuse = |message: String| ReadError::Uri {
            text: uri.to_owned(),
            message,
        };
        let url = Url::parse(uri).map_err(|error| refuse(error.to_string()))?;
        let path = if url.scheme() == "file" {
            let path = url
                .to_file_path()
                .map_err(|()| refuse("it is not a local path".to_owned()))?;
            Path::from_absolute_path(path).map_err(|error| refuse(error.to_string()))?
        } else {
            Path::from_url_path(url.path()).map_err(|error| refuse(error.to_string()))?
        };
        let key = authority(&url);
        let mut known = self.lock();
        if let Some(store) = known.get(&key) {
            return Ok((Arc::clone(store), path));
        }
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "file" => Arc::new(LocalFileSystem::new()),
            "memory" => return Err(refuse("no such store in memory".to_owned())),
            _ => {
                let options =
                    std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
                // Whoever writes http:// means it; endpoints of other stores ask for
                // `AWS_ALLOW_HTTP` and the like.
                let plain =
                    (url.scheme() == "http").then(|| ("allow_http".to_owned(), "true".to_owned()));
                let options = options.chain(plain);
                let (store, _) = object_store::parse_url_opts(&url, options)
                    .map_err(|error| refuse(error.to_string()))?;
                store.into()
            }
        };
        known.insert(key, Arc::clone(&store));
        Ok((store, path))
    }
}

fn authority(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{}://{host}:{port}", url.scheme()),
        (host, _) => format!("{}://{}", url.scheme(), host.unwrap_or_default()),
    }
}

/// The absolute URI of what a job file or a user names: a URI stays, a local path is taken
/// relative to `base_dir`.
///
/// # Errors
///
/// If it cannot be an absolute path.
pub fn absolute_uri(text: &str, base_dir: &FilePath) -> Result<String, ReadError> {
    if is_uri(text) {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    let path = absolute_path(text, base_dir);
    file_uri(&path)
}

pub(crate) fn is_uri(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '+')
    })
}

/// `base_dir/text` without `.` and `..`. Lexical: what does not exist yet has a path as well.
pub(crate) fn absolute_path(text: &str, base_dir: &FilePath) -> PathBuf {
    let mut path = PathBuf::new();
    for component in base_dir.join(text).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            other => path.push(other),
        }
    }
    path
}

pub(crate) fn file_uri(path: &FilePath) -> Result<String, ReadError> {
    match Url::from_file_path(path) {
        Ok(url) => Ok(url.to_string().trim_end_matches('/').to_owned()),
        Err(()) => Err(ReadError::Uri {
            text: path.display().to_string(),
            message: "it is not an absolute path".to_owned(),
        }),
    }
}

/// The URI of an object of a store other than the local one.
pub(crate) fn object_uri(authority: &str, location: &Path) -> String {
    let mut encoded = String::from(authority);
    encoded.push('/');
    for c in location.as_ref().chars() {
        // What a URL gives a meaning to, and the escape character itself.
        if c.is_ascii_control() || " %?#\"<>`{}|\\^[]".contains(c) {
            encoded.push_str(&format!("%{:02X}", c as u32));
        } else {
            encoded.push(c);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_become_uris_and_back() {
        let uri = absolute_uri("../a b/ü#1%.parquet", FilePath::new("/x/y")).unwrap();
        assert_eq!(uri, "file:///x/a%20b/%C3%BC%231%25.parquet");
        let (_, path) = Stores::from_env().resolve(&uri).unwrap();
        let local = LocalFileSystem::new();
        let back = local.path_to_filesystem(&path).unwrap();
        assert_eq!(back, FilePath::new("/x/a b/ü#1%.parquet"));
    }

    #[test]
    fn uris_stay() {
        let uri = absolute_uri("s3://bucket/run/", FilePath::new("/x")).unwrap();
        assert_eq!(uri, "s3://bucket/run");
    }

    #[test]
    fn object_uris_resolve_to_their_location() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let stores = Stores::from_env().with("memory://m", store);
        for name in ["a/b c.parquet", "100%/x?y#z", "ü"] {
            let location = Path::parse(name).unwrap();
            let uri = object_uri("memory://m", &location);
            assert_eq!(stores.resolve(&uri).unwrap().1, location, "{uri}");
        }
    }

    #[test]
    fn unknown_schemes_are_refused() {
        let message = Stores::from_env()
            .resolve("ftp://host/x")
            .unwrap_err()
            .to_string();
        assert!(message.contains("ftp://host/x"), "{message}");
    }
}
