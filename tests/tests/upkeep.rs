//! `verify` finds every damage and nothing else; `gc` removes what nothing needs and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gleaner_schemas::{Fingerprint, RunId};
use gleaner_storage::layout;
use gleaner_tests::corpus::{sample_documents, write_parquet};
use gleaner_tests::program::{Workspace, files, number};
use gleaner_tests::small;
use serde_json::{Value, json};

/// Tables of the job, with the model of the weights.
const TABLES: [&str; 5] = [
    "weights",
    "weights_model",
    "weights_ngrams",
    "chosen",
    "counts",
];

fn finished() -> Workspace {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    workspace
}

fn verify(workspace: &Workspace, code: i32) -> Value {
    let ended = workspace.gleaner(&["verify", "out", "--json"]).expect(code);
    ended.events().remove(0)
}

fn places(report: &Value, key: &str) -> Vec<String> {
    let found = report[key].as_array().unwrap().iter();
    found
        .map(|it| it["place"].as_str().or(it.as_str()).unwrap().to_owned())
        .collect()
}

/// Keys of all objects of the output.
fn objects(workspace: &Workspace) -> BTreeSet<String> {
    let out = workspace.path().join("out");
    let keys = files(&out).into_iter().map(|path| key(&out, &path));
    keys.collect()
}

fn key(out: &Path, path: &Path) -> String {
    path.strip_prefix(out).unwrap().display().to_string()
}

/// The first object of a table.
fn object(workspace: &Workspace, table: &str) -> PathBuf {
    let folder = workspace.path().join("out").join(table);
    files(&folder).into_iter().next().unwrap()
}

/// A copy of an attempt under the name of another: a worker that came too late.
fn add_zombie(workspace: &Workspace, table: &str) -> String {
    let path = object(workspace, table);
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    // The task, then what is random of the attempt, then the hash of its bytes.
    let (task, attempt) = name.split_once('-').unwrap();
    let first = if attempt.starts_with('f') { 'e' } else { 'f' };
    let zombie = path.with_file_name(format!("{task}-{first}{}", &attempt[1..]));
    fs::copy(&path, &zombie).unwrap();
    key(&workspace.path().join("out"), &zombie)
}

#[test]
fn an_intact_output_is_recounted() {
    let workspace = finished();
    let report = verify(&workspace, 0);
    let mut rows = 0;
    for table in TABLES {
        let sql = format!("SELECT count(*) AS n FROM {table}");
        rows += number(&workspace.sql(&sql)[0], "n");
    }
    let paths = TABLES.map(|table| files(&workspace.path().join("out").join(table)));
    let n_bytes: u64 = paths
        .iter()
        .flatten()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert_eq!(number(&report, "rows"), rows);
    assert_eq!(
        number(&report, "n_files"),
        paths.iter().flatten().count() as u64
    );
    assert_eq!(number(&report, "bytes"), n_bytes);
    assert_eq!(
        (&report["differences"], &report["zombies"]),
        (&json!([]), &json!([]))
    );
    let ended = workspace.gleaner(&["verify", "out"]).expect(0);
    assert!(ended.stdout.contains("everything is as the manifest says"));
}

#[test]
fn a_byte_that_changed_is_found_wherever_it_is() {
    let workspace = finished();
    let out = workspace.path().join("out");
    for table in TABLES {
        let path = object(&workspace, table);
        let intact = fs::read(&path).unwrap();
        // Magic number, data, footer, its length, magic number.
        let n = intact.len();
        let flipped = match table {
            "weights" => vec![0, n / 4, n / 2, n - 100, n - 6, n - 1],
            _ => vec![n / 2, n - 6],
        };
        for place in flipped {
            let mut damaged = intact.clone();
            damaged[place] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let report = verify(&workspace, 1);
            let found = places(&report, "differences");
            assert!(
                !found.is_empty() && found.iter().all(|it| *it == key(&out, &path)),
                "{report}"
            );
        }
        // Too short, too long, gone.
        for damaged in [&intact[..n - 1], &[&intact[..], b"x"].concat()] {
            fs::write(&path, damaged).unwrap();
            let _ = workspace.gleaner(&["verify", "out"]).expect(1);
        }
        fs::remove_file(&path).unwrap();
        let ended = workspace.gleaner(&["verify", "out"]).expect(1);
        let expected = format!("{}: is missing", key(&out, &path));
        assert!(ended.stdout.contains(&expected), "{}", ended.stdout);
        fs::write(&path, &intact).unwrap();
    }
    let _ = verify(&workspace, 0);
}

