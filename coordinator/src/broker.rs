//! Which queue a run uses: one in this process, or a broker's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gleaner_queue::{AmqpOptions, AmqpQueue, MemoryQueue, QueueError, TaskQueue};
use gleaner_schemas::Resource;
use gleaner_schemas::job::Job;
use gleaner_workers::shutdown::Shutdown;
use tokio::time::Instant;

use crate::progress::Progress;
use crate::run_error::RunError;

/// What the command line and the environment say of a broker.
#[derive(Debug, Clone, Default)]
pub struct BrokerArguments {
    /// Its URL; absent: the job file's, if it has one.
    pub url: Option<Secret>,
    /// The user, instead of the URL's.
    pub user: Option<String>,
    /// The password, instead of the URL's.
    pub password: Option<Secret>,
    /// Certificates that the broker's is checked against.
    pub ca_file: Option<PathBuf>,
    /// The broker's own bound of the time that a task may be held.
    pub consumer_timeout: Option<Duration>,
}

/// A text that may hold a secret: it is not shown.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl BrokerArguments {
    /// How to reach the broker of a job, if it has one.
    ///
    /// # Errors
    ///
    /// If the job's tasks may take longer than the broker lets a worker hold them.
    pub fn for_job(&self, job: &Job) -> Result<Option<AmqpOptions>, RunError> {
        let given = self.url.as_ref().map(|url| url.0.clone());
        let Some(url) = given.or_else(|| job.file.queue.clone()) else {
            return Ok(None);
        };
        let options = AmqpOptions {
            user: self.user.clone(),
            password: self.password.as_ref().map(|password| password.0.clone()),
            ca_file: self.ca_file.clone(),
            consumer_timeout: self.consumer_timeout,
            ..AmqpOptions::new(url)
        };
        match options.check_task_timeout(job.file.task_timeout.duration()) {
            Ok(()) => Ok(Some(options)),
            Err(QueueError::Refused { message, help }) => {
                Err(job.error_at("task_timeout", message, Some(help)).into())
            }
            Err(other) => Err(other.into()),
        }
    }
}

/// First pause after a broker could not be reached; doubles each time.
const CONNECT_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest such pause.
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(10);

/// How a broker is waited for that is not there.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// For how long.
    pub patience: Duration,
    /// Where it is said.
    pub progress: &'a dyn Progress,
    /// Whether somebody asked to stop.
    pub shutdown: &'a Shutdown,
}

impl Waiting<'_> {
    async fn connect(&self, options: AmqpOptions) -> Result<AmqpQueue, RunError> {
        let started = Instant::now();
        let mut pause = CONNECT_PAUSE_MIN;
        loop {
            let error = match AmqpQueue::connect(options.clone()).await {
                Err(error @ QueueError::Unreachable(_)) => error,
                connected => return Ok(connected?),
            };
            if started.elapsed() + pause > self.patience {
                return Err(RunError::Unreachable(format!(
                    "{error}; waited for {} (--patience)",
                    crate::progress::duration(self.patience)
                )));
            }
            if pause == CONNECT_PAUSE_MIN {
                self.progress.note(&format!(
                    "waiting for the broker: {error} (giving up in {})",
                    crate::progress::duration(self.patience)
                ));
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.draining() => return Err(RunError::Interrupted),
            }
            pause = (2 * pause).min(CONNECT_PAUSE_MAX);
        }
    }
}

/// The queue as both sides of this process use it.
#[derive(Debug)]
pub struct Queues {
    /// Where tasks are offered.
    pub offering: Arc<dyn TaskQueue>,
    /// Where workers in this process take them.
    pub taking: Arc<dyn TaskQueue>,
    brokers: Vec<Arc<AmqpQueue>>,
}

impl Queues {
    /// One queue in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        let queue = Arc::new(MemoryQueue::new());
        Self {
            offering: Arc::clone(&queue) as _,
            taking: queue,
            brokers: Vec::new(),
        }
    }

    /// A broker's; `n_slots` tasks at a time are taken by this process. A broker that is not there
    /// yet is waited for.
    ///
    /// # Errors
    ///
    /// If the broker refuses, cannot be reached for the time of `waiting`, or somebody asks to
    /// stop.
    pub async fn over(
        options: &AmqpOptions,
        n_slots: usize,
        waiting: &Waiting<'_>,
    ) -> Result<Self, RunError> {
        let offering = Arc::new(waiting.connect(options.clone()).await?);
        let mut brokers = vec![Arc::clone(&offering)];
        let taking = if n_slots == 0 {
            Arc::clone(&offering)
        } else {
            let options = AmqpOptions {
                resources: vec![Resource::Cpu, Resource::Network],
                n_slots,
                ..options.clone()
            };
            let taking = Arc::new(waiting.connect(options).await?);
            brokers.push(Arc::clone(&taking));
            taking
        };
        Ok(Self {
            offering,
            taking,
            brokers,
        })
    }

    /// Ends the connections.
    pub async fn close(self) {
        for broker in self.brokers {
            broker.close().await;
        }
    }
}
