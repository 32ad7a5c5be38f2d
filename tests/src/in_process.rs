//! Whole runs in the process of a test, whose stores are then the test's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gleaner_coordinator::checked_job::CheckedJob;
use gleaner_coordinator::commands::coordinate::{Orders, coordinate};
use gleaner_coordinator::commands::prepare::{self, JobArguments};
use gleaner_coordinator::commands::run::RunReport;
use gleaner_coordinator::driver::Environment;
use gleaner_coordinator::progress::Silent;
use gleaner_coordinator::run_error::RunError;
use gleaner_queue::MemoryQueue;
use gleaner_storage::Stores;
use gleaner_storage::table::BlockingIo;
use gleaner_workers::entropy::SystemEntropy;
use gleaner_workers::shutdown::Shutdown;

/// A job whose stages have no tasks: it is coordinated and nothing else.
#[derive(Debug)]
pub struct InProcess {
    /// The job.
    pub checked: CheckedJob,
    /// What its paths are relative to.
    pub base_dir: PathBuf,
    /// Where its URIs lead.
    pub stores: Stores,
}

impl InProcess {
    /// The job of this text, as if it stood in the file `path`.
    ///
    /// # Panics
    ///
    /// If it is not valid.
    #[must_use]
    pub fn new(path: &Path, text: &str, stores: Stores) -> Self {
        let arguments = JobArguments {
            path: path.to_owned(),
            text: Some(text.to_owned()),
            ..JobArguments::default()
        };
        let (checked, base_dir) = prepare::read_job(&arguments).unwrap();
        Self {
            checked,
            base_dir,
            stores,
        }
    }

    /// Runs it.
    ///
    /// # Errors
    ///
    /// Those of a run.
    pub async fn run(&self) -> Result<RunReport, RunError> {
        let io = BlockingIo::new(self.stores.clone(), tokio::runtime::Handle::current());
        let environment = Environment {
            stores: self.stores.clone(),
            queue: Arc::new(MemoryQueue::new()),
            task_ended: Arc::default(),
            trouble: Arc::default(),
            n_slots: 1,
            patience: Duration::from_secs(60),
            entropy: Arc::new(SystemEntropy),
            progress: Arc::new(Silent),
            shutdown: Shutdown::new(),
        };
        let orders = Orders {
            base_dir: &self.base_dir,
            workers: prepare::expected_workers(false, Some(1)),
            accept: false,
        };
        coordinate(&self.checked, &environment, &io, orders).await
    }
}
