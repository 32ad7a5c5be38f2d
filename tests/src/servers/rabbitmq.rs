//! RabbitMQ: an isolated node on loopback, in a temporary folder, with a cookie of its own.
//!
//! A node ends when its [`RabbitMq`] is dropped, and also when this process ends in any other way:
//! a second process, the keeper, waits for its standard input to close, and then kills the node
//! and removes the folder. A kept node of many tests ([`RabbitMq::shared`]) relies on that.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Bound of the time that a node takes to start, on a machine that does much else.
const START_MAX: Duration = Duration::from_secs(120);
/// Further calls of `rabbitmqctl` that could not talk to the node.
const CTL_RETRIES: u32 = 3;
/// Bound of the time that a node takes to stop in an orderly way.
const STOP_MAX: Duration = Duration::from_secs(60);
/// Debian's own scripts change to another user; these do not.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";
/// Ports at a node: AMQP, AMQP over TLS, distribution, and that of `rabbitmqctl`.
const N_PORTS: usize = 4;

/// Kills the node once its input ends, whatever ended it.
const KEEPER: &str = r#"
read -r _
kill -9 "$(cat "$1/pid")" 2>/dev/null
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"#;

/// How a node is configured.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// After how long the broker takes a delivery back; 30 minutes if `None`.
    pub consumer_timeout: Option<Duration>,
    /// Whether it listens with TLS too, with a certificate of an own authority for `localhost`.
    pub tls: bool,
}

/// A node of RabbitMQ.
#[derive(Debug)]
pub struct RabbitMq {
    folder: PathBuf,
    ports: [u16; N_PORTS],
    node: Option<Child>,
    keeper: Child,
}

