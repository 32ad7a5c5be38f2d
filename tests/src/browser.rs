//! Chromium without a window, driven over two pipes by its own protocol: no port is opened, and
//! nothing but the browser itself has to be installed.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers;

/// Names under which the browser is installed.
const PROGRAMS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];
/// What is awaited comes within this time, on a machine with much to do.
const SOON: Duration = Duration::from_secs(60);
/// The browser reads commands from the third file and writes answers to the fourth.
const SCRIPT: &str = r#"exec "$0" "$@" 3<commands 4>answers"#;
/// Nothing is asked of the internet, nothing is kept.
const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// A browser with one page. It ends when it is dropped.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    commands: File,
    answers: BufReader<File>,
    session: String,
    n_commands: u64,
    complaints: Vec<String>,
    _directory: TempDir,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Width of the window in pixels.
    pub width: u32,
    /// Height of the window in pixels.
    pub height: u32,
    /// Whether the user prefers dark.
    pub is_dark: bool,
}

/// The browser, if it is installed.
fn installed() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("GLEANER_CHROMIUM") {
        return Some(path.into());
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .flat_map(|folder| PROGRAMS.map(|program| folder.join(program)))
        .find(|path| path.is_file())
}

impl Browser {
    /// Starts a browser; `None` where there is none, which is said.
    ///
    /// # Panics
    ///
    /// If it does not start, or if it must be there and is not.
    #[must_use]
    pub fn start() -> Option<Self> {
        let Some(program) = installed() else {
            servers::skip("there is no chromium; install the package `chromium`");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let pipes = ["commands", "answers"].map(|name| directory.path().join(name));
        let made = Command::new("mkfifo").args(&pipes).status().unwrap();
        assert!(made.success(), "mkfifo failed");
        let profile = format!("--user-data-dir={}/profile", directory.path().display());
        let process = Command::new("sh")
            .current_dir(directory.path())
            .args(["-c", SCRIPT])
            .arg(program)
            .args(FLAGS)
            .args([profile.as_str(), "about:blank"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Each waits for the other side, in the order of the shell.
        let commands = File::options().write(true).open(&pipes[0]).unwrap();
        let answers = BufReader::new(File::open(&pipes[1]).unwrap());
        let mut browser = Self {
            process,
            commands,
            answers,
            session: String::new(),
            n_commands: 0,
            complaints: Vec::new(),
            _directory: directory,
        };
        browser.attach();
        Some(browser)
    }

    fn attach(&mut self) {
        let targets = self.call("Target.getTargets", json!({}));
        let targets = targets["targetInfos"].as_array().unwrap();
        let page = targets.iter().find(|it| it["type"] == "page").unwrap();
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", attach);
        self.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Runtime", "Log", "Page", "Accessibility"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
    }

    /// Sends a command of the browser's protocol, and returns its result.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let called = self.try_call(method, params);
        called.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.n_commands += 1;
        let mut command = json!({ "id": self.n_commands, "method": method, "params": params });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).unwrap();
        loop {
            let mut message = Vec::new();
            self.answers.read_until(0, &mut message).unwrap();
            assert_eq!(message.pop(), Some(0), "the browser ended during {method}");
            let message: Value = serde_json::from_slice(&message).unwrap();
            if message["id"] == self.n_commands {
                if message["error"].is_null() {
                    return Ok(message["result"].clone());
                }
                return Err(message["error"].to_string());
            }
            self.hear(&message);
        }
    }

    fn hear(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(params["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") => self.complaints.push(params["entry"].to_string()),
            _ => {}
        }
    }

    /// Exceptions of the page, what its policy refused, and what could not be loaded.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    ///
    /// If it throws.
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params);
        let thrown = &result["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    #[track_caller]
    pub fn await_that(&mut self, expression: &str) {
        let started = Instant::now();
        let params = json!({ "expression": expression, "returnByValue": true });
        loop {
            // A page that is about to be another one cannot be asked.
            let called = self.try_call("Runtime.evaluate", params.clone());
            if called.is_ok_and(|it| it["result"]["value"] == json!(true)) {
                return;
            }
            assert!(started.elapsed() < SOON, "still not: {expression}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Looks at the page in another way.
    pub fn look(&mut self, view: View) {
        let scheme = if view.is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
        let size = json!({
            "width": view.width, "height": view.height, "deviceScaleFactor": 1,
            "mobile": view.width < 500,
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Presses a key and lets it go.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["rawKeyDown", "char", "keyUp"] {
            let text = if key == "Enter" { "\r" } else { "" };
            if kind == "char" && text.is_empty() {
                continue;
            }
            let event = json!({
                "type": kind, "key": key, "code": key, "text": text,
                "windowsVirtualKeyCode": code,
            });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// What screen readers are told: role, name and value of what has a role.
    ///
    /// # Panics
    ///
    /// If the browser does not tell.
    pub fn accessible(&mut self) -> Vec<[String; 3]> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().unwrap();
        let text = |value: &Value| match &value["value"] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        nodes
            .iter()
            .filter(|node| node["ignored"] != json!(true))
            .map(|node| {
                [
                    text(&node["role"]),
                    text(&node["name"]),
                    text(&node["value"]),
                ]
            })
            .collect()
    }

    /// The page as a picture (PNG).
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn picture(&mut self) -> String {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        picture["data"].as_str().unwrap().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
