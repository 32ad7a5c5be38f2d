//! The commands around a run: what they say, what they leave alone, how they end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use gleaner_tests::program::{Workspace, files, number, text};
use gleaner_tests::small::{self, CHOSEN, FILES, NULL, PER_FILE, SHORT};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

/// Every file below a directory with its bytes.
fn snapshot(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = files(directory).into_iter();
    paths
        .map(|path| (path.display().to_string(), fs::read(path).unwrap()))
        .collect()
}

/// Uncompressed bytes of all columns of a Parquet file.
fn uncompressed(path: &Path) -> u64 {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let row_groups = reader.metadata().row_groups().iter();
    let columns = row_groups.flat_map(|row_group| row_group.columns());
    columns
        .map(|column| column.uncompressed_size() as u64)
        .sum()
}

/// Tasks and bytes of each phase that a run of the job starts.
fn run_phases(workspace: &Workspace) -> BTreeMap<String, (u64, u64)> {
    let events = workspace.run(&["--json"]).expect(0).events();
    let started = events
        .iter()
        .filter(|event| event["event"] == "phase_started");
    started
        .map(|event| {
            let name = format!("{}/{}", text(event, "stage"), text(event, "phase"));
            (name, (number(event, "n_tasks"), number(event, "bytes")))
        })
        .collect()
}

#[test]
fn a_plan_tells_what_a_run_will_do_and_writes_nothing() {
    let (workspace, _) = small::workspace();
    let before = snapshot(workspace.path());
    let human = workspace.gleaner(&["plan", "job.yaml"]).expect(0);
    let plan = workspace.gleaner(&["plan", "job.yaml", "--json"]).expect(0);
    assert_eq!(before, snapshot(workspace.path()));
    let plan = plan.events().remove(0);
    assert!(plan["published_version"].is_null());
    assert!(
        human.stdout.contains("nothing is published"),
        "{}",
        human.stdout
    );

    let corpus = &plan["inputs"][0];
    let paths = files(&workspace.path().join("corpus"));
    let n_bytes: u64 = paths
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert_eq!(number(corpus, "n_files"), FILES as u64);
    assert_eq!(number(corpus, "bytes"), n_bytes);

    // Bytes to read are uncompressed: those of the footers, and lines as they are.
    let to_read: u64 = paths
        .iter()
        .map(|path| match path.extension().unwrap().to_str() {
            Some("parquet") => uncompressed(path),
            _ => path.metadata().unwrap().len(),
        })
        .sum();
    let mut planned = BTreeMap::new();
    for stage in plan["stages"].as_array().unwrap() {
        assert_ne!(stage["state"], "reused", "{stage}");
        for phase in stage["phases"].as_array().unwrap() {
            let name = format!("{}/{}", text(stage, "name"), text(phase, "name"));
            planned.insert(name, (phase["n_tasks"].as_u64(), phase["bytes"].as_u64()));
        }
    }
    let all = (Some(FILES as u64), Some(to_read));
    assert_eq!(planned["weights/count-raw"], all);
    assert_eq!(planned["weights/score"], all);
    let ran = run_phases(&workspace);
    for (name, (n_tasks, n_bytes)) in &planned {
        if let (Some(ran), Some(n_tasks)) = (ran.get(name), n_tasks) {
            assert_eq!(
                (n_tasks, n_bytes.unwrap_or(ran.1)),
                (&ran.0, ran.1),
                "{name}"
            );
        }
    }
    assert!(
        ran.keys()
            .all(|name| planned.contains_key(name) || name.starts_with("chosen/"))
    );

    // Nothing is left; then one file is.
    let before = snapshot(workspace.path());
    let plan = workspace.gleaner(&["plan", "job.yaml", "--json"]).expect(0);
    let plan = plan.events().remove(0);
    assert_eq!(plan["published_version"], 1);
    for stage in plan["stages"].as_array().unwrap() {
        assert_eq!(stage["state"], "reused", "{stage}");
        assert!(!text(stage, "why").is_empty());
    }
    assert_eq!(before, snapshot(workspace.path()));
    workspace.write(
        "corpus/new.jsonl",
        r#"{"id": "new", "text": "new", "source": null}"#,
    );
    let plan = workspace.gleaner(&["plan", "job.yaml", "--json"]).expect(0);
    let weights = plan.events()[0]["stages"][0].clone();
    assert_eq!(weights["state"], "open");
    let expected = (FILES as u64 + 1, FILES as u64);
    assert_eq!(
        (number(&weights, "n_tasks"), number(&weights, "n_reused")),
        expected
    );
}

