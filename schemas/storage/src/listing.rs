//! From the paths of a job file to the files that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::sync::Arc;

use futures::TryStreamExt as _;
use gleaner_schemas::{FileFormat, SourceFile};
use globset::{GlobBuilder, GlobMatcher};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};

use crate::read_error::ReadError;
use crate::redact::redact;
use crate::store_error::is_missing;
use crate::stores::{Stores, absolute_path, check_no_secret, file_uri, is_uri, object_uri};

/// The files that patterns match, by name, without repetition.
///
/// A pattern is a file, a folder (all files in it with a known ending), or has `*`, `?`, `[...]`,
/// `{a,b}` or `**`. Files and folders whose name begins with `_` or `.` are left out unless the
/// pattern spells them. Over HTTP nothing can be listed: a pattern is one file.
///
/// # Errors
///
/// If a pattern matches nothing or cannot be listed.
pub async fn list_sources(
    stores: &Stores,
    patterns: &[String],
    base_dir: &FilePath,
) -> Result<Vec<SourceFile>, ReadError> {
    let mut files: BTreeMap<String, SourceFile> = BTreeMap::new();
    let mut uris: BTreeSet<String> = BTreeSet::new();
    for pattern in patterns {
        let found = Pattern::parse(stores, pattern, base_dir)?.list().await?;
        let n_found = found.len();
        for file in found {
            // Two patterns that match one file name it once, whichever way they spell it.
            check_regular(&file)?;
            if uris.insert(file.uri.clone()) {
                files.insert(file.name.clone(), file);
            }
        }
        if n_found == 0 {
            let pattern_parts = split(pattern);
            return Err(ReadError::NoMatch {
                pattern: pattern.clone(),
                folder: if is_uri(pattern) {
                    pattern_parts.0.to_owned()
                } else {
                    absolute_path(pattern_parts.0, base_dir)
                        .display()
                        .to_string()
                },
            });
        }
    }
    Ok(files.into_values().collect())
}

/// Refuses what is no file: to open a pipe waits for a writer, maybe for ever.
fn check_regular(file: &SourceFile) -> Result<(), ReadError> {
    let path = url::Url::parse(&file.uri)
        .ok()
        .filter(|url| url.scheme() == "file")
        .and_then(|url| url.to_file_path().ok());
    match path.map(std::fs::metadata) {
        Some(Ok(meta)) if !meta.is_file() => Err(not_regular(&file.name)),
        // What cannot be looked at fails where it is read, with its reason.
        _ => Ok(()),
    }
}

fn not_regular(name: &str) -> ReadError {
    ReadError::Uri {
        text: name.to_owned(),
        message: "it is not a regular file".to_owned(),
    }
}

/// The folder part before the first wildcard, with its slash, and the rest.
fn split(pattern: &str) -> (&str, &str) {
    let wildcard = pattern.find(['*', '?', '[', '{']);
    let literal = &pattern[..wildcard.unwrap_or(pattern.len())];
    match literal.rfind('/') {
        Some(slash) => pattern.split_at(slash + 1),
        None => ("", pattern),
    }
}

struct Pattern<'a> {
    text: &'a str,
    store: Arc<dyn ObjectStore>,
    /// `scheme://host` for stores other than the local one.
    authority: Option<String>,
    folder_text: &'a str,
    folder: Path,
    rest: &'a str,
}

impl<'a> Pattern<'a> {
    fn parse(stores: &Stores, text: &'a str, base_dir: &FilePath) -> Result<Self, ReadError> {
        check_no_secret(text)?;
        let (folder_text, rest) = split(text);
        if !is_uri(text) {
            let uri = file_uri(&absolute_path(folder_text, base_dir))?;
            let (store, folder) = stores.resolve(&uri)?;
            return Ok(Self {
                text,
                store,
                authority: None,
                folder_text,
                folder,
                rest,
            });
        }
        let (scheme, after) = text.split_once("://").unwrap_or(("", text));
        let host = after.split('/').next().unwrap_or(after);
        let authority = format!("{scheme}://{host}");
        let (store, _) = stores.resolve(&authority)?;
        let folder = folder_text.strip_prefix(&authority).unwrap_or_default();
        Ok(Self {
            text,
            store,
            authority: (scheme != "file").then_some(authority),
            folder_text,
            folder: Path::parse(folder.trim_matches('/'))
                .map_err(|error| ReadError::uri(text, error.to_string()))?,
            rest,
        })
    }

