//! A server behind TLS with an authority of its own: `openssl s_server`.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server. Ends when dropped.
#[derive(Debug)]
pub struct TlsServer {
    port: u16,
    child: Child,
}

impl TlsServer {
    /// A server for `localhost` whose authority is `ca.pem` in `folder`, or `None` where there is no
    /// openssl.
    ///
    /// # Panics
    ///
    /// If it does not listen, or if `GLEANER_REQUIRE_SERVERS=1` and there is no openssl.
    #[must_use]
    pub fn start(folder: &Path) -> Option<Self> {
        let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 \
                      -subj /CN=authority && \
                      openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr \
                      -subj /CN=localhost && \
                      printf 'subjectAltName=DNS:localhost' > extensions && \
                      openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                      -days 2 -extfile extensions -out server.pem";
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder)
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            let is_required = std::env::var("GLEANER_REQUIRE_SERVERS").as_deref() == Ok("1");
            assert!(!is_required, "there is no openssl");
            // Not `eprintln`, which the test harness hides where a test succeeds.
            let message = "SKIPPED: TLS (apt-get install openssl)";
            let _ = writeln!(std::io::stderr(), "{message}");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let child = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-www",
                "-cert",
                "server.pem",
                "-key",
                "server.key",
            ])
            .args(["-accept", &port.to_string()])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "openssl does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { port, child })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