#[test]
fn validate_finds_what_is_wrong_and_writes_nothing() {
    let (workspace, _) = small::workspace();
    let before = snapshot(workspace.path());
    let ended = workspace.gleaner(&["validate", "job.yaml"]).expect(0);
    assert!(ended.stdout.contains("small is valid"), "{}", ended.stdout);
    let report = workspace
        .gleaner(&["validate", "job.yaml", "--json"])
        .expect(0);
    let report = report.events().remove(0);
    assert_eq!(report["inputs"][0]["columns"]["text"], "text");
    assert_eq!(
        report["stages"],
        json!([
            ["weights", "importance_weights"],
            ["chosen", "select"],
            ["counts", "query"]
        ])
    );
    let wrong = [
        ("task_byte=1MiB", "task_bytes"),
        ("corpus.columns.text=body", "\"body\" is missing"),
        ("corpus.columns.id=nr", "\"nr\" is missing"),
        ("corpus.paths=[nowhere/*.parquet]", "nowhere"),
        ("corpus.where=lang = 'en'", "there is no column lang"),
        ("stages.weights.target=targe", "target"),
        (
            "stages.chosen.by=weights.log_weigh",
            "did you mean `log_weight`",
        ),
        ("stages.counts.sql=SELECT FROM", "not SQL"),
        (
            "stages.counts.sql=SELECT 1 FROM chosn",
            "did you mean chosen",
        ),
        ("memory=1MiB", "64MiB"),
    ];
    for (set, expected) in wrong {
        let ended = workspace.gleaner(&["validate", "job.yaml", "--json", "--set", set]);
        let ended = ended.expect(2).says(expected);
        let error = ended.events().remove(0);
        assert_eq!(
            (&error["event"], &error["exit_code"]),
            (&json!("error"), &json!(2)),
            "{set}"
        );
    }
    // A model that is not there, and a line of the file.
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    workspace.write(
        "model.yaml",
        job.replace("target: target", "model: nowhere/weights"),
    );
    let _ = workspace
        .gleaner(&["validate", "model.yaml"])
        .expect(2)
        .says("nowhere/weights");
    workspace.write("typo.yaml", job.replace("task_bytes", "tusk_bytes"));
    let ended = workspace.gleaner(&["validate", "typo.yaml"]).expect(2);
    let _ = ended.says("typo.yaml:6").says("task_bytes");
    let _ = workspace
        .gleaner(&["validate", "absent.yaml"])
        .expect(2)
        .says("absent.yaml");
    for name in ["model.yaml", "typo.yaml"] {
        fs::remove_file(workspace.path().join(name)).unwrap();
    }
    assert_eq!(before, snapshot(workspace.path()));
}

#[test]
fn status_tells_how_far_an_output_is() {
    let (workspace, documents) = small::workspace();
    let ended = workspace.gleaner(&["status", "out"]).expect(0);
    assert!(
        ended.stdout.contains("nothing is published"),
        "{}",
        ended.stdout
    );
    // Too many rows are rejected: work is there, nothing is published.
    let _ = workspace.run(&["--set", "allow.rejected_rows=0"]).expect(3);
    let status = workspace.gleaner(&["status", "out", "--json"]).expect(0);
    let status = status.events().remove(0);
    assert!(status["version"].is_null(), "{status}");
    assert_eq!(status["run"]["ended"]["exit_code"], 3);
    let _ = workspace.run(&[]).expect(0);
    let ended = workspace.gleaner(&["status", "out"]).expect(0);
    for expected in ["version 1", "4 of 4 tasks (100%)", "exit code 0"] {
        assert!(
            ended.stdout.contains(expected),
            "{expected}: {}",
            ended.stdout
        );
    }
    let status = workspace.gleaner(&["status", "out", "--json"]).expect(0);
    let status = status.events().remove(0);
    let n_sources = workspace.sql("SELECT DISTINCT source FROM chosen").len();
    assert_eq!(
        status["version"]["stages"],
        json!([
            ["weights", documents.len() + 1],
            ["chosen", CHOSEN],
            ["counts", n_sources]
        ])
    );
    for phase in status["run"]["phases"].as_array().unwrap() {
        assert_eq!(phase["n_done"], phase["started"]["n_tasks"], "{phase}");
    }
}

