//! A proxy before a broker that makes one of its queues seem to have no leader: who wants to consume
//! it gets no answer. Whoever deletes it is held until a test has seen what others do meanwhile.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a client says before its first frame.
const PROTOCOL_HEADER_BYTES: usize = 8;
/// Type, channel and size of a frame.
const FRAME_HEADER_BYTES: usize = 7;
const FRAME_END_BYTES: usize = 1;
/// Class and method of what is held back.
const CONSUME: [u8; 4] = [0, 60, 0, 20];
const DELETE: [u8; 4] = [0, 50, 0, 40];

/// The proxy. What it holds goes on when it is dropped.
#[derive(Debug)]
pub struct LeaderlessQueue {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    n_deletions: usize,
    first_deletion_at: Option<Instant>,
    /// Everything passes.
    is_released: bool,
    is_over: bool,
}

impl LeaderlessQueue {
    /// A proxy before the broker at `target`, whose queue `queue` seems to be lost.
    ///
    /// # Panics
    ///
    /// If there is no port to be had.
    #[must_use]
    pub fn start(target: SocketAddr, queue: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            queue: queue.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let listening = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if listening.lock().is_over {
                    return;
                }
                let shared = Arc::clone(&listening);
                std::thread::spawn(move || connection(&client, target, &shared));
            }
        });
        Self { address, shared }
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often somebody wanted to delete the queue.
    #[must_use]
    pub fn n_deletions(&self) -> usize {
        self.shared.lock().n_deletions
    }

    /// When somebody first wanted to delete the queue, if anybody has.
    #[must_use]
    pub fn first_deletion_at(&self) -> Option<Instant> {
        self.shared.lock().first_deletion_at
    }

    /// The queue has a leader again, and whoever is held goes on.
    pub fn release(&self) {
        self.shared.lock().is_released = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for LeaderlessQueue {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.release();
        // Wakes the thread that listens.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a frame reaches the broker, and when.
    fn lets_pass(&self, frame: &[u8]) -> bool {
        match named_queue(frame) {
            Some((CONSUME, queue)) if queue == self.queue.as_bytes() => self.lock().is_released,
            Some((DELETE, queue)) if queue == self.queue.as_bytes() => {
                let mut state = self.lock();
                state.n_deletions += 1;
                state.first_deletion_at.get_or_insert_with(Instant::now);
                let released = self.changed.wait_while(state, |state| !state.is_released);
                drop(released.unwrap_or_else(PoisonError::into_inner));
                true
            }
            _ => true,
        }
    }
}

/// Class and method of a frame, and the queue that it names where these are of a kind that does.
fn named_queue(frame: &[u8]) -> Option<([u8; 4], &[u8])> {
    const METHOD: u8 = 1;
    const RESERVED_BYTES: usize = 2;
    let arguments = frame.get(FRAME_HEADER_BYTES..)?;
    if frame[0] != METHOD {
        return None;
    }
    let (method, arguments) = arguments.split_first_chunk::<4>()?;
    let (&length, queue) = arguments.get(RESERVED_BYTES..)?.split_first()?;
    Some((*method, queue.get(..length.into())?))
}

fn connection(client: &TcpStream, target: SocketAddr, shared: &Shared) {
    let Ok(server) = TcpStream::connect(target) else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &server, &mut &*client);
            let _ = client.shutdown(Shutdown::Both);
        });
        // An error is the end of one of the two, and so of both.
        let _ = pass_frames(client, &server, shared);
        let _ = server.shutdown(Shutdown::Both);
    });
}

fn pass_frames(mut client: &TcpStream, mut server: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut frame = vec![0; PROTOCOL_HEADER_BYTES];
    client.read_exact(&mut frame)?;
    server.write_all(&frame)?;
    loop {
        frame.resize(FRAME_HEADER_BYTES, 0);
        client.read_exact(&mut frame)?;
        let n_bytes = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
        let n_bytes = usize::try_from(n_bytes).unwrap();
        frame.resize(FRAME_HEADER_BYTES + n_bytes + FRAME_END_BYTES, 0);
        client.read_exact(&mut frame[FRAME_HEADER_BYTES..])?;
        if shared.lets_pass(&frame) {
            server.write_all(&frame)?;
        }
    }
}
