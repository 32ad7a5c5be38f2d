//! Refreshes beside each other, over files that change under their hands, after a pause, and of an
//! output that a later program has written to.

use std::process::Child;
use std::time::{Duration, Instant};

use gleaner_tests::program::start;

use super::*;

fn end(child: &mut Child) -> Option<i32> {
    child.wait().unwrap().code()
}

/// Waits until something is so; the test fails if it never is.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Every version is whole, and the newest is of the corpus as it is.
fn is_up_to_date(workspace: &Workspace) {
    let report = workspace.gleaner(&["verify", "out", "--json"]).expect(0);
    let report = report.events().remove(0);
    // An attempt that came after its task was pinned stays until `gleaner gc`; what coordinators
    // write does not.
    let mut zombies = report["zombies"].as_array().unwrap().clone();
    zombies.retain(|it| {
        let path = it.as_str().unwrap();
        !path.starts_with("weights/") && !path.starts_with("chosen/")
    });
    assert_eq!(zombies, Vec::<Value>::new());
    let before = tree(&output(workspace));
    assert_eq!(workspace.summary(&[])["is_new"], false);
    assert_eq!(
        tree(&output(workspace)),
        before,
        "the last version was not the newest corpus's"
    );
    let _ = fs::remove_dir_all(workspace.path().join("fresh"));
    let model = JOB
        .replace("name: nightly\noutput: out", "name: fresh\noutput: fresh")
        .replace("target: target, min", "model: out/weights, min");
    workspace.write("fresh.yaml", model);
    let _ = workspace.gleaner(&["run", "fresh.yaml"]).expect(0);
    for table in ["weights", "chosen", "counts"] {
        assert_eq!(
            rows(workspace, "out", table),
            rows(workspace, "fresh", table),
            "{table}"
        );
    }
}

/// The earlier one began over an older corpus, and ends later.
#[test]
fn a_refresh_beside_one_that_still_runs_is_not_undone() {
    let (workspace, documents) = workspace(12);
    let _ = workspace.run(&[]).expect(0);
    for idx in 0..12 {
        write_file(&workspace, idx, part(&documents, 12 + idx));
    }
    let plans = output(&workspace).join("_gleaner/plans/weights/score");
    let n_plans = || fs::read_dir(&plans).map_or(0, Iterator::count);
    let n_before = n_plans();
    let accept = ["run", "job.yaml", "--workers", "1", "--accept"];
    let mut earlier = start(workspace.path(), &accept);
    until("the earlier run does not begin", || n_plans() > n_before);
    write_file(&workspace, 12, part(&documents, 3));
    let mut later = start(workspace.path(), &accept);
    assert_eq!((end(&mut earlier), end(&mut later)), (Some(0), Some(0)));
    is_up_to_date(&workspace);
}

#[test]
fn two_refreshes_at_once_publish_one_version() {
    let (workspace, documents) = workspace(4);
    let _ = workspace.run(&[]).expect(0);
    for round in 0..3 {
        write_file(&workspace, 4 + round, part(&documents, 4 + round));
        let n_before = versions(&workspace).len();
        let mut both = [0, 1].map(|_| start(workspace.path(), &["run", "job.yaml"]));
        assert_eq!(both.each_mut().map(end), [Some(0), Some(0)]);
        assert_eq!(versions(&workspace).len(), n_before + 1);
        is_up_to_date(&workspace);
    }
}

/// Also where both begin with nothing: the second takes over the model of the first.
#[test]
fn two_first_runs_at_once_come_to_one_output() {
    let (workspace, _) = workspace(4);
    let mut both = [0, 1].map(|_| start(workspace.path(), &["run", "job.yaml"]));
    assert_eq!(both.each_mut().map(end), [Some(0), Some(0)]);
    assert_eq!(versions(&workspace), [1]);
    is_up_to_date(&workspace);
}

