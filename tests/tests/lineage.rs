//! Events about runs, in the form of OpenLineage: what a receiver gets, and that a run never waits
//! for one or fails because of it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gleaner_tests::program::{Ended, Workspace, command_in, ended, files, number, program, text};
use gleaner_tests::small;
use serde_json::{Value, json};

/// What a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Status(u16),
    /// It takes the connection and never answers.
    Nothing,
}

/// An event with the head of its request.
#[derive(Debug, Clone)]
struct Posted {
    head: String,
    event: Value,
}

/// A receiver of events, for as long as the test runs.
struct Receiver {
    url: String,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Receiver {
    fn answering(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let posted = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&posted);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let all = Arc::clone(&all);
                std::thread::spawn(move || receive(&stream, answer, &all));
            }
        });
        Self { url, posted }
    }

    fn events(&self) -> Vec<Value> {
        let posted = self.posted.lock().unwrap();
        posted.iter().map(|it| it.event.clone()).collect()
    }
}

fn receive(stream: &TcpStream, answer: Answer, all: &Mutex<Vec<Posted>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let lines = head.to_ascii_lowercase();
        let length = lines
            .lines()
            .find_map(|it| it.strip_prefix("content-length:"))?;
        let mut body = vec![0; length.trim().parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let event = serde_json::from_slice(&body).ok()?;
        all.lock().unwrap().push(Posted { head, event });
        let Answer::Status(status) = answer else {
            std::thread::sleep(Duration::from_secs(600));
            return None;
        };
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

fn run_with(workspace: &Workspace, variables: &[(&str, &str)]) -> Ended {
    let mut command: Command = command_in(workspace.path(), program());
    command
        .args(["run", "job.yaml"])
        .envs(variables.iter().copied());
    ended(&mut command)
}

/// What the published schema (2-0-2) requires of run events and of what they hold.
fn check(event: &Value) {
    for key in ["eventTime", "producer", "schemaURL"] {
        assert!(event[key].is_string(), "{key} of {event}");
    }
    assert!(
        chrono::DateTime::parse_from_rfc3339(&text(event, "eventTime")).is_ok(),
        "{event}"
    );
    let types = ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"];
    assert!(
        types.contains(&text(event, "eventType").as_str()),
        "{event}"
    );
    check_run_id(&event["run"]);
    check_name(&event["job"]);
    let mut facets = vec![&event["run"]["facets"], &event["job"]["facets"]];
    for (datasets, own) in [("inputs", "inputFacets"), ("outputs", "outputFacets")] {
        for dataset in event[datasets].as_array().unwrap() {
            check_name(dataset);
            facets.push(&dataset["facets"]);
            facets.extend(dataset.get(own));
        }
    }
    for (name, facet) in facets.iter().flat_map(|it| it.as_object().unwrap()) {
        for key in ["_producer", "_schemaURL"] {
            let url = text(facet, key);
            assert!(url.starts_with("https://"), "{key} of {name}: {facet}");
        }
        // What each of the facets requires beyond that.
        let required: &[&str] = match name.as_str() {
            "parent" => &["run", "job"],
            "errorMessage" => &["message", "programmingLanguage"],
            "processing_engine" => &["version"],
            "jobType" => &["processingType", "integration"],
            "sql" => &["query"],
            "version" => &["datasetVersion"],
            "schema" => &["fields"],
            "inputStatistics" | "outputStatistics" => &[],
            other => panic!("{other} is no facet of the standard"),
        };
        for key in required {
            assert!(!facet[key].is_null(), "{key} of {name}: {facet}");
        }
        if name == "parent" {
            check_run_id(&facet["run"]);
            check_name(&facet["job"]);
        }
    }
}

fn check_run_id(run: &Value) {
    let id = text(run, "runId");
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
    let is_hex = |c: char| c.is_ascii_hexdigit() || c == '-';
    assert!(id.chars().all(is_hex), "{id}");
}

fn check_name(named: &Value) {
    assert!(!text(named, "namespace").is_empty(), "{named}");
    assert!(!text(named, "name").is_empty(), "{named}");
}

/// Types of events by job, in the order in which they came.
fn types_of(events: &[Value], job: &str) -> Vec<String> {
    let events = events.iter().filter(|event| event["job"]["name"] == job);
    events.map(|event| text(event, "eventType")).collect()
}

fn last_of<'a>(events: &'a [Value], job: &str) -> &'a Value {
    let mut events = events.iter().rev();
    events.find(|event| event["job"]["name"] == job).unwrap()
}

