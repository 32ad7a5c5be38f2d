//! From what people write to absolute URIs, and from objects back to them.

use std::path::{Component, Path as FilePath, PathBuf};

use object_store::path::Path;
use url::Url;

use super::check_no_secret;
use crate::read_error::ReadError;

/// The absolute URI of what a job file or a user names: a URI stays, a local path is taken
/// relative to `base_dir`.
///
/// # Errors
///
/// If it cannot be an absolute path.
pub fn absolute_uri(text: &str, base_dir: &FilePath) -> Result<String, ReadError> {
    if is_uri(text) {
        check_no_secret(text)?;
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
        Err(()) => Err(ReadError::uri(
            &path.display().to_string(),
            "it is not an absolute path".to_owned(),
        )),
    }
}

/// The URI of an object of a store other than the local one.
pub(crate) fn object_uri(authority: &str, location: &Path) -> String {
    format!("{authority}/{}", encoded(location))
}

/// A location as the path of a URI, without a slash before it.
pub(crate) fn encoded(location: &Path) -> String {
    let mut encoded = String::with_capacity(location.as_ref().len());
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