    async fn list(&self) -> Result<Vec<SourceFile>, ReadError> {
        let has_wildcard = self.rest.contains(['*', '?', '[', '{']);
        let is_http = self
            .authority
            .as_deref()
            .is_some_and(|authority| authority.starts_with("http"));
        if is_http && has_wildcard {
            return Err(self.not_listable("is a pattern"));
        }
        if has_wildcard {
            return self.glob().await;
        }
        if !self.rest.is_empty() {
            let location = self.folder.clone().join(self.rest);
            self.check_before_opening(&location)?;
            match self.store.head(&location).await {
                Ok(meta) => return Ok(vec![self.source(self.text.to_owned(), meta)?]),
                Err(error) if !is_http && is_missing(&error) => {}
                // The local store says so of a folder.
                Err(_) if self.is_local_folder(&location) => {}
                Err(error) => return Err(ReadError::store(self.text, error)),
            }
        }
        if is_http {
            return Err(self.not_listable("is a folder"));
        }
        self.folder_files().await
    }

    fn not_listable(&self, what: &'static str) -> ReadError {
        ReadError::NotListable {
            text: redact(self.text),
            what,
        }
    }

    fn local_meta(&self, location: &Path) -> Option<std::fs::Metadata> {
        if self.authority.is_some() {
            return None;
        }
        let path = LocalFileSystem::new().path_to_filesystem(location).ok()?;
        std::fs::metadata(path).ok()
    }

    fn is_local_folder(&self, location: &Path) -> bool {
        self.local_meta(location).is_some_and(|meta| meta.is_dir())
    }

    /// The local store opens a file to look at it, and a pipe waits for its writer.
    fn check_before_opening(&self, location: &Path) -> Result<(), ReadError> {
        match self.local_meta(location) {
            Some(meta) if !meta.is_file() && !meta.is_dir() => Err(not_regular(self.text)),
            _ => Ok(()),
        }
    }

    async fn folder_files(&self) -> Result<Vec<SourceFile>, ReadError> {
        let folder = match self.rest {
            "" => self.folder.clone(),
            rest => self.folder.clone().join(rest),
        };
        let mut files = Vec::new();
        for (rest, meta) in self.list_folder(&folder, true).await? {
            let name = format!("{}/{rest}", self.text.trim_end_matches('/'));
            if !is_hidden(&rest) && FileFormat::of_name(&rest).is_some() {
                files.push(self.source(name, meta)?);
            }
        }
        Ok(files)
    }

    async fn glob(&self) -> Result<Vec<SourceFile>, ReadError> {
        let matcher = self.matcher()?;
        let is_deep = self.rest.contains('/') || self.rest.contains("**");
        let spells_hidden = is_hidden(self.rest);
        let mut files = Vec::new();
        for (rest, meta) in self.list_folder(&self.folder, is_deep).await? {
            if matcher.is_match(&rest) && (spells_hidden || !is_hidden(&rest)) {
                files.push(self.source(format!("{}{rest}", self.folder_text), meta)?);
            }
        }
        Ok(files)
    }

    fn matcher(&self) -> Result<GlobMatcher, ReadError> {
        GlobBuilder::new(self.rest)
            .literal_separator(true)
            .build()
            .map(|glob| glob.compile_matcher())
            .map_err(|error| ReadError::uri(self.text, error.to_string()))
    }

    /// Objects below a folder, with their path within it.
    async fn list_folder(
        &self,
        folder: &Path,
        is_deep: bool,
    ) -> Result<Vec<(String, ObjectMeta)>, ReadError> {
        let listed: Result<Vec<ObjectMeta>, _> = if is_deep {
            self.store.list(Some(folder)).try_collect().await
        } else {
            let listed = self.store.list_with_delimiter(Some(folder)).await;
            listed.map(|listed| listed.objects)
        };
        let metas = match listed {
            Ok(metas) => metas,
            Err(error) if is_missing(&error) => Vec::new(),
            Err(error) => return Err(ReadError::store(self.text, error)),
        };
        Ok(metas
            .into_iter()
            .filter_map(|meta| {
                let location = self.decoded(&meta.location);
                let rest = location
                    .strip_prefix(&self.decoded(folder))?
                    .trim_start_matches('/')
                    .to_owned();
                Some((rest, meta))
            })
            .collect())
    }