#[test]
fn a_run_and_its_stages_begin_and_end_with_what_they_read_and_write() {
    let (workspace, _) = small::workspace();
    let receiver = Receiver::answering(Answer::Status(201));
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let lineage = format!(
        "lineage: {{url: '{}', namespace: nightly, api_key_env: RECEIVER_KEY}}\n",
        receiver.url
    );
    workspace.write("job.yaml", job + &lineage);
    let _ = run_with(&workspace, &[("RECEIVER_KEY", "open sesame")]).expect(0);
    let events = receiver.events();
    events.iter().for_each(check);
    for job in ["small", "small.weights", "small.chosen", "small.counts"] {
        assert_eq!(types_of(&events, job), ["START", "COMPLETE"], "{job}");
    }
    let whole = last_of(&events, "small");
    assert_eq!(whole["job"]["namespace"], "nightly");
    let manifest = fs::read_to_string(workspace.path().join("out/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let out = workspace.path().canonicalize().unwrap().join("out");
    let tables = manifest["tables"].as_object().unwrap();
    let outputs = whole["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), tables.len());
    for (name, table) in tables {
        let path = out.join(name).display().to_string();
        let output = outputs.iter().find(|it| it["name"] == path).expect(name);
        assert_eq!(output["namespace"], "file");
        let statistics = &output["outputFacets"]["outputStatistics"];
        assert_eq!(statistics["rowCount"], table["rows"], "{name}");
        assert_eq!(statistics["size"], table["bytes"], "{name}");
        let n_files = table["files"].as_array().unwrap().len() as u64;
        assert_eq!(number(statistics, "fileCount"), n_files, "{name}");
        let fields = output["facets"]["schema"]["fields"].as_array().unwrap();
        let names: Vec<&Value> = fields.iter().map(|field| &field["name"]).collect();
        let columns = table["schema"]["fields"].as_array().unwrap();
        let columns: Vec<&Value> = columns.iter().map(|field| &field["name"]).collect();
        assert_eq!(names, columns, "{name}");
        assert_eq!(output["facets"]["version"]["datasetVersion"], "1");
    }
    let corpus = workspace.path().canonicalize().unwrap().join("corpus");
    let read = &whole["inputs"][0];
    assert_eq!(read["name"], corpus.display().to_string());
    assert_eq!(
        read["inputFacets"]["inputStatistics"]["fileCount"],
        small::FILES
    );
    // A stage belongs to the run, and names what it reads itself.
    let chosen = last_of(&events, "small.chosen");
    let parent = &chosen["run"]["facets"]["parent"];
    assert_eq!(parent["run"]["runId"], whole["run"]["runId"]);
    assert_eq!(
        parent["job"],
        json!({"namespace": "nightly", "name": "small"})
    );
    let inputs = chosen["inputs"].as_array().unwrap();
    let weights = out.join("weights").display().to_string();
    assert!(inputs.iter().any(|it| it["name"] == weights), "{inputs:?}");
    let counts = last_of(&events, "small.counts");
    let query = text(&counts["job"]["facets"]["sql"], "query");
    assert!(query.starts_with("SELECT source"), "{query}");
    // The key is sent, and nowhere else.
    let posted = receiver.posted.lock().unwrap().clone();
    for Posted { head, event } in &posted {
        assert!(head.starts_with("POST /api/v1/lineage HTTP/1.1"), "{head}");
        assert!(head.contains("Bearer open sesame"), "{head}");
        assert!(!event.to_string().contains("sesame"), "{event}");
    }
    for path in files(&workspace.path().join("out")) {
        let bytes = fs::read(&path).unwrap();
        let has_key = bytes.windows(6).any(|window| window == b"sesame");
        assert!(!has_key, "{}", path.display());
    }
    // Nothing to do is a run, too; the tables are as old as they were.
    let _ = run_with(&workspace, &[("RECEIVER_KEY", "open sesame")]).expect(0);
    let types = types_of(&receiver.events(), "small");
    assert_eq!(types, ["START", "COMPLETE", "START", "COMPLETE"]);
}

#[test]
fn a_run_that_fails_says_where_and_why() {
    let (workspace, _) = small::workspace();
    workspace.write("corpus/part-9.parquet", "no Parquet");
    let receiver = Receiver::answering(Answer::Status(200));
    let _ = run_with(&workspace, &[("OPENLINEAGE_URL", &receiver.url)]).expect(3);
    let events = receiver.events();
    events.iter().for_each(check);
    assert_eq!(types_of(&events, "small"), ["START", "FAIL"]);
    assert_eq!(types_of(&events, "small.weights"), ["START", "FAIL"]);
    assert_eq!(types_of(&events, "small.chosen"), Vec::<String>::new());
    let failed = last_of(&events, "small");
    assert_eq!(failed["job"]["namespace"], "gleaner");
    let message = text(&failed["run"]["facets"]["errorMessage"], "message");
    assert!(message.contains("part-9.parquet"), "{message}");
    let off = [
        ("OPENLINEAGE_URL", receiver.url.as_str()),
        ("OPENLINEAGE_DISABLED", "true"),
    ];
    let _ = run_with(&workspace, &off).expect(3);
    assert_eq!(receiver.events().len(), events.len());
}

#[cfg(unix)]
#[test]
fn a_run_that_is_interrupted_is_aborted() {
    let (workspace, _) = small::workspace();
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let slow =
        "  model: {kind: train_language_model, size: 1m, vocabulary: 300, tokens: 1000000}\n";
    workspace.write("job.yaml", job + slow);
    let receiver = Receiver::answering(Answer::Status(200));
    let mut command = command_in(workspace.path(), program());
    command
        .args(["run", "job.yaml"])
        .env("OPENLINEAGE_URL", &receiver.url);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let trains = workspace.path().join("out/_gleaner/plans/model/train");
    while !trains.is_dir() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it trained"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    // The first asks to finish what is in hand, the second to drop it.
    let mut ended = child.try_wait().unwrap();
    while ended.is_none() {
        let id = child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &id]).status();
        std::thread::sleep(Duration::from_millis(200));
        ended = child.try_wait().unwrap();
    }
    assert_eq!(ended.unwrap().code(), Some(130));
    let events = receiver.events();
    events.iter().for_each(check);
    assert_eq!(types_of(&events, "small.weights"), ["START", "COMPLETE"]);
    assert_eq!(types_of(&events, "small.model"), ["START", "ABORT"]);
    assert_eq!(types_of(&events, "small"), ["START", "ABORT"]);
}

#[test]
fn no_run_fails_or_hangs_with_its_receiver() {
    let lost = "lineage events are lost";
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let hanging = Receiver::answering(Answer::Nothing);
    let broken = Receiver::answering(Answer::Status(503));
    for url in [&nobody, &hanging.url, &broken.url] {
        let (workspace, _) = small::workspace();
        let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
        workspace.write(
            "job.yaml",
            format!("{job}lineage: {{url: '{url}', timeout: 1s}}\n"),
        );
        let ended = run_with(&workspace, &[]).expect(0);
        assert_eq!(
            ended.stderr.matches(lost).count(),
            1,
            "{url}: {}",
            ended.stderr
        );
        let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    }
    let (workspace, _) = small::workspace();
    let with_password = [("OPENLINEAGE_URL", "http://me:hidden@127.0.0.1:1")];
    let ended = run_with(&workspace, &with_password)
        .expect(0)
        .says("OPENLINEAGE_API_KEY");
    assert!(!ended.stderr.contains("hidden"), "{}", ended.stderr);
}

#[test]
fn a_receiver_that_cannot_be_one_is_an_error_of_the_job_file() {
    let (workspace, _) = small::workspace();
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    for (lineage, expected) in [
        ("{url: marquez}", "not the URL of a server"),
        (
            "{url: 'http://me:hidden@marquez'}",
            "has a user, a password or parameters",
        ),
        (
            "{url: 'http://marquez', api_key_env: 'a key'}",
            "environment variable",
        ),
        ("{url: 'http://marquez', timeout: 0s}", "in no time"),
        ("{urls: 'http://marquez'}", "did you mean `url`"),
    ] {
        workspace.write("job.yaml", format!("{job}lineage: {lineage}\n"));
        let _ = workspace
            .gleaner(&["validate", "job.yaml"])
            .expect(2)
            .says(expected);
    }
}
