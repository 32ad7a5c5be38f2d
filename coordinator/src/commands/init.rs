//! `gleaner init`: a job to start from, that runs as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::run_error::RunError;

/// Name and contents of what is written.
const FILES: [(&str, &str); 4] = [
    ("job.yaml", include_str!("init/job.yaml")),
    ("README.md", include_str!("init/README.md")),
    ("data/corpus.jsonl", include_str!("init/data/corpus.jsonl")),
    ("data/target.jsonl", include_str!("init/data/target.jsonl")),
];

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The directory.
    pub directory: PathBuf,
    /// Files in it.
    pub files: Vec<PathBuf>,
}

/// Writes a starter job. Never overwrites a file.
///
/// # Errors
///
/// If a file exists already, or cannot be written.
pub fn init(directory: &Path) -> Result<InitReport, RunError> {
    let paths: Vec<PathBuf> = FILES.iter().map(|(name, _)| directory.join(name)).collect();
    if let Some(existing) = paths.iter().find(|path| path.exists()) {
        return Err(RunError::usage(
            format!("{} exists already", existing.display()),
            "choose another directory; nothing was written",
        ));
    }
    let written = paths
        .iter()
        .zip(FILES)
        .try_for_each(|(path, (_, contents))| {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, contents)
        });
    written.map_err(|error: io::Error| {
        RunError::usage(
            format!("cannot write to {}: {error}", directory.display()),
            "is there space, and are you allowed to write there?",
        )
    })?;
    Ok(InitReport {
        directory: directory.to_owned(),
        files: paths,
    })
}

impl InitReport {
    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let job = self.directory.join("job.yaml");
        format!(
            "wrote {} files to {}\nrun it:  gleaner run {}\n",
            self.files.len(),
            self.directory.display(),
            job.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_writes_once_and_never_over_something() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("job");
        assert_eq!(init(&inner).unwrap().files.len(), FILES.len());
        let error = init(&inner).unwrap_err();
        assert!(
            error.to_string().ends_with("job.yaml exists already"),
            "{error}"
        );
    }
}
