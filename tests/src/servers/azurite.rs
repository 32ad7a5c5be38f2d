//! Azure's own emulator of its object store, on a free port of the loopback, in memory.
//!
//! It needs Node and `npm install --global azurite`, some hundred megabytes that nothing else here
//! needs: it is never required, and where it is missing its tests are skipped, loudly.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Names the program where it is not on the path.
const PROGRAM: &str = "GLEANER_AZURITE";
/// The account that every emulator has, and its published key.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// A loaded machine takes long.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two looks at what is starting.
const POLL: Duration = Duration::from_millis(100);

/// Makes a container: the client of object stores cannot. Arguments: port, account, key, name.
const MAKE_CONTAINER: &str = r#"
const [port, account, key, name] = process.argv.slice(1);
const date = new Date().toUTCString(), version = "2021-10-04";
const text = "PUT" + "\n".repeat(12) + `x-ms-date:${date}\nx-ms-version:${version}\n`
  + `/${account}/${account}/${name}\nrestype:container`;
const signature = require("crypto").createHmac("sha256", Buffer.from(key, "base64"))
  .update(text, "utf8").digest("base64");
const headers = { "x-ms-date": date, "x-ms-version": version, "Content-Length": 0,
  Authorization: `SharedKey ${account}:${signature}` };
const path = `/${account}/${name}?restype=container`;
require("http").request({ host: "127.0.0.1", port, path, method: "PUT", headers }, (answer) => {
  answer.resume();
  if (answer.statusCode !== 201) { console.error(answer.statusCode); process.exit(1); }
}).end();
"#;

/// The server. Stops when dropped.
#[derive(Debug)]
pub struct Azurite {
    port: u16,
    process: Child,
    _directory: TempDir,
}

impl Azurite {
    /// A server with a container, or `None` where it is not installed.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start(container: &str) -> Option<Self> {
        let Some(program) = program() else {
            let message = b"SKIPPED: tests on Azure's emulator: there is no azurite-blob \
                            (npm install --global azurite)\n";
            // Past the capture of the test harness.
            let _ = std::io::stderr().write_all(message);
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let process = Command::new(program)
            .args(["--silent", "--inMemoryPersistence", "--skipApiVersionCheck"])
            .args([
                "--disableTelemetry",
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
            ])
            .arg(port.to_string())
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let azurite = Self {
            port,
            process,
            _directory: directory,
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < START_TIMEOUT, "azurite does not start");
            std::thread::sleep(POLL);
        }
        let made = Command::new("node")
            .args(["-e", MAKE_CONTAINER, &port.to_string()])
            .args([ACCOUNT, KEY, container])
            .status();
        assert!(made.unwrap().success(), "the container cannot be made");
        Some(azurite)
    }

    /// The environment of a program that uses it.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{}/{ACCOUNT}", self.port);
        let variables = [
            ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
        ];
        variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> Option<PathBuf> {
    let named = std::env::var_os(PROGRAM).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("azurite-blob"));
    named.into_iter().chain(found).find(|path| path.is_file())
}
