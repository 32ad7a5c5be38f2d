use gleaner_schemas::{AttemptOutcome, AttemptRecord, Fingerprint, Resource, RunId};
use gleaner_storage::{Output, Stores, layout};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

type Lines = tokio::io::Lines<BufReader<TcpStream>>;

async fn serve() -> (SocketAddr, Board, oneshot::Sender<()>, JoinHandle<()>) {
    let board = Board::default();
    let any = Some("127.0.0.1:0".parse().unwrap());
    let dashboard = Dashboard::bind(any, Hosts::default(), board.clone()).await;
    let dashboard = dashboard.unwrap();
    let address = dashboard.address();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(dashboard.serve(async {
        let _ = stopped.await;
    }));
    (address, board, stop, serving)
}

async fn request(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn events(address: SocketAddr) -> Lines {
    BufReader::new(request(address, "/events").await).lines()
}

/// The next snapshot, or none at the end of the stream.
async fn next(lines: &mut Lines) -> Option<serde_json::Value> {
    while let Some(line) = lines.next_line().await.ok()? {
        if let Some(data) = line.strip_prefix("data: ") {
            return Some(serde_json::from_str(data).unwrap());
        }
    }
    None
}

#[tokio::test]
async fn readers_see_changes_and_the_end_and_cost_nothing_when_gone() {
    let (address, board, stop, serving) = serve().await;
    let mut first = events(address).await;
    assert_eq!(next(&mut first).await.unwrap()["state"], "starting");
    gleaner_workers::attempt_log::AttemptObserver::attempt_ended(&board, &record("here"));
    loop {
        let snapshot = next(&mut first).await.unwrap();
        if snapshot["workers"]["n"] == 1 {
            break;
        }
    }
    board.ended(0, "done", Some((3, true)));
    // Whoever comes after the end of the run sees how it ended, as long as the process lives.
    let mut late = events(address).await;
    assert_eq!(next(&mut late).await.unwrap()["ended"]["version"], 3);
    stop.send(()).unwrap();
    for lines in [&mut first, &mut late] {
        let mut last = None;
        while let Some(snapshot) = next(lines).await {
            last = Some(snapshot);
        }
        assert_eq!(last.unwrap()["state"], "ended");
    }
    let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
    ended.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn nothing_is_made_while_nobody_watches() {
    let board = Board::default();
    let any = Some("127.0.0.1:0".parse().unwrap());
    let dashboard = Dashboard::bind(any, Hosts::default(), board.clone()).await;
    let dashboard = dashboard.unwrap();
    let (address, shared) = (dashboard.address(), Arc::clone(&dashboard.shared));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(dashboard.serve(async {
        let _ = stopped.await;
    }));
    drop(board.change());
    tokio::time::sleep(2 * TICK).await;
    assert_eq!(&*shared.latest.borrow().snapshot, "");
    let mut lines = events(address).await;
    next(&mut lines).await.unwrap();
    drop(lines);
    // The server notices that a reader is gone when it writes to it.
    while shared.latest.receiver_count() > 0 {
        tokio::time::sleep(TICK_MIN).await;
    }
    tokio::time::sleep(2 * TICK).await;
    let sent = shared.latest.borrow().snapshot.clone();
    board.change().doing = "something that nobody sees".to_owned();
    tokio::time::sleep(2 * TICK).await;
    assert_eq!(shared.latest.borrow().snapshot, sent);
    drop(stop);
    serving.await.unwrap();
}

#[tokio::test]
async fn readers_are_bounded() {
    let (address, _board, stop, serving) = serve().await;
    let mut readers = Vec::new();
    for _ in 0..READERS_MAX {
        let mut lines = events(address).await;
        next(&mut lines).await.unwrap();
        readers.push(lines);
    }
    let mut answer = [0; 12];
    let mut stream = request(address, "/events").await;
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    drop(stop);
    serving.await.unwrap();
}

fn record(worker: &str) -> AttemptRecord {
    AttemptRecord {
        format: AttemptRecord::FORMAT,
        task: Fingerprint::of("task", &0).into(),
        attempt: None,
        stage: "weights".to_owned(),
        phase: "score".to_owned(),
        worker: worker.to_owned(),
        started_at: "2026-01-01T00:00:00.000Z".to_owned(),
        seconds: 2.0,
        rows: None,
        bytes_in: 1,
        bytes_out: Some(1),
        worker_peak_memory_bytes: None,
        worker_throttled: Some(gleaner_schemas::Throttled {
            by_stores: 5,
            ..gleaner_schemas::Throttled::default()
        }),
        outcome: AttemptOutcome::Committed,
        failure: None,
    }
}

#[tokio::test]
async fn workers_elsewhere_are_known_by_what_they_recorded() {
    let store = Arc::new(object_store::memory::InMemory::new());
    let stores = Stores::from_env().with("memory://watched", store);
    let output = Output::open(&stores, "memory://watched/out").unwrap();
    let run = RunId::new(7);
    let board = Board::default();
    let _ = board.workers_here("here", 1);
    {
        let mut state = board.change();
        state.output = Some(output.clone());
        state.run = Some(run.clone());
    }
    let mut follower = Follower::default();
    let write = async |worker: &str, sequence: u64| {
        let line = serde_json::to_string(&record(worker)).unwrap();
        let text = format!("{line}\nanother format\n");
        let path = layout::attempt_records(&run, worker, sequence);
        output.put(&path, text.into()).await.unwrap();
    };
    write("there", 0).await;
    write("here", 0).await;
    let workers = |board: &Board| serde_json::to_value(board.snapshot()).unwrap();
    // A queue in this process: nobody is elsewhere.
    follower.look(&board).await;
    assert_eq!(workers(&board)["workers"]["n"], 0);
    board.change().queue = Some((
        gleaner_queue::QueueState {
            n_waiting: 0,
            n_slots: Some(3),
        },
        Resource::Cpu,
    ));
    for _ in 0..2 {
        follower.look(&board).await;
        let snapshot = workers(&board);
        assert_eq!(snapshot["workers"]["n"], 1);
        assert_eq!(snapshot["workers"]["workers"][0]["name"], "there");
        assert_eq!(snapshot["workers"]["workers"][0]["n_done"], 1);
    }
    write("there", 1).await;
    follower.look(&board).await;
    assert_eq!(workers(&board)["workers"]["workers"][0]["n_done"], 2);
    assert_eq!(workers(&board)["throttled"]["by_stores"], 5);
}
