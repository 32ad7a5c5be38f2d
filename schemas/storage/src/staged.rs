//! Files that writers which were killed left half-written in a local directory.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use crate::layout;

/// Removes such files of the output at `root` that nobody wrote to for `age`; returns how many.
pub(crate) fn remove_below(root: &Path, age: Duration) -> io::Result<u64> {
    remove_in(root, "", age)
}

/// `key` is the folder's, empty or with a slash at its end.
fn remove_in(folder: &Path, key: &str, age: Duration) -> io::Result<u64> {
    let mut n_removed = 0;
    let Some(entries) = unless_gone(fs::read_dir(folder))? else {
        return Ok(0);
    };
    for entry in entries {
        let entry = entry?;
        let Some(file_type) = unless_gone(entry.file_type())? else {
            continue;
        };
        let key = format!("{key}{}", entry.file_name().to_string_lossy());
        if file_type.is_dir() {
            n_removed += remove_in(&entry.path(), &format!("{key}/"), age)?;
        } else if is_staged(&key)
            && let Some(metadata) = unless_gone(entry.metadata())?
            && metadata.modified()?.elapsed().is_ok_and(|it| it >= age)
            && unless_gone(fs::remove_file(entry.path()))?.is_some()
        {
            n_removed += 1;
        }
    }
    Ok(n_removed)
}

/// Writers rename such files beside us, and other runs remove them too.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The local store writes `<name>#<number>` and renames it. No key of ours has a `#` of its own; what
/// users put beside our objects is theirs.
fn is_staged(key: &str) -> bool {
    key.rsplit_once('#').is_some_and(|(key, number)| {
        let is_ours = key.ends_with(".parquet")
            || key.ends_with(".json")
            || key == layout::README
            || layout::is_model_file(key)
            || key
                .strip_prefix(layout::PRIVATE)
                .is_some_and(|rest| rest.starts_with('/'));
        is_ours && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use gleaner_schemas::{Fingerprint, RunId};

    use super::*;

    #[test]
    fn only_what_is_half_written_goes() {
        let model = layout::model_file("prior", &Fingerprint::of("model", &1), "model.safetensors");
        let checkpoint = layout::checkpoint(&Fingerprint::of("task", &1).into());
        let run = RunId::new(1);
        let staged = [
            "weights/a.parquet#1".to_owned(),
            "weights/ab/b.json#23".to_owned(),
            "manifest.json#1".to_owned(),
            format!("{}#1", layout::README),
            format!("{}#2", layout::card(1)),
            format!("{model}#1"),
            format!("{checkpoint}#1"),
            format!("{}#1", layout::attempt_records(&run, "host-1", 1)),
        ];
        let others = [
            "weights/c.parquet".to_owned(),
            "weights/d#1".to_owned(),
            "weights/e.parquet#".to_owned(),
            "weights/f.parquet#x".to_owned(),
            "notes#1".to_owned(),
            "prior_model/notes.txt#1".to_owned(),
            model.clone(),
            checkpoint.clone(),
        ];
        let folder = tempfile::tempdir().unwrap();
        for key in staged.iter().chain(&others) {
            let path = folder.path().join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(remove_below(folder.path(), hour).unwrap(), 0);
        let n_staged = staged.len() as u64;
        assert_eq!(
            remove_below(folder.path(), Duration::ZERO).unwrap(),
            n_staged
        );
        for key in &staged {
            assert!(!folder.path().join(key).exists(), "{key}");
        }
        for key in &others {
            assert!(folder.path().join(key).exists(), "{key}");
        }
        let none = folder.path().join("none");
        assert_eq!(remove_below(&none, Duration::ZERO).unwrap(), 0);
    }

    /// Writers put and rename while somebody looks for what they left.
    #[test]
    fn files_that_vanish_while_they_are_looked_at_are_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let staged = folder.path().join("a.parquet#1");
                while !is_done.load(Ordering::Relaxed) {
                    fs::write(&staged, "rows").unwrap();
                    // Whoever looks may have removed it.
                    let _ = fs::rename(&staged, folder.path().join("a.parquet"));
                }
            });
            let looked: io::Result<Vec<u64>> = (0..5_000)
                .map(|_| remove_below(folder.path(), Duration::from_secs(3600)))
                .collect();
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(looked.unwrap().iter().sum::<u64>(), 0);
        });
    }
}
