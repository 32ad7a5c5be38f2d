//! Object stores by URI. Credentials come from the environment, under the stores' own names.
//!
//! [`Stores::resolve`] finds or builds the store of a URI; `build` knows the schemes, `settings`
//! the environment, and `connector` watches every request.

mod answer;
mod body;
mod build;
mod connector;
mod limit;
mod settings;
mod silence;
mod uri;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use url::Url;

pub(crate) use answer::Refusal;
pub use connector::n_throttled;
use settings::Settings;
use silence::Silence;
pub use uri::absolute_uri;
pub(crate) use uri::{absolute_path, encoded, file_uri, is_uri, object_uri};

use crate::read_error::ReadError;
use crate::redact;

/// Resolves URIs to stores, one store per scheme and host. Cheap to clone.
#[derive(Clone, Default)]
pub struct Stores {
    known: Arc<Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>>,
    silences: Arc<Mutex<Vec<Arc<Silence>>>>,
    settings: Arc<Settings>,
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
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::from_variables(variables)
    }

    /// Stores that are configured by these variables instead of those of the environment.
    #[must_use]
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            known: Arc::default(),
            silences: Arc::default(),
            settings: Arc::new(Settings::new(variables.into_iter())),
        }
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
    /// If the URI is malformed, holds credentials, its scheme is unknown, or its store not
    /// configured.
    pub fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), ReadError> {
        let refuse = |message: String| ReadError::uri(uri, message);
        check_no_secret(uri)?;
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
        if url.scheme() == "memory" {
            return Err(refuse("no such store in memory".to_owned()));
        }
        let silence = Silence::new(key.clone());
        let store = build::build(&url, &key, &self.settings, &silence).map_err(refuse)?;
        known.insert(key, Arc::clone(&store));
        let mut silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        silences.push(silence);
        Ok((store, path))
    }

    /// What is to be said of a store that has been asked and has not answered for so long, if there
    /// is one: whoever waits for it is not slow himself.
    #[must_use]
    pub fn silent_for(&self, span: Duration) -> Option<String> {
        let silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        silences.iter().find_map(|silence| silence.lasts(span))
    }
}

/// Refuses URIs that would show a credential wherever they are shown, and the parameters of HTTP,
/// which no request would carry.
pub(crate) fn check_no_secret(uri: &str) -> Result<(), ReadError> {
    if !is_uri(uri) {
        return Ok(());
    }
    let shown = redact::redact(uri);
    let has_secret = redact::has_credentials(uri) || shown != uri;
    let (before, query) = uri.split_once('?').unwrap_or((uri, ""));
    // Elsewhere `?` is a wildcard, and `=` may be in any name.
    let has_parameters = uri.starts_with("http") && query.contains('=');
    if has_parameters || has_secret {
        return Err(ReadError::Secret {
            text: match has_parameters {
                true => format!("{}?...", redact::redact(before)),
                false => shown,
            },
        });
    }
    Ok(())
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let scheme = url.scheme();
    let container = match url.username() {
        "" => String::new(),
        container => format!("{container}@"),
    };
    match url.port() {
        Some(port) => format!("{scheme}://{container}{host}:{port}"),
        None => format!("{scheme}://{container}{host}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;

    use object_store::local::LocalFileSystem;

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

    #[test]
    fn credentials_in_uris_are_refused_and_not_repeated() {
        let stores = Stores::from_variables([]);
        let uris = [
            "https://user:hunter2@host/x.parquet",
            "s3://AKIA:hunter2@bucket/run",
            "https://host/x.parquet?X-Amz-Signature=hunter2",
            "az://c/x?sv=1&sig=hunter2",
        ];
        for uri in uris {
            let messages = [
                stores.resolve(uri).unwrap_err().to_string(),
                absolute_uri(uri, FilePath::new("/"))
                    .unwrap_err()
                    .to_string(),
            ];
            for message in messages {
                assert!(message.contains("environment"), "{message}");
                assert!(!message.contains("hunter2"), "{message}");
            }
        }
    }

    #[test]
    fn wildcards_and_names_with_signs_are_no_credentials() {
        for uri in [
            "s3://b/?/date=1/x*.parquet",
            "s3://b/design=a/x",
            "https://h/x?y",
        ] {
            assert!(check_no_secret(uri).is_ok(), "{uri}");
        }
    }

    #[test]
    fn each_scheme_has_its_store_and_its_settings() {
        let account = [
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AWS_REGION", "eu-west-1"),
            ("GOOGLE_SKIP_SIGNATURE", "true"),
        ];
        let variables = account.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let stores = Stores::from_variables(variables);
        let cases = [
            ("s3://b/k/x", "AmazonS3(b)", "k/x"),
            ("gs://b/k", "GoogleCloudStorage(b)", "k"),
            ("az://c/k", "account: account, container: c", "k"),
            (
                "abfss://c@other.dfs.core.windows.net/k",
                "account: other, container: c",
                "k",
            ),
            (
                "abfss://d@other.dfs.core.windows.net/k",
                "account: other, container: d",
                "k",
            ),
            ("https://h:8080/k", "HttpStore", "k"),
            ("http://h/k", "HttpStore", "k"),
            ("file:///k", "LocalFileSystem", "k"),
        ];
        for (uri, name, location) in cases {
            let (store, path) = stores.resolve(uri).unwrap();
            assert!(store.to_string().contains(name), "{uri}: {store}");
            assert_eq!(path.as_ref(), location, "{uri}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_name() {
        let cases = [
            ("AWS_CA_BUNDLE", "/no/such/file"),
            ("SSL_CERT_FILE", "/no/such/file"),
            ("GLEANER_STORE_TIMEOUT_SECONDS", "soon"),
        ];
        for (name, value) in cases {
            let stores = Stores::from_variables([(name.to_owned(), value.to_owned())]);
            let message = stores.resolve("s3://b/k").unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn paths_that_climb_stay_in_their_store() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let stores = Stores::from_env().with("memory://m", store);
        for uri in [
            "memory://m/a/../../b",
            "memory://m/%2e%2e/b",
            "memory://m/a/%2E%2E/b",
        ] {
            assert_eq!(stores.resolve(uri).unwrap().1.as_ref(), "b", "{uri}");
        }
        for uri in [
            "memory://m/a%2F..%2Fb",
            "memory://m/a%2F%2Fb",
            "memory://m/a%00b",
        ] {
            assert!(stores.resolve(uri).is_err(), "{uri}");
        }
    }
}
