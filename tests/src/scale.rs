//! A phase of very many tasks and workers, in one process and in virtual time: what does the
//! coordinator cost?
//!
//! Real are the ledger, the dispatcher and the manifest. Made up are the store, which keeps no
//! more than which tasks are done, and the workers, which only take time. So what the process
//! takes in memory and processor time is the coordinator's, and a little more.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use gleaner_coordinator::dispatch::{Dispatcher, PhaseEnd};
use gleaner_coordinator::journal::Journal;
use gleaner_coordinator::planner;
use gleaner_coordinator::progress::Silent;
use gleaner_queue::{Delivery, MemoryQueue, QueueError, QueueState, TaskQueue};
use gleaner_schemas::{
    AttemptId, ContentHash, FileFormat, PhasePlan, Reader, Route, RunId, Shard, Slice, SourceFile,
    Task, TaskMessage,
};
use gleaner_storage::{Output, Stores, layout};
use gleaner_workers::entropy::SeededEntropy;
use gleaner_workers::runner::Trouble;
use gleaner_workers::shutdown::Shutdown;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::sync::Notify;

use crate::simulation;

/// Time that a task takes, on average.
pub const TASK_SECONDS: u64 = 60;
const STAGE: &str = "stage";
const ROOT: &str = "out";
/// Objects of one page of a listing, as S3 gives them.
const PAGE: u64 = 1000;
/// No text of a plan is longer.
const TEXT_BYTES_MAX: usize = 200;

/// What a phase took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Seconds of the simulated time.
    pub seconds: f64,
    /// Seconds of a processor, of the whole process.
    pub processor_seconds: f64,
    /// Most memory that the process had, less what it had before and what the made-up store keeps.
    pub memory_bytes: u64,
    /// Requests that list.
    pub n_lists: u64,
    /// Requests that read.
    pub n_reads: u64,
    /// Requests that write.
    pub n_writes: u64,
}

/// Runs a phase of `n_tasks` tasks over `n_workers` workers with a slot each.
///
/// # Panics
///
/// If it does not end well.
#[must_use]
pub fn measure(n_tasks: u64, n_workers: u64) -> Cost {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run(n_tasks, n_workers))
}

async fn run(n_tasks: u64, n_workers: u64) -> Cost {
    let before = memory("VmRSS");
    let processor = processor_seconds();
    let (plan, tasks) = plan(n_tasks);
    let plan_bytes = memory("VmRSS").saturating_sub(before);
    println!("the plan takes {} bytes per task", plan_bytes / n_tasks);
    let store = Arc::new(DoneStore::new(&plan, &tasks).await);
    let stores = Stores::from_env().with("scale://store", Arc::clone(&store) as _);
    let output = Output::open(&stores, &format!("scale://store/{ROOT}")).unwrap();
    let queue: Arc<dyn TaskQueue> = Arc::new(RemoteQueue {
        queue: MemoryQueue::new(),
        n_slots: n_workers,
    });
    let workers: Vec<_> = (0..n_workers)
        .map(|worker| tokio::spawn(work(worker, Arc::clone(&queue), Arc::clone(&store))))
        .collect();
    let (run, shutdown) = (RunId::new(1), Shutdown::new());
    let journal = Journal::new(output.clone(), run.clone());
    let started = tokio::time::Instant::now();
    let real = Instant::now();
    let dispatcher = Dispatcher {
        stores: &stores,
        output: &output,
        queue: &queue,
        task_ended: &Arc::new(Notify::new()),
        trouble: &Arc::new(Trouble::default()),
        n_slots: 0,
        route: Route::default(),
        patience: Duration::from_secs(600),
        entropy: &SeededEntropy::new(1),
        run: &run,
        journal: &journal,
        progress: &Silent,
        shutdown: &shutdown,
        started,
    };
    let plan_id = plan.plan_id(tasks.iter().map(|task| &task.id));
    let ended = dispatcher.run_phase(&plan, &plan_id, &tasks, None).await;
    let Ok(PhaseEnd::Complete(outcome)) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(outcome.manifest.attempts.len() as u64, n_tasks);
    assert_eq!(outcome.manifest.lanes.rows_in, n_tasks);
    for worker in workers {
        worker.abort();
    }
    println!("took {:.0} s", real.elapsed().as_secs_f64());
    Cost {
        seconds: started.elapsed().as_secs_f64(),
        processor_seconds: processor_seconds() - processor,
        memory_bytes: memory("VmHWM").saturating_sub(before + store.memory_bytes()),
        n_lists: store.n_lists.load(Ordering::Relaxed),
        n_reads: store.n_reads.load(Ordering::Relaxed),
        n_writes: store.n_writes.load(Ordering::Relaxed),
    }
}