    /// The local store percent-encodes what its paths cannot hold; names are as people know them.
    fn decoded(&self, location: &Path) -> String {
        if self.authority.is_some() {
            return location.as_ref().to_owned();
        }
        LocalFileSystem::new()
            .path_to_filesystem(location)
            .map(|path| path.display().to_string())
            .unwrap_or_else(|_| location.to_string())
    }

    fn source(&self, name: String, meta: ObjectMeta) -> Result<SourceFile, ReadError> {
        let format =
            FileFormat::of_name(&name).ok_or_else(|| ReadError::Format { name: name.clone() })?;
        let uri = match &self.authority {
            Some(authority) => object_uri(authority, &meta.location),
            None => {
                let path = LocalFileSystem::new()
                    .path_to_filesystem(&meta.location)
                    .map_err(|error| ReadError::store(&name, error))?;
                file_uri(&path)?
            }
        };
        let version = match &meta.e_tag {
            Some(etag) => etag.clone(),
            None => meta.last_modified.timestamp_micros().to_string(),
        };
        let mut identity = format!("{uri}|{}|{version}", meta.size);
        // A corpus may have a million files, and these stay in memory for as long as the run.
        identity.shrink_to_fit();
        Ok(SourceFile {
            identity,
            name,
            uri,
            format,
            bytes: meta.size,
            etag: meta.e_tag,
        })
    }
}

fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with(['_', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn names(patterns: &[&str], base_dir: &FilePath) -> Result<Vec<String>, ReadError> {
        let patterns: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
        let files = list_sources(&Stores::from_env(), &patterns, base_dir).await?;
        Ok(files.into_iter().map(|file| file.name).collect())
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn globs_folders_and_files() {
        let dir = folder(&[
            "a/1.parquet",
            "a/2.jsonl.gz",
            "a/b/3.parquet",
            "a/_gleaner/4.parquet",
            "a/notes.txt",
            "a/ü #1%.parquet",
        ]);
        let base = dir.path();
        let list = |pattern: &'static str| async move { names(&[pattern], base).await.unwrap() };
        assert_eq!(
            list("a/*.parquet").await,
            ["a/1.parquet", "a/ü #1%.parquet"]
        );
        assert_eq!(list("a/**/*.parquet").await.len(), 3);
        assert_eq!(list("./a/{1,9}.parquet").await, ["./a/1.parquet"]);
        assert_eq!(
            list("a").await,
            [
                "a/1.parquet",
                "a/2.jsonl.gz",
                "a/b/3.parquet",
                "a/ü #1%.parquet"
            ]
        );
        assert_eq!(list("a/1.parquet").await, ["a/1.parquet"]);
        assert_eq!(list("a/_gleaner/*.parquet").await, ["a/_gleaner/4.parquet"]);
    }

    #[tokio::test]
    async fn a_file_is_named_once_and_can_be_opened() {
        let dir = folder(&["a/1.parquet", "a/ü #1%.parquet"]);
        let all = names(&["a/1.parquet", "a/*.parquet"], dir.path())
            .await
            .unwrap();
        assert_eq!(all, ["a/1.parquet", "a/ü #1%.parquet"]);
        let patterns = ["a/*.parquet".to_owned()];
        let stores = Stores::from_env();
        for file in list_sources(&stores, &patterns, dir.path()).await.unwrap() {
            let (store, path) = stores.resolve(&file.uri).unwrap();
            assert_eq!(store.head(&path).await.unwrap().size, file.bytes);
        }
    }

    #[tokio::test]
    async fn nothing_found_tells_where_it_looked() {
        let dir = folder(&["a/1.txt"]);
        let error = names(&["b/*.parquet"], dir.path())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("no file matches b/*.parquet (looked in /"),
            "{error}"
        );
        assert!(names(&["a"], dir.path()).await.is_err());
        let error = names(&["a/1.txt"], dir.path())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(".jsonl.zst"), "{error}");
    }

    #[tokio::test]
    async fn stores_other_than_local() {
        let store = Arc::new(object_store::memory::InMemory::new());
        for key in ["x/a b.parquet", "x/y/c.parquet"] {
            store
                .put(&Path::parse(key).unwrap(), "1".into())
                .await
                .unwrap();
        }
        let stores = Stores::from_env().with("memory://m", store);
        let patterns = ["memory://m/x/**/*.parquet".to_owned()];
        let files = list_sources(&stores, &patterns, FilePath::new("/"))
            .await
            .unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["memory://m/x/a b.parquet", "memory://m/x/y/c.parquet"]
        );
        assert_eq!(files[0].uri, "memory://m/x/a%20b.parquet");
    }
}
