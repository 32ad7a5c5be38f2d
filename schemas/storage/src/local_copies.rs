//! Copies of objects on the local disk, by the hash of their bytes: for programs that need files.
//!
//! A local file is used where it lies, after its hash was checked. Everything else is copied into
//! a folder once, under a name that tells its content, so that any number of processes may share
//! the folder and it may be removed at any time. What an object's bytes are is remembered by its
//! URI, size and etag (or time of change), so that one which did not change is not read again. The
//! folder is kept below a number of bytes ([`eviction`]).

mod eviction;
mod identities;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use futures::StreamExt as _;
use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{ContentHash, Failure, FailureKind, Place, SideInput};
use object_store::ObjectStoreExt as _;
use object_store::path::Path as StorePath;

use crate::blocking::BlockingIo;
use crate::read_error::ReadError;

/// The environment variable that names the folder of the copies.
pub const CACHE_VARIABLE: &str = "GLEANER_CACHE";
/// Times that an object is read whose answer was cut.
const TRIES_MAX: u32 = 3;
/// Bytes that are hashed at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Copies of objects in a folder.
#[derive(Debug)]
pub struct LocalCopies {
    folder: PathBuf,
    /// Hashes of local files, by path, size and time of change.
    known: Mutex<HashMap<(PathBuf, u64, SystemTime), ContentHash>>,
    /// Held while something is copied: slots that start together must not copy it twice.
    copying: Mutex<()>,
    /// Bytes that the copies may have together.
    bytes_max: u64,
    /// Tells when a copy was used.
    now: fn() -> SystemTime,
}

impl LocalCopies {
    /// Copies in this folder, which need not exist, of so many bytes at most; `now` tells the time.
    #[must_use]
    pub fn new(folder: PathBuf, bytes_max: u64, now: fn() -> SystemTime) -> Self {
        Self {
            folder,
            known: Mutex::default(),
            copying: Mutex::default(),
            bytes_max,
            now,
        }
    }

