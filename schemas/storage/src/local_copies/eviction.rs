//! Which copies go when there are too many: those that nobody used for the longest time. Several
//! processes may share the folder; a copy that was used within [`IN_USE`] stays, since a process may
//! be about to open it. One that goes while a process reads it is read to its end all the same.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gleaner_schemas::units::ByteSize;

use super::LocalCopies;

/// The environment variable that bounds the bytes of the copies, such as `20GiB`.
const CACHE_BYTES_VARIABLE: &str = "GLEANER_CACHE_BYTES";
/// The bound where it says nothing.
const BYTES_MAX: u64 = 50 << 30;
/// Copies that were used so recently stay.
const IN_USE: Duration = Duration::from_secs(3600);
/// What a killed process left half-written goes after this.
const STAGED: Duration = Duration::from_secs(24 * 3600);
/// What is remembered of objects is small, and goes when nobody asked for it for so long.
const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 3600);

pub(super) fn bytes_max_from_env() -> u64 {
    let Ok(text) = std::env::var(CACHE_BYTES_VARIABLE) else {
        return BYTES_MAX;
    };
    match text.parse::<ByteSize>() {
        Ok(size) => size.bytes(),
        Err(error) => {
            tracing::warn!("{CACHE_BYTES_VARIABLE} is no size, and is not heeded: {error}");
            BYTES_MAX
        }
    }
}

/// A file of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copy {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl LocalCopies {
    /// Notes that a copy was used.
    pub(super) fn touch(&self, path: &Path) {
        let touched = File::open(path).and_then(|file| file.set_modified((self.now)()));
        if let Err(error) = touched {
            tracing::debug!(path = %path.display(), %error, "its use cannot be noted");
        }
    }

    /// Removes what there is no room for, and what is of no use. Best effort: a later copy tries
    /// again.
    pub(super) fn evict(&self) {
        let now = (self.now)();
        let old = |copies: Vec<Copy>, age: Duration| {
            copies
                .into_iter()
                .filter(move |copy| is_older(copy, now, age))
        };
        let (staged, copies): (Vec<Copy>, Vec<Copy>) = files(&self.folder.join("objects"))
            .into_iter()
            .partition(|copy| is_staged(&copy.path));
        let remembered = files(&self.folder.join("identities"));
        let gone = to_evict(copies, self.bytes_max, now).into_iter();
        let gone = gone
            .chain(old(staged, STAGED))
            .chain(old(remembered, REMEMBERED));
        for copy in gone {
            match fs::remove_file(&copy.path) {
                Ok(()) => tracing::debug!(path = %copy.path.display(), "removed a copy"),
                // Another process was faster, or may not be the owner.
                Err(error) => {
                    tracing::debug!(path = %copy.path.display(), %error, "cannot remove a copy");
                }
            }
        }
    }
}

fn is_staged(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(".staged-")
}

fn is_older(copy: &Copy, now: SystemTime, age: Duration) -> bool {
    now.duration_since(copy.used)
        .is_ok_and(|since| since >= age)
}

fn files(folder: &Path) -> Vec<Copy> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let copy = |entry: fs::DirEntry| -> Option<Copy> {
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some(Copy {
            path: entry.path(),
            bytes: metadata.len(),
            used: metadata.modified().ok()?,
        })
    };
    entries.flatten().filter_map(copy).collect()
}

/// The copies that go, so that the others have at most so many bytes.
fn to_evict(mut copies: Vec<Copy>, bytes_max: u64, now: SystemTime) -> Vec<Copy> {
    copies.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
    let mut bytes: u64 = copies.iter().map(|copy| copy.bytes).sum();
    copies.retain(|copy| {
        let goes = bytes > bytes_max && is_older(copy, now, IN_USE);
        if goes {
            bytes -= copy.bytes;
        }
        goes
    });
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let hour = Duration::from_secs(3600);
        let now = SystemTime::UNIX_EPOCH + 1000 * hour;
        let check = |bytes_max: u64, expected: &[&str]| {
            let copies = [("a", 10, 5), ("b", 20, 9), ("c", 30, 1), ("d", 40, 0)];
            let copies = copies.map(|(name, bytes, hours)| Copy {
                path: name.into(),
                bytes,
                used: now - hours * hour,
            });
            let gone = to_evict(copies.to_vec(), bytes_max, now);
            let gone: Vec<&str> = gone.iter().filter_map(|copy| copy.path.to_str()).collect();
            assert_eq!(gone, expected, "{bytes_max}");
        };
        check(100, &[]);
        check(99, &["b"]);
        check(75, &["b", "a"]);
        // The last one is in use.
        check(0, &["b", "a", "c"]);
    }
}
