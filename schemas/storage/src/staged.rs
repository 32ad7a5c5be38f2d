//! Files that writers which were killed left half-written in a local directory.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

/// Removes such files below `folder` that nobody wrote to for `age`; returns how many.
pub(crate) fn remove_below(folder: &Path, age: Duration) -> io::Result<u64> {
    let mut n_removed = 0;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            n_removed += remove_below(&entry.path(), age)?;
        } else if is_staged(&entry.file_name().to_string_lossy())
            && entry
                .metadata()?
                .modified()?
                .elapsed()
                .is_ok_and(|elapsed| elapsed >= age)
        {
            match fs::remove_file(entry.path()) {
                Ok(()) => n_removed += 1,
                // Another run removes them too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(n_removed)
}

/// The local store writes `<name>#<number>` and renames it.
fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(name, number)| {
        let is_ours = name.ends_with(".parquet") || name.ends_with(".json");
        is_ours && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_half_written_goes() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("weights");
        fs::create_dir(&inner).unwrap();
        let names = [
            "a.parquet#1",
            "b.json#23",
            "c.parquet",
            "d#1",
            "e.parquet#",
            "f.parquet#x",
        ];
        for name in names {
            fs::write(inner.join(name), "").unwrap();
        }
        assert_eq!(
            remove_below(folder.path(), Duration::from_secs(3600)).unwrap(),
            0
        );
        assert_eq!(remove_below(folder.path(), Duration::ZERO).unwrap(), 2);
        assert_eq!(fs::read_dir(&inner).unwrap().count(), names.len() - 2);
        assert_eq!(
            remove_below(&inner.join("none"), Duration::ZERO).unwrap(),
            0
        );
    }
}
