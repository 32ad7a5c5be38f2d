//! A TCP proxy whose connections break as a test wants it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 16 << 10;
/// Times that the proxy tries to get its port back.
const BIND_TRIES: usize = 200;
/// Between two such tries.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// What happens to connections, those that are open too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    Pass,
    /// Connections stay open and nothing passes.
    BlackHole,
    /// Nobody listens, and what is open breaks.
    Refuse,
    /// Everything passes, each piece so much later.
    Delay(Duration),
    /// A connection breaks after so many bytes from the server, counted from when the mode began.
    CutAfter(u64),
    /// Connections are accepted and break at once, and what is open breaks.
    Reset,
}

/// A proxy on a port of its own, on a thread of its own. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: Option<watch::Sender<Mode>>,
    n_connections: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy before `target` through which everything passes.
    ///
    /// # Panics
    ///
    /// If there is no port to be had.
    #[must_use]
    pub fn start(target: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, receiver) = watch::channel(Mode::Pass);
        let n_connections = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&n_connections);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let listener = {
                let _guard = runtime.enter();
                TcpListener::from_std(listener).unwrap()
            };
            runtime.block_on(listen(listener, address, target, receiver, counter));
        });
        Self {
            address,
            mode: Some(mode),
            n_connections,
            thread: Some(thread),
        }
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens, from now on.
    pub fn set(&self, mode: Mode) {
        if let Some(sender) = &self.mode {
            sender.send_replace(mode);
        }
    }

    /// Connections that were accepted so far.
    #[must_use]
    pub fn n_connections(&self) -> u64 {
        self.n_connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.mode.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn listen(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    n_connections: Arc<AtomicU64>,
) {
    let mut listener = Some(listener);
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(bind(address).await);
        }
        let Some(open) = &listener else {
            if mode.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            accepted = open.accept() => {
                let Ok((client, _)) = accepted else { continue };
                n_connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection(client, target, mode.clone()));
            }
        }
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    for _ in 0..BIND_TRIES {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
        tokio::time::sleep(BIND_PAUSE).await;
    }
    panic!("the port of the proxy {address} was taken");
}

fn breaks(mode: Mode) -> bool {
    matches!(mode, Mode::Refuse | Mode::Reset)
}

async fn connection(client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>) {
    // So that dropping them resets them.
    let _ = client.set_zero_linger();
    if breaks(*mode.borrow()) {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The one that breaks takes the other with it; an end of the stream is passed on.
    let _ = tokio::try_join!(
        pass(from_client, to_server, mode.clone(), false),
        pass(from_server, to_client, mode, true),
    );
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    is_answer: bool,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut n_passed = 0;
    loop {
        let n = tokio::select! {
            read = from.read(&mut piece) => read?,
            changed = mode.changed() => {
                n_passed = 0;
                if changed.is_err() || breaks(*mode.borrow()) {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                continue;
            }
        };
        if n == 0 {
            return to.shutdown().await;
        }
        let mut n_allowed = n;
        loop {
            let now = *mode.borrow_and_update();
            match now {
                Mode::Pass => break,
                Mode::Delay(pause) => {
                    tokio::time::sleep(pause).await;
                    break;
                }
                Mode::CutAfter(n_bytes) if is_answer => {
                    n_allowed = n.min(usize::try_from(n_bytes.saturating_sub(n_passed)).unwrap());
                    break;
                }
                Mode::CutAfter(_) => break,
                Mode::Refuse | Mode::Reset => {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Mode::BlackHole => {
                    if mode.changed().await.is_err() {
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                }
            }
        }
        to.write_all(&piece[..n_allowed]).await?;
        if n_allowed < n {
            to.flush().await?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        n_passed += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut bytes = [0; 1024];
                    while let Ok(n @ 1..) = stream.read(&mut bytes) {
                        if stream.write_all(&bytes[..n]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn say(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[test]
    fn modes_change_while_connections_are_open() {
        let proxy = Proxy::start(echo());
        let mut stream = connect(&proxy);
        assert_eq!(say(&mut stream, "hello").unwrap(), "hello");

        proxy.set(Mode::BlackHole);
        stream.write_all(b"later").unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert!(stream.read(&mut [0; 5]).is_err(), "something came");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        proxy.set(Mode::Pass);
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"later");

        proxy.set(Mode::CutAfter(3));
        stream.write_all(b"1234567").unwrap();
        let mut got = Vec::new();
        let mut bytes = [0; 16];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            got.extend_from_slice(&bytes[..n]);
        }
        assert!("123".as_bytes().starts_with(&got), "{got:?}");

        proxy.set(Mode::Reset);
        let mut stream = connect(&proxy);
        assert!(say(&mut stream, "x").is_err());

        proxy.set(Mode::Refuse);
        let deadline = std::time::Instant::now() + PATIENCE;
        while TcpStream::connect(proxy.address()).is_ok() {
            assert!(std::time::Instant::now() < deadline, "somebody listens");
        }
        proxy.set(Mode::Delay(Duration::from_millis(20)));
        let mut stream = loop {
            match TcpStream::connect(proxy.address()) {
                Ok(stream) => break stream,
                Err(_) => assert!(std::time::Instant::now() < deadline, "nobody listens"),
            }
        };
        let begin = std::time::Instant::now();
        assert_eq!(say(&mut stream, "slow").unwrap(), "slow");
        assert!(begin.elapsed() >= Duration::from_millis(40));
        assert!(proxy.n_connections() >= 3);
    }
}
