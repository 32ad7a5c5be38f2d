//! Connects to the broker and works, with an eye on what the work depends on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gleaner_queue::{Activity, AmqpOptions, AmqpQueue, QueueError, TaskQueue, WatchedQueue};
use gleaner_schemas::job::Priority;
use gleaner_schemas::units::HumanDuration;
use gleaner_schemas::{Resource, Route};
use gleaner_storage::Stores;
use gleaner_storage::table::BlockingIo;
use gleaner_telemetry::Readiness;
use gleaner_workers::attempt::Workbench;
use gleaner_workers::attempt_log::{AttemptLog, worker_name};
use gleaner_workers::endpoint::access::Exchanges;
use gleaner_workers::endpoint::clock::SystemClock;
use gleaner_workers::entropy::{Entropy, SystemEntropy};
use gleaner_workers::execute::StageExecutor;
use gleaner_workers::options::WorkerOptions;
use gleaner_workers::plan_cache::PlanCache;
use gleaner_workers::runner::{Trouble, Worker};
use gleaner_workers::shutdown::Shutdown;
use tokio::time::Instant;

use crate::end::{CannotGoOn, Left};

/// Why the worker is not ready while it has no connection.
pub(crate) const NOT_CONNECTED: &str = "not connected to the broker";
const STOPPING: &str = "stopping";
/// How often the state of the connection is looked at, which asks nobody.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// First pause after a broker could not be reached; doubles each time.
const CONNECT_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest such pause.
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What there is to work with.
pub(crate) struct Work {
    /// The broker.
    pub(crate) queue: AmqpOptions,
    /// Tasks at a time.
    pub(crate) n_slots: usize,
    /// Kinds of stages that are taken.
    pub(crate) kinds: Option<BTreeSet<String>>,
    /// For tasks in hand after the first signal.
    pub(crate) grace: Duration,
    /// The broker's.
    pub(crate) consumer_timeout: Duration,
    /// How long the broker may be away.
    pub(crate) patience: Duration,
    /// After how long without anything to do it ends; `None` if it never does.
    pub(crate) until_idle: Option<Duration>,
}

/// Why the work ended.
enum End {
    ToldToStop,
    Idle,
    CannotGoOn(CannotGoOn),
}

/// Works until `shutdown` asks to stop, or there was nothing to do for long enough.
pub(crate) async fn work(
    work: Work,
    readiness: Readiness,
    shutdown: &Shutdown,
) -> Result<Left, CannotGoOn> {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let connected = tokio::select! {
        biased;
        () = shutdown.draining() => return Ok(left_when_told(&work)),
        connected = connect(&work, entropy.as_ref()) => connected,
    };
    let queue = Arc::new(connected?);
    let trouble = Arc::new(Trouble::default());
    let watched = WatchedQueue::new(Arc::clone(&queue) as Arc<dyn TaskQueue>);
    let activity = watched.activity();
    let worker = worker(&work, Arc::new(watched), Arc::clone(&trouble), entropy);
    readiness.ready();
    tracing::info!(n_slots = work.n_slots, "taking tasks");
    let running = worker.run(shutdown);
    tokio::pin!(running);
    let (end, reason) = tokio::select! {
        end = &mut running => (end, End::ToldToStop),
        reason = watch(&queue, &work, &readiness, shutdown) => {
            shutdown.drain();
            (running.await, End::CannotGoOn(reason))
        }
        failure = trouble.persisting() => {
            readiness.not_ready(STOPPING);
            shutdown.drain();
            (running.await, End::CannotGoOn(CannotGoOn::CannotRecord(failure)))
        }
        until_idle = idle(&queue, &work, &activity) => {
            readiness.not_ready(STOPPING);
            tracing::info!("nothing to do for {}: ending", HumanDuration::new(until_idle));
            shutdown.drain();
            (running.await, End::Idle)
        }
    };
    readiness.not_ready(STOPPING);
    let left = match reason {
        End::Idle if end.n_given_back == 0 => left_when_idle(queue.as_ref(), &work).await,
        _ if end.n_given_back > 0 => Left::Work,
        _ => left_when_told(&work),
    };
    queue.close().await;
    if end.n_given_back > 0 {
        tracing::info!(
            n_tasks = end.n_given_back,
            "tasks were left to other workers"
        );
    }
    let refused = end
        .refused
        .map(|error| CannotGoOn::of_queue(error, work.patience));
    match (reason, refused) {
        (End::CannotGoOn(reason), _) | (_, Some(reason)) => Err(reason),
        (End::ToldToStop | End::Idle, None) => Ok(left),
    }
}

