//! What `gc` leaves to runs that go on, and what it does about manifests that are of no use.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use gleaner_schemas::{ContentHash, RunId};
use gleaner_storage::layout;
use gleaner_tests::program::{Workspace, files};
use gleaner_tests::small;
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The journal entry of a run that says so at a time of its own clock; the store's says `age`.
fn announce(workspace: &Workspace, run: &RunId, started_at: &str, age: Duration) {
    let started = json!({
        "run": run, "job": "small", "stages": [], "started_at": started_at, "pid": 1,
    });
    let key = format!("out/{}", layout::run_event(run, layout::RUN_STARTED));
    workspace.write(&key, started.to_string());
    set_age(&workspace.path().join(key), age);
}

fn end(workspace: &Workspace, run: &RunId, version: Option<u64>) {
    let ended = json!({
        "exit_code": 0, "message": "done", "version": version,
        "ended_at": "2026-01-01T00:00:00Z",
    });
    let key = format!("out/{}", layout::run_event(run, layout::RUN_ENDED));
    workspace.write(&key, ended.to_string());
}

fn set_age(path: &Path, age: Duration) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::from(chrono::Utc::now()) - age)
        .unwrap();
}

/// An attempt that nothing names.
fn attempt(workspace: &Workspace) -> String {
    let folder = workspace.path().join("out/weights");
    let path = files(&folder).into_iter().next().unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let (task, attempt) = name.split_once('-').unwrap();
    let first = if attempt.starts_with('f') { 'e' } else { 'f' };
    let copy = path.with_file_name(format!("{task}-{first}{}", &attempt[1..]));
    fs::copy(&path, &copy).unwrap();
    copy.strip_prefix(workspace.path())
        .unwrap()
        .display()
        .to_string()
}

fn is_there(workspace: &Workspace, key: &str) -> bool {
    workspace.path().join(key).exists()
}

fn finished() -> Workspace {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    workspace
}

/// Two coordinators: one is at work when the other, which began later, publishes.
#[test]
fn gc_keeps_what_an_older_run_that_goes_on_works_with() {
    let workspace = finished();
    let run = RunId::new(u64::MAX);
    announce(&workspace, &run, "2026-01-01T00:00:00Z", Duration::ZERO);
    let ours = attempt(&workspace);
    let _ = workspace
        .run(&["--set", "stages.weights.refit=true"])
        .expect(0);
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    assert!(is_there(&workspace, &ours));
    assert!(is_there(
        &workspace,
        &format!("out/{}", layout::run_event(&run, layout::RUN_STARTED))
    ));
    // Nothing was heard of it for long: it was killed.
    announce(&workspace, &run, "2026-01-01T00:00:00Z", 3 * HOUR);
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    assert!(!is_there(&workspace, &ours));
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

/// The machine of an earlier run has a clock that is years ahead.
#[test]
fn gc_goes_by_the_clock_of_the_store() {
    let workspace = finished();
    let ahead = RunId::new(u64::MAX);
    announce(&workspace, &ahead, "2099-01-01T00:00:00Z", HOUR);
    end(&workspace, &ahead, Some(1));
    // Interrupted since, and to be resumed.
    let run = RunId::new(u64::MAX - 1);
    announce(&workspace, &run, "2026-01-01T00:00:00Z", Duration::ZERO);
    end(&workspace, &run, None);
    let ours = attempt(&workspace);
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    assert!(is_there(&workspace, &ours));
    let status = workspace.gleaner(&["status", "out", "--json"]).expect(0);
    let status = status.events().remove(0);
    assert_eq!(status["run"]["started"]["run"], json!(run));
}

#[test]
fn manifests_that_are_damaged_and_chunks_that_belong_to_none_are_removed() {
    let workspace = finished();
    let folder = workspace.path().join("out/_gleaner/manifests");
    let manifests = files(&folder);
    let manifest = manifests
        .iter()
        .find(|path| path.to_string_lossy().contains("/weights/"))
        .unwrap();
    let chunk_of = |manifest: &Path, bytes: &str| {
        let content = ContentHash::of(bytes.as_bytes());
        let chunk = manifest.with_extension("").join(format!("{content}.json"));
        fs::create_dir_all(chunk.parent().unwrap()).unwrap();
        (content, chunk)
    };
    // Of a coordinator that came second: its manifest was never stored.
    let (_, orphan) = chunk_of(manifest, "[]\n");
    fs::write(&orphan, "[]\n").unwrap();
    // One that is whole stays, with its chunk.
    let stored: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let attempts = stored["attempts"].to_string();
    let whole = manifest.with_file_name(format!("{}.json", "a".repeat(32)));
    let (content, kept) = chunk_of(&whole, &attempts);
    let chunked = |content: &ContentHash| {
        let mut chunked = stored.clone();
        chunked["attempts"] = json!([]);
        chunked["chunks"] = json!([content]);
        chunked.to_string()
    };
    fs::write(&kept, &attempts).unwrap();
    fs::write(&whole, chunked(&content)).unwrap();
    // One whose chunk is damaged, one whose chunk is gone, and one that is cut.
    let damaged = manifest.with_file_name(format!("{}.json", "b".repeat(32)));
    let (content, broken) = chunk_of(&damaged, &attempts);
    fs::write(&broken, "[{").unwrap();
    fs::write(&damaged, chunked(&content)).unwrap();
    let without = manifest.with_file_name(format!("{}.json", "c".repeat(32)));
    fs::write(&without, chunked(&content)).unwrap();
    let cut = manifest.with_file_name(format!("{}.json", "d".repeat(32)));
    fs::write(&cut, "{").unwrap();
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    for path in [manifest, &kept, &whole] {
        assert!(path.exists(), "{} is gone", path.display());
    }
    for path in [&orphan, &broken, &damaged, &without, &cut] {
        assert!(!path.exists(), "{} is there", path.display());
    }
    let summary = workspace.summary(&[]);
    assert_eq!(summary["is_new"], false);
}

/// What `gc` is about to remove may be what a run that begins now would pin.
#[test]
fn a_run_waits_while_gc_removes_objects() {
    let workspace = finished();
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    let sweep = workspace.path().join("out").join(layout::sweep(1));
    assert!(!sweep.parent().unwrap().exists() || files(sweep.parent().unwrap()).is_empty());
    workspace.write(&format!("out/{}", layout::sweep(1)), r#"{"pid": 1}"#);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| workspace.run(&["--set", "stages.weights.refit=true"]));
        std::thread::sleep(Duration::from_secs(3));
        assert!(!run.is_finished());
        fs::remove_file(&sweep).unwrap();
        let ended = run.join().unwrap();
        let _ = ended.expect(0).says("waiting for its end");
    });
    // One that was killed holds nobody up for long.
    workspace.write(&format!("out/{}", layout::sweep(1)), r#"{"pid": 1}"#);
    set_age(&sweep, HOUR);
    let ended = workspace.run(&[]).expect(0);
    assert!(!ended.stderr.contains("waiting for its end"), "{ended:?}");
}
