//! A real S3 server: Ceph's radosgw on one node, in memory, on free ports of the loopback.
//!
//! It needs `apt-get install radosgw ceph-mon ceph-osd` and takes half a minute to start, so tests
//! share one. A watchdog that waits for the end of this process stops it, whichever way that is.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::fake_s3::variables;

/// Programs that are needed.
const PROGRAMS: [&str; 8] = [
    "radosgw",
    "radosgw-admin",
    "ceph",
    "ceph-mon",
    "ceph-osd",
    "ceph-authtool",
    "monmaptool",
    "curl",
];
/// A loaded machine takes long.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at what is starting.
const POLL: Duration = Duration::from_millis(200);
/// With this variable, a server that is missing fails the tests that need it.
const REQUIRE: &str = "GLEANER_REQUIRE_SERVERS";
const ACCESS_KEY: &str = "testaccess";
const SECRET_KEY: &str = "testsecret";

/// The server. Stops when dropped, or when the process ends.
#[derive(Debug)]
pub struct Ceph {
    port: u16,
    n_buckets: AtomicU64,
    /// Stops the server when its input ends.
    watchdog: Child,
    directory: TempDir,
}

impl Ceph {
    /// The server that all tests of a process share, or `None` where it is not installed.
    ///
    /// # Panics
    ///
    /// If it does not start, or if `GLEANER_REQUIRE_SERVERS=1` and it is not installed.
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Ceph>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// A server of one's own, or `None` where it is not installed.
    ///
    /// # Panics
    ///
    /// As [`Self::shared`].
    #[must_use]
    pub fn start() -> Option<Self> {
        if let Some(missing) = PROGRAMS.iter().find(|name| !is_installed(name)) {
            let message =
                format!("there is no {missing} (apt-get install radosgw ceph-mon ceph-osd)");
            assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "{message}");
            // Not `eprintln`, which the test harness hides where a test succeeds.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: tests on a real S3 server: {message}"
            );
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let watchdog = watchdog(directory.path());
        let port = free_port();
        let ceph = Self {
            port,
            n_buckets: AtomicU64::new(0),
            watchdog,
            directory,
        };
        ceph.set_up();
        Some(ceph)
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The environment of a program that uses it.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        variables(&self.endpoint(), ACCESS_KEY, SECRET_KEY)
    }

    /// The address where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The environment of a program that uses it by way of a proxy.
    #[must_use]
    pub fn variables_by(&self, proxy: std::net::SocketAddr) -> Vec<(String, String)> {
        variables(&format!("http://{proxy}"), ACCESS_KEY, SECRET_KEY)
    }

    /// The name of a new bucket.
    ///
    /// # Panics
    ///
    /// If it cannot be created.
    #[must_use]
    pub fn new_bucket(&self) -> String {
        let number = self.n_buckets.fetch_add(1, Ordering::Relaxed);
        let name = format!("bucket-{number}");
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--fail",
            "-X",
            "PUT",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
        ])
        .args(["-u", &format!("{ACCESS_KEY}:{SECRET_KEY}")])
        .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
        .arg(format!("{}/{name}", self.endpoint()));
        finish(&mut curl);
        name
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("CEPH_CONF", self.path("ceph.conf"))
            .env("CEPH_ARGS", "")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        finish(&mut self.command(program, arguments))
    }

    fn set_up(&self) {
        for folder in ["mon", "osd", "run", "log"] {
            fs::create_dir(self.path(folder)).unwrap();
        }
        let (mon_v2, mon_v1) = (free_port(), free_port());
        let mon_address = format!("[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]");
        let (cluster, osd) = (uuid(), uuid());
        let settings = settings(self.directory.path(), &cluster, &mon_address, self.port);
        fs::write(self.path("ceph.conf"), settings).unwrap();
        let keyring = self.path("keyring").display().to_string();
        let map = self.path("monmap").display().to_string();
        self.run(
            "ceph-authtool",
            &[
                "--create-keyring",
                &keyring,
                "--gen-key",
                "-n",
                "mon.",
                "--cap",
                "mon",
                "allow *",
            ],
        );
        self.run(
            "ceph-authtool",
            &[
                &keyring,
                "--gen-key",
                "-n",
                "client.admin",
                "--cap",
                "mon",
                "allow *",
                "--cap",
                "osd",
                "allow *",
                "--cap",
                "mgr",
                "allow *",
            ],
        );
        self.run(
            "ceph-authtool",
            &[
                &keyring,
                "--gen-key",
                "-n",
                "client.rgw",
                "--cap",
                "mon",
                "allow rw",
                "--cap",
                "osd",
                "allow rwx",
            ],
        );
        self.run(
            "monmaptool",
            &[
                "--create",
                "--clobber",
                "--fsid",
                &cluster,
                "--addv",
                "a",
                &mon_address,
                &map,
            ],
        );
        self.run(
            "ceph-mon",
            &["--mkfs", "-i", "a", "--monmap", &map, "--keyring", &keyring],
        );
        self.run("ceph-mon", &["-i", "a"]);
        self.wait_for(
            "the monitor",
            &["--connect-timeout", "5", "mon", "stat"],
            "",
        );
        self.run("ceph", &["osd", "new", &osd]);
        let key = self.run(
            "ceph",
            &[
                "auth",
                "get-or-create",
                "osd.0",
                "mon",
                "allow profile osd",
                "osd",
                "allow *",
            ],
        );
        let mut file = fs::OpenOptions::new().append(true).open(&keyring).unwrap();
        file.write_all(key.as_bytes()).unwrap();
        self.run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd]);
        self.run(
            "ceph",
            &[
                "osd",
                "crush",
                "add",
                "osd.0",
                "1.0",
                "root=default",
                "host=localhost",
            ],
        );
        self.run("ceph-osd", &["-i", "0"]);
        self.wait_for("the storage", &["osd", "stat"], "1 up");
        self.run("radosgw", &["-n", "client.rgw", "-k", &keyring]);
        let deadline = Instant::now() + START_TIMEOUT;
        let endpoint = self.endpoint();
        while !succeeds(Command::new("curl").args(["-sf", "-o", "/dev/null", &endpoint])) {
            assert!(
                Instant::now() < deadline,
                "radosgw does not answer: {}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
        self.run(
            "radosgw-admin",
            &[
                "user",
                "create",
                "--uid=test",
                "--display-name=test",
                "--access-key",
                ACCESS_KEY,
                "--secret",
                SECRET_KEY,
            ],
        );
    }

    /// Waits until `ceph` with these arguments succeeds and says `expected`.
    fn wait_for(&self, what: &str, arguments: &[&str], expected: &str) {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let output = self.command("ceph", arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            if output.status.success() && text.contains(expected) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what} does not start: {}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }

    fn log(&self) -> String {
        let mut text = String::new();
        for file in fs::read_dir(self.path("log"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let log = fs::read_to_string(file.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&lines[lines.len().saturating_sub(5)..].join("\n"));
        }
        text
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// A process that waits until nobody holds its input open, then ends the servers whose process
/// ids lie in `directory/run`.
fn watchdog(directory: &Path) -> Child {
    const SCRIPT: &str = "cat > /dev/null; for file in \"$1\"/run/*.pid; \
                          do kill -9 $(cat \"$file\"); done; rm -rf \"$1\"";
    Command::new("sh")
        .args(["-c", SCRIPT, "sh"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // An interrupt of the tests is not for the watchdog.
        .process_group(0)
        .spawn()
        .unwrap()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn uuid() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    text.trim().to_owned()
}

fn succeeds(command: &mut Command) -> bool {
    command.status().unwrap().success()
}

/// The standard output of a command that succeeds.
fn finish(command: &mut Command) -> String {
    // A daemon keeps what it inherits: of a pipe, nobody would see the end.
    let (mut output, mut errors) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(output.try_clone().unwrap());
    command.stderr(errors.try_clone().unwrap());
    let is_success = succeeds(command);
    let contents = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert!(is_success, "{command:?} failed: {}", contents(&mut errors));
    contents(&mut output)
}

fn settings(directory: &Path, cluster: &str, mon_address: &str, port: u16) -> String {
    let directory = directory.display();
    format!(
        "[global]
fsid = {cluster}
mon host = {mon_address}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {directory}/keyring
run dir = {directory}/run
admin socket = {directory}/run/$cluster-$name.asok
pid file = {directory}/run/$name.pid
log file = {directory}/log/$name.log
mon data = {directory}/mon
mon initial members = a
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 0
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd memory target = 1073741824
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw dynamic resharding = false
rgw enable usage log = false
rgw run sync thread = false
rgw gc max objs = 4
rgw lc max objs = 4
rgw enable quota threads = false
"
    )
}