#[test]
fn a_manifest_that_is_no_copy_is_found() {
    let workspace = finished();
    let path = workspace.path().join("out/manifest.json");
    let intact = fs::read_to_string(&path).unwrap();
    let changed = intact.replacen("\"rows\": 25", "\"rows\": 24", 1);
    assert_ne!(intact, changed);
    for damaged in [changed.as_str(), &intact[..intact.len() / 2], "{}", ""] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(
            places(&verify(&workspace, 1), "differences"),
            ["manifest.json"]
        );
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(
        places(&verify(&workspace, 1), "differences"),
        ["manifest.json"]
    );
    // The next run copies it again, byte by byte.
    let _ = workspace.run(&[]).expect(0);
    let version = workspace.path().join("out/_gleaner/versions/1.json");
    assert_eq!(fs::read_to_string(&version).unwrap(), intact);
    assert_eq!(fs::read_to_string(&path).unwrap(), intact);
    let _ = verify(&workspace, 0);
}

#[test]
fn a_damaged_version_is_a_difference_and_one_of_another_format_is_not_read() {
    const VERSION: &str = "_gleaner/versions/1.json";
    let workspace = finished();
    let path = workspace.path().join("out").join(VERSION);
    let intact = fs::read_to_string(&path).unwrap();
    // Without the newest version there is nothing to check by.
    for damaged in [&intact[..intact.len() / 2], "{}", ""] {
        fs::write(&path, damaged).unwrap();
        let report = verify(&workspace, 1);
        assert_eq!(places(&report, "differences"), [VERSION]);
        assert_eq!(report["version"], 1);
    }
    let ended = workspace.gleaner(&["verify", "out"]).expect(1);
    let expected = format!("wrong: {VERSION}: is not a valid published version");
    assert!(ended.stdout.contains(&expected), "{}", ended.stdout);
    // What an older version names is not known either.
    let newer = intact.replacen("\"number\": 1,", "\"number\": 2,", 1);
    assert_ne!(newer, intact);
    workspace.write("out/_gleaner/versions/2.json", &newer);
    workspace.write("out/manifest.json", &newer);
    let _ = add_zombie(&workspace, "weights");
    let report = verify(&workspace, 1);
    assert_eq!(places(&report, "differences"), [VERSION]);
    assert_eq!(report["zombies"], json!([]));
    // A version that a later program wrote is no damage, whatever keys it has.
    fs::write(&path, &intact).unwrap();
    workspace.write(
        "out/_gleaner/versions/3.json",
        "{\"format\": 77, \"gleaner_version\": \"9.1\", \"new\": 1}",
    );
    let _ = workspace
        .gleaner(&["verify", "out"])
        .expect(2)
        .says("3.json is a published version of format 77, this program reads format")
        .says("use the program version that wrote it (9.1)");
}

#[test]
fn attempts_that_came_too_late_are_named_and_removed() {
    let workspace = finished();
    let before = objects(&workspace);
    let rows = workspace.sql("SELECT * FROM weights ORDER BY input_file, input_row");
    let zombies = BTreeSet::from(["weights", "chosen"].map(|it| add_zombie(&workspace, it)));
    // Readers do not see them.
    assert_eq!(
        workspace.sql("SELECT * FROM weights ORDER BY input_file, input_row"),
        rows
    );
    let report = verify(&workspace, 0);
    let named: BTreeSet<String> = places(&report, "zombies").into_iter().collect();
    assert_eq!(named, zombies);
    let ended = workspace.gleaner(&["verify", "out"]).expect(0);
    assert!(
        ended.stdout.contains("not named by any version"),
        "{}",
        ended.stdout
    );

    let all = objects(&workspace);
    let ended = workspace.gleaner(&["gc", "out", "--dry-run"]).expect(0);
    assert!(
        zombies.iter().all(|it| ended.stdout.contains(it)),
        "{}",
        ended.stdout
    );
    assert_eq!(objects(&workspace), all, "a dry run removed something");
    let report = workspace
        .gleaner(&["gc", "out", "--json"])
        .expect(0)
        .events()
        .remove(0);
    let removed: BTreeSet<String> = places(&report, "removed").into_iter().collect();
    assert!(zombies.is_subset(&removed), "{report}");
    let left = objects(&workspace);
    assert_eq!(
        all.difference(&left).cloned().collect::<BTreeSet<_>>(),
        removed
    );
    assert_eq!(number(&report, "n_kept"), left.len() as u64);
    assert!(left.is_subset(&before));
    assert_eq!(verify(&workspace, 0)["zombies"], json!([]));
}