impl RabbitMq {
    /// Starts a node; `None`, loudly, where RabbitMQ is not installed.
    ///
    /// # Panics
    ///
    /// If it does not start; or if it is not installed and the environment requires it.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&Settings::default())
    }

    /// Starts a node with settings of its own; as [`RabbitMq::start`].
    ///
    /// # Panics
    ///
    /// As [`RabbitMq::start`].
    #[must_use]
    pub fn start_with(settings: &Settings) -> Option<Self> {
        if script("rabbitmq-server").is_none() {
            super::skip(
                "rabbitmq-server is not installed (apt-get install --no-install-recommends \
                 rabbitmq-server)",
            );
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("gleaner-rabbitmq-")
            .tempdir()
            .unwrap()
            .keep();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal from the terminal to this process's group is not for the keeper.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut broker = Self {
            folder,
            ports: free_ports(),
            node: None,
            keeper,
        };
        broker.configure(settings);
        broker.start_again();
        Some(broker)
    }

    /// The node that all tests share which do it no harm: they use vhosts of their own.
    ///
    /// # Panics
    ///
    /// As [`RabbitMq::start`].
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<RabbitMq>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// The port of AMQP.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The URL of the vhost `/`, with the user guest.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("guest", "guest", "%2f")
    }

    /// The URL of a vhost for a user; all as they stand in URLs.
    #[must_use]
    pub fn url_of(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/{vhost}", self.port())
    }

    /// The URL with TLS. The certificate is for the name `localhost`, not the address.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.ports[1])
    }

    /// The certificate of the authority that signed the node's.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Creates a vhost that nobody else uses; returns its name.
    #[must_use]
    pub fn new_vhost(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // One call of the slow tool instead of two.
        self.eval(&format!(
            "rabbit_vhost:add(<<\"{name}\">>, <<\"test\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, <<\"{name}\">>, \
             <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>)."
        ));
        name
    }

    /// The URL of a new vhost, with the user guest.
    #[must_use]
    pub fn new_vhost_url(&self) -> String {
        self.url_of("guest", "guest", &self.new_vhost())
    }

    /// Runs `rabbitmqctl`; returns what it prints.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn ctl<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> String {
        let args: Vec<_> = args.into_iter().collect();
        let mut ended = self.try_ctl(&args);
        // On a busy machine the tool does not find the time to shake hands with the node.
        for _ in 0..CTL_RETRIES {
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            if ended.status.success() || !said.contains("Erlang distribution failed") {
                break;
            }
            ended = self.try_ctl(&args);
        }
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        let complained = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "rabbitmqctl: {said} {complained}");
        said
    }

    /// Evaluates an Erlang expression in the node.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn eval(&self, expression: &str) -> String {
        self.ctl(["eval", expression])
    }

    /// Cuts every connection.
    pub fn close_all_connections(&self) {
        self.ctl(["close_all_connections", "by a test"]);
    }

    /// Stops the node in an orderly way; it keeps what it stored.
    ///
    /// # Panics
    ///
    /// If it does not stop.
    pub fn stop(&mut self) {
        let Some(mut node) = self.node.take() else {
            return;
        };
        let _ = self.try_ctl(["stop"]);
        let deadline = Instant::now() + STOP_MAX;
        while node.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the broker does not stop");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the node at once, as a loss of power would; it keeps what it synced.
    pub fn kill(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }

    /// Freezes the node: its connections stay, and nothing answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Ends [`RabbitMq::freeze`].
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Removes all that a stopped node stored, as a broken disk would.
    ///
    /// # Panics
    ///
    /// If the node runs.
    pub fn wipe(&self) {
        assert!(self.node.is_none(), "the broker runs");
        let _ = fs::remove_dir_all(self.folder.join("db"));
    }

    /// Starts the node after [`RabbitMq::stop`] or [`RabbitMq::kill`], on the same ports.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&mut self) {
        assert!(self.node.is_none(), "the broker runs");
        let output = File::create(self.folder.join("output")).unwrap();
        let mut node = self
            .command("rabbitmq-server")
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        // The script turns into the node.
        fs::write(self.folder.join("pid"), node.id().to_string()).unwrap();
        let deadline = Instant::now() + START_MAX;
        // It fails at once until the node can be spoken to.
        while !self
            .try_ctl(["await_startup", "--timeout", "60"])
            .status
            .success()
        {
            let is_over = node.try_wait().unwrap().is_some() || Instant::now() > deadline;
            if is_over {
                let output = fs::read_to_string(self.folder.join("output")).unwrap();
                panic!("the broker does not start: {output}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.node = Some(node);
    }

    fn signal(&self, signal: &str) {
        let pid = self.node.as_ref().expect("the broker runs").id();
        let status = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    fn try_ctl<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Output {
        self.command("rabbitmqctl")
            .args(["-q", "-n", &self.name()])
            .args(args)
            .output()
            .unwrap()
    }

    /// One of RabbitMQ's scripts, for this node.
    fn command(&self, name: &str) -> Command {
        let folder = &self.folder;
        let mut command = Command::new(script(name).expect("it was there"));
        command
            .current_dir(folder)
            // The cookie is in the home folder.
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", self.name())
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("db"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_DIST_PORT", self.ports[2].to_string())
            .env("RABBITMQ_CTL_DIST_PORT_MIN", self.ports[3].to_string())
            .env("RABBITMQ_CTL_DIST_PORT_MAX", (self.ports[3] + 50).to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            // Then the script turns into the node, which a signal can reach.
            .env("RUNNING_UNDER_SYSTEMD", "1")
            .stdin(Stdio::null());
        command
    }

    fn name(&self) -> String {
        format!("gleaner{}@localhost", self.port())
    }

    fn configure(&self, settings: &Settings) {
        let folder = self.folder.display();
        let timeout = settings.consumer_timeout;
        let timeout = timeout.unwrap_or(Duration::from_secs(1800)).as_millis();
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nconsumer_timeout = {timeout}\n",
            self.port()
        );
        if settings.tls {
            self.make_certificates();
            config += &format!(
                "listeners.ssl.1 = 127.0.0.1:{}\nssl_options.cacertfile = {folder}/ca.pem\n\
                 ssl_options.certfile = {folder}/node.pem\nssl_options.keyfile = \
                 {folder}/node.key\nssl_options.verify = verify_none\n",
                self.ports[1]
            );
        }
        let write = |name: &str, text: &str| fs::write(self.folder.join(name), text).unwrap();
        write("rabbitmq.conf", &config);
        // How often it looks for deliveries that are overdue.
        let advanced = "[{rabbit, [{channel_tick_interval, 1000}]}].\n";
        write("advanced.config", advanced);
        write("plugins", "[].\n");
    }

    fn make_certificates(&self) {
        let extensions = "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n";
        fs::write(self.folder.join("extensions"), extensions).unwrap();
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        for step in [
            format!(
                "req -x509 {new_key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority"
            ),
            format!("req {new_key} -keyout node.key -out node.csr -subj /CN=localhost"),
            "x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out node.pem \
             -days 2 -extfile extensions"
                .to_owned(),
        ] {
            let ended = Command::new("openssl")
                .args(step.split_whitespace())
                .current_dir(&self.folder)
                .output()
                .expect("openssl is installed");
            let complained = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "openssl {step}: {complained}");
        }
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn script(name: &str) -> Option<PathBuf> {
    let mut folders = vec![PathBuf::from(SCRIPTS)];
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    let mut scripts = folders.iter().map(|folder| Path::new(folder).join(name));
    scripts.find(|script| script.is_file())
}

/// Ports that nobody listens on. Somebody else may take one before the node does, though hardly:
/// the system gives out others first.
fn free_ports() -> [u16; N_PORTS] {
    let listeners = [(); N_PORTS].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