/// What a worker leaves that was told to stop with nothing in hand. One that is to end by itself
/// has not come to that: more may come.
fn left_when_told(work: &Work) -> Left {
    match work.until_idle {
        Some(_) => Left::Work,
        None => Left::Nothing,
    }
}

/// What a worker leaves that has nothing to do: tasks may wait that it does not take. A queue that
/// does not answer may have some.
async fn left_when_idle(queue: &dyn TaskQueue, work: &Work) -> Left {
    for &resource in &work.queue.resources {
        for priority in Priority::ALL {
            match queue.state(Route { resource, priority }).await {
                Ok(state) if state.n_waiting == 0 => {}
                Ok(_) | Err(_) => return Left::Work,
            }
        }
    }
    Left::Nothing
}

/// Returns when there was nothing to do for as long as the worker is to wait, and how long that is.
/// While the broker is away, nothing can come: that is not counted.
async fn idle(queue: &AmqpQueue, work: &Work, activity: &Activity) -> Duration {
    let Some(until_idle) = work.until_idle else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !queue.is_well() {
            activity.restart();
            continue;
        }
        if activity.idle_for() >= until_idle {
            return until_idle;
        }
    }
}

/// Tries until the broker refuses, or could not be reached for too long.
async fn connect(work: &Work, entropy: &dyn Entropy) -> Result<AmqpQueue, CannotGoOn> {
    let started = Instant::now();
    let mut pause = CONNECT_PAUSE_MIN;
    loop {
        let error = match AmqpQueue::connect(work.queue.clone()).await {
            Ok(queue) => return Ok(queue),
            Err(error) => error,
        };
        let is_final = !matches!(error, QueueError::Unreachable(_));
        // Half of it is fixed, half is jitter: workers must not all come back at once.
        let half_ms = u64::try_from(pause.as_millis() / 2).unwrap_or(1).max(1);
        let next = Duration::from_millis(half_ms + entropy.next_u64() % half_ms);
        if is_final || started.elapsed() + next > work.patience {
            return Err(CannotGoOn::of_queue(error, work.patience));
        }
        tracing::warn!(%error, "trying again");
        tokio::time::sleep(next).await;
        pause = (2 * pause).min(CONNECT_PAUSE_MAX);
    }
}

fn worker(
    work: &Work,
    queue: Arc<dyn TaskQueue>,
    trouble: Arc<Trouble>,
    entropy: Arc<dyn Entropy>,
) -> Worker {
    let stores = Stores::from_env();
    let io = BlockingIo::new(stores.clone(), tokio::runtime::Handle::current());
    let name = worker_name(entropy.as_ref());
    let clock = Arc::new(SystemClock);
    let exchanges = Exchanges::new(name.clone(), Arc::clone(&entropy), clock);
    let attempts = AttemptLog::new(name, chrono::Utc::now());
    Worker {
        queue,
        bench: Arc::new(Workbench {
            plans: PlanCache::new(stores),
            executor: Arc::new(StageExecutor::new(
                io,
                Arc::new(gleaner_predicate::DataFusionPredicates),
                exchanges,
            )),
            entropy,
        }),
        n_slots: work.n_slots,
        task_ended: Arc::default(),
        trouble,
        options: WorkerOptions {
            kinds: work.kinds.clone(),
            grace: Some(work.grace),
            consumer_timeout: Some(work.consumer_timeout),
            is_beside_coordinator: false,
            attempts: Some(Arc::new(attempts)),
            activity: None,
        },
    }
}

/// Tells whether the worker is ready. Returns when the broker was away for too long.
async fn watch(
    queue: &AmqpQueue,
    work: &Work,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> CannotGoOn {
    let mut well_at = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.draining() => {
                readiness.not_ready(STOPPING);
                // Whatever the broker does now, the worker ends soon.
                std::future::pending().await
            }
        }
        if queue.is_well() {
            well_at = Instant::now();
            readiness.ready();
            continue;
        }
        readiness.not_ready(NOT_CONNECTED);
        if well_at.elapsed() < work.patience {
            continue;
        }
        let resource = work.queue.resources.first().copied();
        let route = Route {
            resource: resource.unwrap_or(Resource::Cpu),
            ..Route::default()
        };
        // Says what is wrong, with the address; or that nothing is any more.
        if let Err(error) = queue.state(route).await {
            return CannotGoOn::of_queue(error, work.patience);
        }
    }
}
