//! The program under test, jobs for it, and its outputs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use gleaner_coordinator::sql::Session;
use gleaner_schemas::Version;
use gleaner_storage::{Output, Stores};
use serde_json::Value;
use tempfile::TempDir;

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The program `gleaner`, built with the profile of the tests.
#[must_use]
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("gleaner"))
}

/// The program `gleaner-worker`, built with the profile of the tests.
#[must_use]
pub fn worker_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("gleaner-worker"))
}

/// The program `gleaner-scripted-endpoint`, built with the profile of the tests.
#[must_use]
pub fn scripted_endpoint_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("gleaner-scripted-endpoint"))
}

fn built(name: &str) -> PathBuf {
    // .../<profile>/deps/<test>
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let program = profile.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    // Tests of one package alone do not build the programs of others.
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--locked", "--quiet", "--bin", name]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    // Build scripts of dependencies watch them, and would run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            build.env_remove(name);
        }
    }
    let built = build.current_dir(repository()).status().unwrap();
    assert!(built.success(), "cannot build {name}");
    program
}

/// What the program left.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ended {
    /// Asserts the exit code.
    ///
    /// # Panics
    ///
    /// If it is another one, with everything that was printed.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts that the standard error contains a text.
    ///
    /// # Panics
    ///
    /// If it does not, with everything that was printed.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "{text:?} is not in\nstderr:\n{}\nstdout:\n{}",
            self.stderr,
            self.stdout
        );
        self
    }

    /// The standard output as lines of JSON.
    ///
    /// # Panics
    ///
    /// If it is something else.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }
}

/// Runs the program in `directory`.
///
/// # Panics
///
/// If it cannot be started.
#[must_use]
pub fn gleaner(directory: &Path, arguments: &[&str]) -> Ended {
    ended(&mut command(directory, arguments))
}

/// Runs a command to its end, for the program behind another one.
///
/// # Panics
///
/// If it cannot be started.
#[must_use]
pub fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Starts the program in `directory`, silently.
///
/// # Panics
///
/// If it cannot be started.
#[must_use]
pub fn start(directory: &Path, arguments: &[&str]) -> Child {
    let mut command = command(directory, arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = command_in(directory, program());
    command.args(arguments);
    command
}

/// A command in `directory`, with nothing to read and no settings from outside.
#[must_use]
pub fn command_in(directory: &Path, name: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(directory).stdin(Stdio::null());
    command.env_remove("RUST_LOG").env("NO_COLOR", "1");
    for name in [
        "GLEANER_QUEUE",
        "GLEANER_QUEUE_USER",
        "GLEANER_QUEUE_PASSWORD",
        "OPENLINEAGE_API_KEY",
        "OPENLINEAGE_DISABLED",
        "OPENLINEAGE_ENDPOINT",
        "OPENLINEAGE_NAMESPACE",
        "OPENLINEAGE_URL",
    ] {
        command.env_remove(name);
    }
    command
}

/// A directory with a job, its inputs and its output.
#[derive(Debug)]
pub struct Workspace {
    directory: TempDir,
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

impl Workspace {
    /// An empty directory.
    ///
    /// # Panics
    ///
    /// If there cannot be one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file, and the directories that it is in.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Runs the program here.
    #[must_use]
    pub fn gleaner(&self, arguments: &[&str]) -> Ended {
        gleaner(self.path(), arguments)
    }

    /// Runs `job.yaml` here with further arguments.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.gleaner(&[&["run", "job.yaml"], arguments].concat())
    }

    /// The last event of a run: its summary.
    ///
    /// # Panics
    ///
    /// If the run does not succeed.
    #[must_use]
    #[track_caller]
    pub fn summary(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[&["--json"], arguments].concat()).expect(0);
        ended.events().pop().unwrap()
    }

    /// The rows of a query over the output in `out`.
    ///
    /// # Panics
    ///
    /// If the query fails.
    #[must_use]
    #[track_caller]
    pub fn sql(&self, query: &str) -> Vec<Value> {
        self.sql_of("out", query)
    }

    /// The rows of a query over an output.
    ///
    /// # Panics
    ///
    /// If the query fails.
    #[must_use]
    #[track_caller]
    pub fn sql_of(&self, output: &str, query: &str) -> Vec<Value> {
        self.gleaner(&["sql", output, query, "--format", "json"])
            .expect(0)
            .events()
    }

    /// Every file of a folder below the output, by its name, with the hash of its bytes.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    #[must_use]
    pub fn contents(&self, folder: &str) -> BTreeMap<String, String> {
        files(&self.path().join(folder))
            .into_iter()
            .map(|path| {
                let hash = blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string();
                (
                    path.file_name().unwrap().to_string_lossy().into_owned(),
                    hash,
                )
            })
            .collect()
    }
}

/// A text of a row.
///
/// # Panics
///
/// If it is something else.
#[must_use]
#[track_caller]
pub fn text(row: &Value, key: &str) -> String {
    let text = row[key].as_str();
    text.unwrap_or_else(|| panic!("{key} of {row}")).to_owned()
}

/// A count of a row.
///
/// # Panics
///
/// If it is something else.
#[must_use]
#[track_caller]
pub fn number(row: &Value, key: &str) -> u64 {
    let number = row[key].as_u64();
    number.unwrap_or_else(|| panic!("{key} of {row}"))
}

/// Every file below a directory, sorted.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// An output, opened in this process for large reads.
#[derive(Debug)]
pub struct Opened {
    session: Session,
    /// Its newest version.
    pub version: Version,
    runtime: tokio::runtime::Runtime,
}

impl Opened {
    /// Opens the newest version of a local output.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn new(output: &Path) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stores = Stores::from_env();
        let uri = format!("file://{}", output.canonicalize().unwrap().display());
        let output = Output::open(&stores, &uri).unwrap();
        let version = runtime.block_on(output.latest_version()).unwrap().unwrap();
        let session = runtime
            .block_on(Session::open(&stores, &output, &version))
            .unwrap();
        Self {
            session,
            version,
            runtime,
        }
    }

    /// The rows of a query as one batch.
    ///
    /// # Panics
    ///
    /// If the query fails.
    #[must_use]
    #[track_caller]
    pub fn query(&self, sql: &str) -> RecordBatch {
        let batches = self.runtime.block_on(self.session.query(sql)).unwrap();
        let schema = batches.first().map_or_else(
            || Arc::new(arrow::datatypes::Schema::empty()),
            RecordBatch::schema,
        );
        arrow::compute::concat_batches(&schema, &batches).unwrap()
    }
}
