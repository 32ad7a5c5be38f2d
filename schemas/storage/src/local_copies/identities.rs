//! What the bytes of remote objects are, remembered by what the store says of them.

use std::fs;

use gleaner_schemas::{ContentHash, Failure, Place};
use object_store::{ObjectMeta, ObjectStoreExt as _};

use super::LocalCopies;
use crate::blocking::BlockingIo;
use crate::read_error::ReadError;

/// Folder of what is remembered: a file for each state of an object that was looked at.
const FOLDER: &str = "identities";

impl LocalCopies {
    /// Hash and size of a remote object; it is read only if the store says that it changed.
    pub(super) fn identify_remote(
        &self,
        io: &BlockingIo,
        uri: &str,
    ) -> Result<(ContentHash, u64), Failure> {
        let failed = |error: ReadError| error.into_failure(Place::file(uri));
        let (store, location) = io.stores.resolve(uri).map_err(failed)?;
        let meta = io.wait(async { store.head(&location).await });
        let meta = meta.map_err(|error| failed(ReadError::store(uri, error)))?;
        let name = ContentHash::of(state_of(uri, &meta).as_bytes());
        let path = self.folder.join(FOLDER).join(name.to_string());
        if let Ok(text) = fs::read_to_string(&path)
            && let Ok(content) = text.trim().parse::<ContentHash>()
        {
            self.touch(&path);
            return Ok((content, meta.size));
        }
        let copy = self.copy(io, uri, None)?;
        let read = || -> std::io::Result<(ContentHash, u64)> {
            Ok((self.hash_of(&copy)?, fs::metadata(&copy)?.len()))
        };
        let (content, bytes) =
            read().map_err(|error| super::local_failure("read", &copy, &error))?;
        // Whoever read while the object changed has other bytes than those that were told of.
        if bytes == meta.size {
            self.remember(&path, &content);
        }
        Ok((content, bytes))
    }

    /// Best effort: what is not remembered is read again.
    fn remember(&self, path: &std::path::Path, content: &ContentHash) {
        let write = || -> std::io::Result<()> {
            let staged = self.staged(path)?;
            fs::write(&staged, content.to_string())?;
            fs::rename(&staged, path)
        };
        if let Err(error) = write() {
            tracing::debug!(path = %path.display(), %error, "cannot be remembered");
        }
    }
}

/// Another text for each state of an object.
fn state_of(uri: &str, meta: &ObjectMeta) -> String {
    let changed = match &meta.e_tag {
        Some(etag) => format!("etag {etag}"),
        None => format!(
            "time {}",
            meta.last_modified.timestamp_nanos_opt().unwrap_or(0)
        ),
    };
    format!("{uri} {} {changed} {:?}", meta.size, meta.version)
}