#[test]
fn gc_keeps_what_any_version_names() {
    let workspace = finished();
    let more = sample_documents(500).split_off(400);
    write_parquet(&workspace.path().join("corpus/more.parquet"), &more, 50);
    let _ = workspace.run(&[]).expect(0);
    let _ = workspace
        .run(&["--set", "stages.weights.refit=true"])
        .expect(0);
    let versions = files(&workspace.path().join("out/_gleaner/versions"));
    assert_eq!(versions.len(), 3);
    let rows = workspace.sql("SELECT * FROM chosen ORDER BY doc_id");
    let zombie = add_zombie(&workspace, "chosen");
    // What is not ours stays, whatever it is.
    workspace.write("out/weights/notes.txt", "mine");
    workspace.write("out/weights/data.parquet", "mine too");
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    let left = objects(&workspace);
    assert!(!left.contains(&zombie));
    assert!(left.contains("weights/notes.txt") && left.contains("weights/data.parquet"));
    for version in versions {
        let version: Value = serde_json::from_slice(&fs::read(version).unwrap()).unwrap();
        for table in version["tables"].as_object().unwrap().values() {
            for file in table["files"].as_array().unwrap() {
                assert!(
                    left.contains(file["path"].as_str().unwrap()),
                    "{file} is gone"
                );
            }
        }
    }
    assert_eq!(workspace.sql("SELECT * FROM chosen ORDER BY doc_id"), rows);
    let _ = verify(&workspace, 0);
    // A second one finds nothing, and the next run has nothing to do.
    let report = workspace
        .gleaner(&["gc", "out", "--json"])
        .expect(0)
        .events()
        .remove(0);
    assert_eq!(report["removed"], json!([]));
    let summary = workspace.summary(&["--set", "stages.weights.refit=true"]);
    assert_eq!(summary["is_new"], false);
    // Back to the frozen model of before: work that was removed is done again, correctly.
    let _ = workspace.run(&[]).expect(0);
    let _ = verify(&workspace, 0);
}

#[test]
fn gc_treats_what_workers_told_as_it_treats_their_run() {
    let workspace = finished();
    // A host may be called like an event of a run.
    let runs = fs::read_dir(workspace.path().join("out/_gleaner/runs")).unwrap();
    let run = runs.into_iter().next().unwrap().unwrap().file_name();
    let kept = format!(
        "_gleaner/runs/{}/attempts/phase-1-000000.jsonl",
        run.display()
    );
    let removed = "_gleaner/runs/0123456789abcdef/attempts/phase-1-000000.jsonl";
    workspace.write(&format!("out/{kept}"), "{}\n");
    workspace.write(&format!("out/{removed}"), "{}\n");
    let _ = workspace.gleaner(&["status", "out"]).expect(0);
    let before = objects(&workspace);
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    let left = objects(&workspace);
    assert!(left.contains(&kept));
    let gone: BTreeSet<_> = before.difference(&left).cloned().collect();
    assert_eq!(gone, BTreeSet::from([removed.to_owned()]));
}

#[test]
fn gc_that_keeps_one_version_leaves_folders_that_hold_its_rows_and_no_others() {
    let workspace = finished();
    let changed = sample_documents(500).split_off(400);
    write_parquet(&workspace.path().join("corpus/more.parquet"), &changed, 50);
    let _ = workspace.run(&[]).expect(0);
    write_parquet(
        &workspace.path().join("corpus/more.parquet"),
        &changed[..60],
        50,
    );
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql("SELECT * FROM weights ORDER BY input_file, input_row");
    let named = |workspace: &Workspace| -> BTreeSet<String> {
        let files = workspace.sql("SELECT path FROM gleaner.files WHERE table_name = 'weights'");
        let paths = files
            .iter()
            .map(|file| file["path"].as_str().unwrap().to_owned());
        paths.collect()
    };
    let in_folder = |workspace: &Workspace| -> BTreeSet<String> {
        let objects = objects(workspace).into_iter();
        objects
            .filter(|path| path.starts_with("weights/"))
            .collect()
    };
    assert!(in_folder(&workspace).len() > named(&workspace).len());
    let _ = workspace.gleaner(&["gc", "out", "--keep", "0"]).expect(2);
    let _ = workspace.gleaner(&["gc", "out", "--keep", "1"]).expect(0);
    let versions = files(&workspace.path().join("out/_gleaner/versions"));
    assert_eq!(versions.len(), 1);
    assert_eq!(in_folder(&workspace), named(&workspace));
    assert_eq!(
        workspace.sql("SELECT * FROM weights ORDER BY input_file, input_row"),
        rows
    );
    let _ = verify(&workspace, 0);
    // The model of the first version is frozen still, and numbers go on.
    assert_eq!(workspace.summary(&[])["is_new"], false);
    let _ = workspace
        .run(&["--set", "stages.weights.refit=true"])
        .expect(0);
    assert!(
        workspace
            .path()
            .join("out/_gleaner/versions/4.json")
            .exists()
    );
}

