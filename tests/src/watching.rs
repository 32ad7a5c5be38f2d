//! A plain reader of what `gleaner run --dashboard` serves.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A server that is about to listen does so within this time, and answers.
const SOON: Duration = Duration::from_secs(60);

/// A port of this machine that nobody listens to.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The number of its status.
    pub status: u16,
    /// Its head: status line and headers, in small letters.
    pub head: String,
    /// Its body.
    pub body: String,
}

fn connect(port: u16) -> TcpStream {
    let started = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(SOON)).unwrap();
                return stream;
            }
            Err(error) => assert!(started.elapsed() < SOON, "nobody listens: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks once, with these lines as the whole head but its end.
///
/// # Panics
///
/// If nobody answers.
#[must_use]
pub fn ask(port: u16, head: &[&str]) -> Answer {
    let mut stream = connect(port);
    let head = format!("{}\r\nconnection: close\r\n\r\n", head.join("\r\n"));
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// A stream of snapshots.
#[derive(Debug)]
pub struct Snapshots(BufReader<TcpStream>);

impl Snapshots {
    /// Begins to watch, when somebody listens.
    ///
    /// # Panics
    ///
    /// If nobody does.
    #[must_use]
    pub fn of(port: u16) -> Self {
        let mut stream = connect(port);
        let request = "GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }
}

impl Iterator for Snapshots {
    type Item = Value;

    /// The next snapshot; none after the end of the stream.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data.trim_end()).expect(data));
            }
        }
    }
}