/// Rows and bytes are known from footers before anything is read.
#[test]
fn progress_is_told_in_lines_with_denominators_where_there_is_no_terminal() {
    let (workspace, _) = small::workspace();
    let ended = workspace
        .run(&["--set", "corpus.paths=[corpus/*.parquet]"])
        .expect(0);
    let rows = (FILES - 1) * PER_FILE;
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let line = |start: &str| {
        let found = lines.iter().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("{start:?} is not in\n{}", ended.stderr))
    };
    for phase in ["weights/count-raw", "weights/score"] {
        let begin = line(&format!("{phase}: "));
        let (_, begin) = begin.split_once(": ").unwrap();
        let (tasks, bytes) = begin.split_once(&format!(" tasks, {rows} rows, ")).unwrap();
        let expected = format!(
            "{phase}: done, {tasks}/{tasks} tasks · {rows}/{rows} rows · {bytes} of {bytes} in "
        );
        let _ = line(&expected);
    }
    assert!(!ended.stderr.contains('\x1b') && !ended.stderr.contains('\r'));
}

#[test]
fn events_of_a_run_are_lines_of_json_that_add_up() {
    let (workspace, documents) = small::workspace();
    let events = workspace
        .run(&["--json", "--workers", "2"])
        .expect(0)
        .events();
    let mut open: Option<(Value, u64, u64)> = None;
    let mut n_phases = 0;
    for event in &events {
        match event["event"].as_str().unwrap() {
            "phase_started" => {
                assert!(open.is_none(), "{event}");
                open = Some((event.clone(), 0, 0));
            }
            "advanced" => {
                let (_, n_tasks, n_bytes) = open.as_mut().unwrap();
                *n_tasks += number(event, "n_tasks");
                *n_bytes += number(event, "bytes");
            }
            "phase_finished" => {
                let (started, n_tasks, n_bytes) = open.take().unwrap();
                assert_eq!(started["phase"], event["phase"]);
                assert_eq!(
                    (number(&started, "n_tasks"), number(&started, "bytes")),
                    (n_tasks, n_bytes)
                );
                n_phases += 1;
            }
            "note" => assert!(!text(event, "text").is_empty()),
            other => assert_eq!((other, event), ("finished", events.last().unwrap())),
        }
    }
    assert!(n_phases >= 5 && open.is_none());
    let weights = &events.last().unwrap()["stages"][0];
    let n_rows = documents.len() as u64 + 1;
    assert_eq!(
        (
            number(weights, "rows"),
            number(&weights["lanes"], "rows_in")
        ),
        (n_rows, n_rows)
    );
    let failed = workspace.run(&[
        "--json",
        "--set",
        "allow.rejected_rows=0",
        "--output",
        "strict",
    ]);
    let events = failed.expect(3).events();
    let error = events.last().unwrap();
    assert_eq!(
        (&error["event"], &error["exit_code"]),
        (&json!("error"), &json!(3))
    );
    // Every other command has one value.
    let commands: [&[&str]; 10] = [
        &["plan", "job.yaml"],
        &["validate", "job.yaml"],
        &["status", "out"],
        &["sql", "out", "SELECT 1 AS one"],
        &["explain", "out", SHORT],
        &[
            "export",
            "out",
            "chosen",
            "--format",
            "jsonl",
            "--to",
            "chosen.jsonl",
        ],
        &["verify", "out"],
        &["gc", "out"],
        &["init", "new"],
        &["completions", "bash"],
    ];
    for command in commands {
        let ended = workspace
            .gleaner(&[command, &["--json"]].concat())
            .expect(0);
        assert_eq!(ended.events().len(), 1, "{command:?}");
    }
    let ended = workspace.gleaner(&["explain", "out", NULL]).expect(0);
    assert!(ended.stdout.contains("rejected"), "{}", ended.stdout);
    assert_eq!(n_rows, (FILES * PER_FILE) as u64 + 2);
}