async fn work(worker: u64, queue: Arc<dyn TaskQueue>, store: Arc<DoneStore>) {
    let mut dice = StdRng::seed_from_u64(worker);
    loop {
        let delivery = queue.receive().await.unwrap();
        let ms = dice.random_range(TASK_SECONDS * 500..TASK_SECONDS * 1500);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        store.done(&delivery.task);
        delivery.ack().await.unwrap();
    }
}

fn plan(n_tasks: u64) -> (PhasePlan, Vec<Task>) {
    let shards = (0..n_tasks).map(|number| {
        let name = exact(format_args!(
            "corpus/year=2026/month=11/part-{number:07}.parquet"
        ));
        let etag = exact(format_args!("\"{number:032x}\""));
        let file = SourceFile {
            uri: exact(format_args!("s3://bucket/{name}")),
            format: FileFormat::Parquet,
            bytes: 1 << 27,
            identity: exact(format_args!("s3://bucket/{name}:134217728:{etag}")),
            etag: Some(etag),
            name,
        };
        Shard {
            slices: vec![Slice {
                file: Arc::new(file),
                row_groups: Some((0, 1)),
                first_row: 0,
                n_rows: Some(1),
                bytes: 1 << 28,
                row_group_facts: Vec::new(),
            }],
            companions: Vec::new(),
            effect: None,
        }
    });
    let shards = shards.collect();
    let mut plan = PhasePlan {
        format: PhasePlan::FORMAT,
        stage: STAGE.to_owned(),
        kind: "simulated".to_owned(),
        code_version: 1,
        phase: "table".to_owned(),
        params: json!({}),
        decision: serde_json::Value::Null,
        side_inputs: Vec::new(),
        reader: Reader::Table {
            columns: Vec::new(),
        },
        folder: layout::table_folder(STAGE),
        n_tasks: 0,
        n_rows: None,
        bytes: 0,
        memory_bytes: 1 << 30,
        task_timeout_ms: 15 * 60 * 1000,
        is_whole: false,
    };
    let tasks = planner::tasks(&mut plan, shards);
    (plan, tasks)
}

/// Without room for more, and without holes around it, as texts of listings are.
fn exact(text: fmt::Arguments<'_>) -> String {
    let mut room = String::with_capacity(TEXT_BYTES_MAX);
    fmt::Write::write_fmt(&mut room, text).unwrap();
    room.as_str().into()
}

fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// User and system time of this process so far.
///
/// # Panics
///
/// If the system does not tell.
#[must_use]
pub fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: Vec<&str> = fields.split_whitespace().collect();
    let (user, system): (f64, f64) = (ticks[11].parse().unwrap(), ticks[12].parse().unwrap());
    // Linux tells them in hundredths of a second on every machine that Gleaner runs on.
    (user + system) / 100.0
}

/// A queue that says, as a broker does, how many slots its workers have.
#[derive(Debug)]
struct RemoteQueue {
    queue: MemoryQueue,
    n_slots: u64,
}

#[async_trait]
impl TaskQueue for RemoteQueue {
    async fn publish(&self, tasks: &[TaskMessage]) -> Result<(), QueueError> {
        self.queue.publish(tasks).await
    }

    async fn receive(&self) -> Result<Delivery, QueueError> {
        self.queue.receive().await
    }

    async fn state(&self, route: Route) -> Result<QueueState, QueueError> {
        let state = self.queue.state(route).await?;
        Ok(QueueState {
            n_slots: Some(self.n_slots),
            ..state
        })
    }

    async fn report(&self, refused: &TaskMessage) -> Result<(), QueueError> {
        self.queue.report(refused).await
    }

    async fn given_up(&self, run: &RunId) -> Result<Vec<Delivery>, QueueError> {
        self.queue.given_up(run).await
    }
}

/// A store that knows which tasks are done, and shows the same object for each.
struct DoneStore {
    folder: Path,
    attempt: AttemptId,
    object_bytes: u64,
    object: InMemory,
    /// By the first two digits of the task id, sorted, with the moment when it was done.
    tasks: Vec<Vec<([u8; 16], AtomicU64)>>,
    n_lists: AtomicU64,
    n_reads: AtomicU64,
    n_writes: AtomicU64,
}