#[test]
fn a_file_replaced_during_the_refresh_is_taken_as_it_is_then() {
    const FILES: usize = 16;
    let (workspace, documents) = workspace(FILES);
    let plans = output(&workspace).join("_gleaner/plans/weights");
    let mut run = start(workspace.path(), &["run", "job.yaml", "--workers", "1"]);
    until("the run does not begin", || {
        plans.is_dir() && fs::read_dir(&plans).is_ok_and(|mut it| it.next().is_some())
    });
    for idx in 0..FILES {
        // In one step, as whoever writes a corpus should.
        let path = workspace.path().join(format!("new-{idx}.parquet"));
        write_parquet(&path, part(&documents, FILES + idx), PER_FILE);
        let old = workspace
            .path()
            .join(format!("corpus/part-{idx:03}.parquet"));
        fs::rename(path, old).unwrap();
    }
    assert_eq!(end(&mut run), Some(0));
    let _ = workspace.run(&["--accept"]).expect(0);
    is_up_to_date(&workspace);
    let n_files = "SELECT count(*) AS n FROM weights w JOIN corpus c ON c.id = w.doc_id";
    assert_eq!(
        number(&workspace.sql(n_files)[0], "n"),
        (FILES * PER_FILE) as u64
    );
}

/// Nights without a run add up: the same versions come out as if each had had one.
#[test]
fn a_week_without_a_refresh_is_caught_up_with() {
    let (nightly, documents) = workspace(8);
    let (missed, _) = workspace(8);
    for workspace in [&nightly, &missed] {
        let _ = workspace.run(&[]).expect(0);
    }
    // A run that was killed then left its announcement.
    let started = serde_json::json!({
        "run": "00000000000000aa", "job": "nightly", "stages": [],
        "started_at": "2020-01-01T00:00:00Z", "pid": 1,
    });
    missed.write(
        "out/_gleaner/runs/00000000000000aa/start.json",
        started.to_string(),
    );
    let week_ago = SystemTime::from(chrono::Utc::now()) - Duration::from_secs(8 * 24 * 3600);
    for path in files(&output(&missed)) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(week_ago).unwrap();
    }
    for night in 0..7 {
        for workspace in [&nightly, &missed] {
            write_file(workspace, 8 + night, part(&documents, 8 + night));
            if night % 2 == 0 {
                remove_file(workspace, night);
            }
            if night % 3 == 1 {
                write_file(workspace, night, part(&documents, 15));
            }
        }
        let _ = nightly.run(&["--accept"]).expect(0);
    }
    let _ = missed.run(&["--accept"]).expect(0);
    assert_eq!(versions(&missed), [1, 2]);
    assert_eq!(versions(&nightly).len(), 8);
    for table in ["weights", "chosen", "counts", "weights_ngrams"] {
        assert_eq!(
            rows(&nightly, "out", table),
            rows(&missed, "out", table),
            "{table}"
        );
    }
    let drift = "SELECT kl, unseen_share, n_texts, mean_at_fit, mean_now FROM gleaner.drift";
    assert_eq!(nightly.sql(drift), missed.sql(drift));
    is_up_to_date(&missed);
}

#[test]
fn a_version_of_a_later_program_is_left_alone() {
    let (workspace, documents) = workspace(2);
    let _ = workspace.run(&[]).expect(0);
    workspace.write(
        "out/_gleaner/versions/2.json",
        "{\"format\": 77, \"gleaner_version\": \"9.1\", \"new\": 1}",
    );
    write_file(&workspace, 2, part(&documents, 2));
    let before = tree(&output(&workspace));
    for command in [
        &["run", "job.yaml"][..],
        &["run", "job.yaml", "--accept"],
        &["plan", "job.yaml"],
        &["sql", "out", "SELECT 1"],
        &["verify", "out"],
        &["gc", "out"],
        &["report", "out"],
        &["explain", "out", "x"],
    ] {
        let _ = workspace
            .gleaner(command)
            .expect(2)
            .says("2.json is a published version of format 77, this program reads format")
            .says("use the program version that wrote it (9.1)");
    }
    let mut after = tree(&output(&workspace));
    after.retain(|path, _| !path.contains("/runs/"));
    let mut kept = before;
    kept.retain(|path, _| !path.contains("/runs/"));
    assert_eq!(after, kept);
    // What it wrote before can be asked still.
    let _ = workspace
        .gleaner(&[
            "sql",
            "out",
            "SELECT count(*) FROM weights",
            "--version",
            "1",
        ])
        .expect(0);
}
