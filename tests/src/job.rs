//! A job that is run over a broker while things break, and what its undisturbed run publishes.

use std::collections::BTreeMap;
use std::time::Duration;

use gleaner_storage::layout;

use crate::cluster::{Cluster, Surroundings, example_workspace, published};
use crate::program::{Workspace, files};
use crate::servers::fake_s3::FakeS3;

/// Longer than any of these jobs takes, with everything that is waited for on the way.
pub const LONG: Duration = Duration::from_secs(240);
/// Longer than something takes that is about to happen.
pub const SOON: Duration = Duration::from_secs(60);

/// The workspace of a job and what its undisturbed run publishes.
#[derive(Debug)]
pub struct Job {
    /// With `job.yaml` and its inputs.
    pub workspace: Workspace,
    expected: BTreeMap<(String, String), String>,
}

impl Default for Job {
    fn default() -> Self {
        Self::new()
    }
}

impl Job {
    /// The job over the corpus of the examples. Task ids depend on the files, so that each
    /// workspace has its own.
    ///
    /// # Panics
    ///
    /// If it cannot be run.
    #[must_use]
    pub fn new() -> Self {
        Self::of(example_workspace())
    }

    /// The job of a workspace.
    ///
    /// # Panics
    ///
    /// If it cannot be run.
    #[must_use]
    pub fn of(workspace: Workspace) -> Self {
        let _ = workspace.run(&["--output", "undisturbed"]).expect(0);
        let expected = published(|arguments| workspace.gleaner(arguments), "undisturbed");
        Self {
            workspace,
            expected,
        }
    }

    /// Processes that take tasks from `queue` and write to local disks.
    #[must_use]
    pub fn cluster(&self, queue: String) -> Cluster<'_> {
        self.cluster_with(queue, Vec::new())
    }

    /// Processes that take tasks from `queue`, with these environment variables.
    #[must_use]
    pub fn cluster_with(&self, queue: String, variables: Vec<(String, String)>) -> Cluster<'_> {
        Cluster::new(&self.workspace, Surroundings { queue, variables })
    }

    /// Objects of tasks in the output `out`.
    #[must_use]
    pub fn n_attempts(&self) -> usize {
        let out = self.workspace.path().join("out");
        if !out.exists() {
            return 0;
        }
        let objects = files(&out);
        let is_attempt = |name: &str| layout::parse_attempt(name).is_some();
        objects
            .iter()
            .filter(|path| is_attempt(&path.display().to_string()))
            .count()
    }

    /// Waits until some tasks are done, and more are left.
    pub fn await_attempts(&self, cluster: &Cluster<'_>, n: usize) {
        cluster.await_that("no task is done", SOON, || self.n_attempts() >= n);
    }

    /// The output is what an undisturbed run leaves.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[track_caller]
    pub fn check(&self, cluster: &Cluster<'_>, output: &str) {
        let verified = cluster.gleaner(&["verify", output]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        let found = published(|arguments| cluster.gleaner(arguments), output);
        let different: Vec<_> = self
            .expected
            .iter()
            .filter(|(task, hash)| found.get(task) != Some(hash))
            .collect();
        assert!(different.is_empty(), "{different:?}");
        assert_eq!(found.len(), self.expected.len());
    }
}

/// Objects of tasks below `prefix` in a bucket.
#[must_use]
pub fn n_attempts_in(store: &FakeS3, bucket: &str, prefix: &str) -> usize {
    let objects = store.objects(bucket, prefix);
    objects
        .keys()
        .filter(|key| layout::parse_attempt(key).is_some())
        .count()
}