    /// Copies in the folder that the environment names: `GLEANER_CACHE`, else below
    /// `XDG_CACHE_HOME`, the home directory, or the directory of temporary files; of as many bytes as
    /// `GLEANER_CACHE_BYTES` says.
    #[must_use]
    pub fn from_env() -> Self {
        let named = |variable: &str| {
            let value = std::env::var_os(variable).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let folder = named(CACHE_VARIABLE)
            .or_else(|| Some(named("XDG_CACHE_HOME")?.join("gleaner")))
            .or_else(|| Some(named("HOME")?.join(".cache/gleaner")))
            .unwrap_or_else(|| std::env::temp_dir().join("gleaner-cache"));
        Self::new(folder, eviction::bytes_max_from_env(), || {
            chrono::Utc::now().into()
        })
    }

    /// Hash and size of an object's bytes.
    ///
    /// # Errors
    ///
    /// Of the reads.
    pub fn identify(&self, io: &BlockingIo, uri: &str) -> Result<(ContentHash, u64), Failure> {
        let Some(path) = local_path(uri) else {
            return self.identify_remote(io, uri);
        };
        let read = || -> io::Result<(ContentHash, u64)> {
            Ok((self.hash_of(&path)?, fs::metadata(&path)?.len()))
        };
        read().map_err(|error| local_failure("read", &path, &error))
    }

    /// A directory that holds these objects under their names.
    ///
    /// # Errors
    ///
    /// Of the reads and of the local disk; permanent if an object has other bytes than it should.
    pub fn directory(
        &self,
        io: &BlockingIo,
        files: &[(&str, &SideInput)],
    ) -> Result<PathBuf, Failure> {
        let _copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut targets = Vec::new();
        for (name, file) in files {
            targets.push((*name, self.path_of(io, file)?));
        }
        // Two directories of the same contents may lie in two places.
        let content = ContentHash::of(format!("{targets:?}").as_bytes());
        let directory = self.folder.join("directories").join(content.to_string());
        if directory.is_dir() {
            return Ok(directory);
        }
        self.link(&directory, &targets)
            .map_err(|error| local_failure("write", &directory, &error))?;
        Ok(directory)
    }

    fn link(&self, directory: &Path, targets: &[(&str, PathBuf)]) -> io::Result<()> {
        let staged = self.staged(directory)?;
        fs::create_dir_all(&staged)?;
        for (name, target) in targets {
            let place = staged.join(name);
            if let Some(folder) = place.parent() {
                fs::create_dir_all(folder)?;
            }
            std::os::unix::fs::symlink(fs::canonicalize(target)?, place)?;
        }
        match fs::rename(&staged, directory) {
            Err(_) if directory.is_dir() => fs::remove_dir_all(&staged),
            renamed => renamed,
        }
    }

    fn path_of(&self, io: &BlockingIo, file: &SideInput) -> Result<PathBuf, Failure> {
        if let Some(path) = local_path(&file.uri) {
            let found = self.hash_of(&path);
            let found = found.map_err(|error| local_failure("read", &path, &error))?;
            return if found == file.content {
                Ok(path)
            } else {
                Err(changed(&file.uri, &file.content))
            };
        }
        let path = self.copy_path(&file.content);
        if path.is_file() {
            self.touch(&path);
            return Ok(path);
        }
        self.copy(io, &file.uri, Some(&file.content))
    }

    fn copy_path(&self, content: &ContentHash) -> PathBuf {
        self.folder.join("objects").join(content.to_string())
    }

    /// Copies an object and returns where the copy lies.
    fn copy(
        &self,
        io: &BlockingIo,
        uri: &str,
        expected: Option<&ContentHash>,
    ) -> Result<PathBuf, Failure> {
        let mut n_tries = 1;
        let (staged, content) = loop {
            match self.download(io, uri) {
                Ok(copied) => break copied,
                Err(Download::Read(error)) if n_tries < TRIES_MAX => {
                    tracing::info!(uri, error = %error_chain(&error), "reading again");
                    n_tries += 1;
                }
                Err(Download::Read(error)) => return Err(error.into_failure(Place::file(uri))),
                Err(Download::Write(path, error)) => {
                    return Err(local_failure("write", &path, &error));
                }
            }
        };
        let path = self.copy_path(&content);
        if let Some(expected) = expected.filter(|expected| **expected != content) {
            let _ = fs::remove_file(&staged);
            return Err(changed(uri, expected));
        }
        fs::rename(&staged, &path).map_err(|error| local_failure("write", &path, &error))?;
        self.touch(&path);
        self.evict();
        Ok(path)
    }

    fn download(&self, io: &BlockingIo, uri: &str) -> Result<(PathBuf, ContentHash), Download> {
        let (store, location) = io.stores.resolve(uri).map_err(Download::Read)?;
        let staged = self
            .staged(&self.folder.join("objects/copy"))
            .map_err(|error| Download::Write(self.folder.clone(), error))?;
        let written = |error| Download::Write(staged.clone(), error);
        // New, or nothing: whoever else writes there writes something else.
        let mut file = File::create_new(&staged).map_err(written)?;
        let mut hasher = blake3::Hasher::new();
        let copied = io.wait(async {
            let location: &StorePath = &location;
            let mut pieces = store.get(location).await?.into_stream();
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                hasher.update(&piece);
                if let Err(error) = file.write_all(&piece) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        });
        match copied {
            Ok(Ok(())) => Ok((staged, ContentHash::of_hash(&hasher.finalize()))),
            Ok(Err(error)) => {
                let _ = fs::remove_file(&staged);
                Err(Download::Write(staged, error))
            }
            Err(error) => {
                let _ = fs::remove_file(&staged);
                Err(Download::Read(ReadError::store(uri, error)))
            }
        }
    }

    /// A name beside `path` that no other process and thread uses.
    fn staged(&self, path: &Path) -> io::Result<PathBuf> {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        // Containers that share the folder may have the same process id.
        let random = RandomState::new().build_hasher().finish();
        Ok(folder.join(format!(
            ".staged-{}-{number}-{random:x}",
            std::process::id()
        )))
    }

    fn hash_of(&self, path: &Path) -> io::Result<ContentHash> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let key = (path.to_owned(), metadata.len(), metadata.modified()?);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = known().get(&key) {
            return Ok(content.clone());
        }
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                n_bytes => hasher.update(&piece[..n_bytes]),
            };
        }
        let content = ContentHash::of_hash(&hasher.finalize());
        known().insert(key, content.clone());
        Ok(content)
    }
}

enum Download {
    Read(ReadError),
    Write(PathBuf, io::Error),
}

fn local_path(uri: &str) -> Option<PathBuf> {
    let url = url::Url::parse(uri).ok()?;
    let is_file = url.scheme() == "file";
    is_file.then(|| url.to_file_path().ok()).flatten()
}

fn changed(uri: &str, content: &ContentHash) -> Failure {
    Failure::new(
        FailureKind::Permanent,
        format!(
            "{uri} has other bytes than when the run was planned (expected hash {content}); run \
             the job again"
        ),
    )
}

/// A disk that is full for one worker may have room in another.
fn local_failure(operation: &str, path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound if operation == "read" => FailureKind::Permanent,
        _ => FailureKind::Transient,
    };
    let help = if operation == "write" {
        format!("; copies of objects lie there, {CACHE_VARIABLE} names another folder")
    } else {
        String::new()
    };
    Failure::new(
        kind,
        format!("cannot {operation} {}: {error}{help}", path.display()),
    )
}

#[cfg(test)]
mod tests;