impl fmt::Debug for DoneStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoneStore").finish_non_exhaustive()
    }
}

impl fmt::Display for DoneStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DoneStore")
    }
}

fn digits(task: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (idx, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&task[2 * idx..2 * idx + 2], 16).unwrap();
    }
    bytes
}

impl DoneStore {
    async fn new(plan: &PhasePlan, tasks: &[Task]) -> Self {
        assert!(plan.n_tasks > layout::TASKS_PER_FOLDER_MAX);
        let mut sorted: Vec<Vec<([u8; 16], AtomicU64)>> = (0..256).map(|_| Vec::new()).collect();
        for task in tasks {
            let id = digits(&task.id.to_string());
            sorted[usize::from(id[0])].push((id, AtomicU64::new(0)));
        }
        for folder in &mut sorted {
            folder.sort_by_key(|(id, _)| *id);
            folder.shrink_to_fit();
        }
        let bytes = simulation::object(&tasks[0]);
        let object = InMemory::new();
        let attempt = AttemptId::new(0, &ContentHash::of(&bytes));
        let object_bytes = bytes.len() as u64;
        object
            .put(&Path::from("object"), bytes.into())
            .await
            .unwrap();
        Self {
            folder: Path::from(format!("{ROOT}/{}", plan.folder)),
            attempt,
            object_bytes,
            object,
            tasks: sorted,
            n_lists: AtomicU64::new(0),
            n_reads: AtomicU64::new(0),
            n_writes: AtomicU64::new(0),
        }
    }

    fn memory_bytes(&self) -> u64 {
        let tasks = self
            .tasks
            .iter()
            .map(|folder| size_of_val(folder.as_slice()));
        tasks.sum::<usize>() as u64
    }

    fn done(&self, task: &TaskMessage) {
        let id = digits(&task.task.to_string());
        let folder = &self.tasks[usize::from(id[0])];
        let idx = folder.binary_search_by_key(&id, |(id, _)| *id).unwrap();
        folder[idx].1.store(1, Ordering::Relaxed);
    }

    fn listed(&self, folder: usize) -> Vec<ObjectMeta> {
        let done = self.tasks[folder]
            .iter()
            .filter(|(_, done)| done.load(Ordering::Relaxed) > 0);
        let metas: Vec<ObjectMeta> = done
            .map(|(id, _)| {
                let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                let name = format!("{folder:02x}/{hex}-{}.parquet", self.attempt);
                self.meta(Path::from(format!("{}/{name}", self.folder)))
            })
            .collect();
        let n_pages = (metas.len() as u64).div_ceil(PAGE).max(1);
        self.n_lists.fetch_add(n_pages, Ordering::Relaxed);
        metas
    }

    fn meta(&self, location: Path) -> ObjectMeta {
        ObjectMeta {
            location,
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: self.object_bytes,
            e_tag: None,
            version: None,
        }
    }
}

#[async_trait]
impl ObjectStore for DoneStore {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.n_writes.fetch_add(1, Ordering::Relaxed);
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(object_store::Error::NotImplemented {
            operation: "put_multipart".to_owned(),
            implementer: "DoneStore".to_owned(),
        })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.n_reads.fetch_add(1, Ordering::Relaxed);
        if location.prefix_matches(&self.folder) {
            return self.object.get_opts(&Path::from("object"), options).await;
        }
        Err(object_store::Error::NotFound {
            path: location.to_string(),
            source: "it was never kept".into(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        locations
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let folder = prefix
            .filter(|prefix| prefix.prefix_matches(&self.folder))
            .and_then(|prefix| prefix.filename())
            .and_then(|name| usize::from_str_radix(name, 16).ok());
        let metas = match folder {
            Some(folder) => self.listed(folder),
            None => {
                self.n_lists.fetch_add(1, Ordering::Relaxed);
                Vec::new()
            }
        };
        let listed = async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            futures::stream::iter(metas.into_iter().map(Ok))
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.n_lists.fetch_add(1, Ordering::Relaxed);
        let is_folder = prefix == Some(&self.folder);
        let folders = (0..self.tasks.len()).filter(|_| is_folder);
        Ok(ListResult {
            common_prefixes: folders
                .map(|folder| Path::from(format!("{}/{folder:02x}", self.folder)))
                .collect(),
            objects: Vec::new(),
        })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(object_store::Error::NotImplemented {
            operation: "copy".to_owned(),
            implementer: "DoneStore".to_owned(),
        })
    }
}