#[test]
fn gc_keeps_the_work_of_a_run_that_will_go_on() {
    let (workspace, _) = small::workspace();
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    // The scores are complete, then too many rows are rejected.
    let _ = workspace.run(&["--set", "allow.rejected_rows=0"]).expect(3);
    let scored = workspace.contents("out/weights");
    assert_eq!(scored.len(), small::FILES);
    let counted = workspace.contents("out/_gleaner/inner");
    let zombie = add_zombie(&workspace, "weights");
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    let mut left = workspace.contents("out/weights");
    // Whether it lost is known when the run ends.
    left.retain(|name, _| !zombie.ends_with(name));
    assert_eq!(left, scored);
    assert_eq!(workspace.contents("out/_gleaner/inner"), counted);
    let summary = workspace.summary(&[]);
    let reuse = &summary["stages"][0]["reuse"];
    assert_eq!(reuse["n_tasks"], reuse["n_reused"], "{summary}");
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    assert_eq!(workspace.contents("out/weights").len(), small::FILES);
    assert_eq!(verify(&workspace, 0)["zombies"], json!([]));
}

/// What is made again counts as what was there.
#[test]
fn rows_that_are_not_allowed_are_not_allowed_when_objects_come_back_either() {
    let (workspace, _) = small::workspace();
    let strict = ["--set", "allow.rejected_rows=0"];
    let _ = workspace.run(&strict).expect(3).says("rows were rejected");
    for _ in 0..2 {
        fs::remove_dir_all(workspace.path().join("out/weights")).unwrap();
        let _ = workspace.run(&strict).expect(3).says("rows were rejected");
        assert_eq!(workspace.contents("out/weights").len(), small::FILES);
    }
    assert!(!workspace.path().join("out/manifest.json").exists());
    assert_eq!(workspace.summary(&[])["version"], 1);
}

/// Another run has begun; what it wrote is named by nothing yet.
#[test]
fn gc_leaves_what_a_running_job_writes() {
    let workspace = finished();
    let early = add_zombie(&workspace, "chosen");
    set_back(&workspace.path().join("out").join(&early));
    let run = RunId::new(u64::MAX);
    let started = json!({
        "run": run,
        "job": "small",
        "stages": [],
        "started_at": chrono::Utc::now().to_rfc3339(),
        "pid": 1,
    });
    let event = layout::run_event(&run, layout::RUN_STARTED);
    workspace.write(&format!("out/{event}"), started.to_string());
    let attempt = add_zombie(&workspace, "weights");
    let failure = layout::failure(&run, &Fingerprint::of("task", &1).into(), 1);
    workspace.write(&format!("out/{failure}"), "{}");
    let before = objects(&workspace);
    let _ = workspace.gleaner(&["gc", "out", "--keep", "1"]).expect(0);
    let left = objects(&workspace);
    for path in [&attempt, &failure, &event] {
        assert!(left.contains(path), "{path} is gone");
    }
    // A run that published is done with what no version names.
    let ended = json!({
        "exit_code": 0,
        "message": "done",
        "version": 1,
        "ended_at": chrono::Utc::now().to_rfc3339(),
    });
    let event = layout::run_event(&run, layout::RUN_ENDED);
    workspace.write(&format!("out/{event}"), ended.to_string());
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    let left = objects(&workspace);
    assert!(before.contains(&attempt) && !left.contains(&attempt));
    assert!(!left.contains(&early));
    let _ = verify(&workspace, 0);
}

/// Makes a file older than every run.
fn set_back(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
}
