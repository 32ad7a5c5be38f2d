//! Files that a query names by their path, `FROM 'more/*.parquet'`: only where the user allows it,
//! since a query would otherwise read whatever this machine and its credentials can.
//!
//! They are listed and read as a corpus is: Parquet and JSON lines, patterns, all stores. Unlike in
//! a corpus, a file that cannot be read is an error, since the query named it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::catalog::TableProvider;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use gleaner_schemas::FileFormat;
use gleaner_schemas::SourceFile;
use gleaner_storage::{Stores, listing};

use crate::sql::corpus::Corpus;
use crate::sql::register;
use crate::sql::witness::Witness;

/// What a query may name besides the tables of its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// Nothing, whatever the user says.
    Nothing,
    /// Nothing, unless the user allows it.
    OnRequest,
    /// Files by their paths.
    Paths,
}

/// Whether the name of a table is rather a path: it has a folder, the ending of a file that can be
/// read, or a wildcard.
pub(crate) fn is_path(name: &str) -> bool {
    name.contains(['/', '*']) || FileFormat::of_name(name).is_some()
}

/// The tables that are paths.
pub(crate) struct PathTables {
    stores: Stores,
    /// What paths are relative to.
    base_dir: PathBuf,
    runtime: Arc<RuntimeEnv>,
    witness: Arc<Witness>,
    /// By their names: a query may name one twice, and plans each.
    known: Mutex<HashMap<String, Arc<Corpus>>>,
}

impl std::fmt::Debug for PathTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PathTables")
            .field("base_dir", &self.base_dir)
            .finish_non_exhaustive()
    }
}

impl PathTables {
    /// None is opened yet.
    pub(crate) fn new(
        stores: Stores,
        base_dir: PathBuf,
        runtime: Arc<RuntimeEnv>,
        witness: Arc<Witness>,
    ) -> Self {
        Self {
            stores,
            base_dir,
            runtime,
            witness,
            known: Mutex::default(),
        }
    }

    /// The table over the files that `path` matches.
    ///
    /// # Errors
    ///
    /// If there is none, if they do not go together, or of the store.
    pub(crate) async fn open(&self, path: &str) -> Result<Arc<dyn TableProvider>> {
        let known = self.lock().get(path).cloned();
        let files = match known {
            Some(files) => files,
            None => self.list(path).await?,
        };
        files.open().await
    }

    async fn list(&self, path: &str) -> Result<Arc<Corpus>> {
        let external = |error| DataFusionError::External(Box::new(error));
        let patterns = [path.to_owned()];
        let sources = listing::list_sources(&self.stores, &patterns, &self.base_dir)
            .await
            .map_err(external)?;
        let sources: Vec<Arc<SourceFile>> = sources.into_iter().map(Arc::new).collect();
        let mut known = self.lock();
        let number = known.len();
        let register = |name: &str, store| {
            register(
                &self.runtime,
                &self.witness,
                &format!("path-{number}-{name}"),
                store,
            )
        };
        let files = Corpus::new(&self.stores, register, &sources, None)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let files = Arc::new(files.complete());
        let listed = known.entry(path.to_owned()).or_insert(files);
        Ok(Arc::clone(listed))
    }

    /// The map is whole whenever the lock is free.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Corpus>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_no_paths() {
        for path in ["a.parquet", "a/b", "s3://b/x", "*", "x.jsonl.zst", "./a"] {
            assert!(is_path(path), "{path}");
        }
        for name in ["corpus", "weights_model", "gleaner.tasks", "parquet"] {
            assert!(!is_path(name), "{name}");
        }
    }
}
