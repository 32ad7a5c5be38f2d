//! Outputs that belong to another job, may not be written, or are full: the run ends at once with
//! the place and the remedy, nothing is given up for it, and the next run goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use gleaner_tests::corpus::write_parquet;
use gleaner_tests::plain_job::{JOB, documents, lanes, part, workspace};
use gleaner_tests::program::{Ended, Workspace, command_in, ended, program};

#[test]
fn an_output_of_another_job_is_left_alone() {
    let workspace = workspace(1);
    let _ = workspace.run(&[]).expect(0);
    let before = workspace.contents("out");
    workspace.write("job.yaml", JOB.replace("name: plain", "name: another"));
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("error: job.yaml:2:9: file:///")
        .says("/out holds the output of another job, \"plain\"; this one is \"another\"")
        .says("help: choose another `output:`, or rename the job back");
    assert_eq!(workspace.contents("out"), before);
    let _ = workspace.run(&["--output", "other"]).expect(0);
}

/// Runs the job without the privileges that let root write and read everything; `None` where
/// they cannot be dropped.
fn run_unprivileged(workspace: &Workspace) -> Option<Ended> {
    if fs::metadata(workspace.path()).unwrap().uid() != 0 {
        return Some(workspace.run(&[]));
    }
    // Without capabilities, root is the owner of its files and no more.
    let setpriv = || {
        let mut command = command_in(workspace.path(), Path::new("setpriv"));
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        command
    };
    let tried = setpriv().arg("true").output();
    if !tried.is_ok_and(|output| output.status.success()) {
        println!("skipped: this is root, and setpriv cannot drop its capabilities");
        return None;
    }
    Some(ended(setpriv().arg(program()).args(["run", "job.yaml"])))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

const CANNOT_WRITE: &str = "error: cannot write to the output: ";
const CANNOT_WRITE_HELP: &str = "help: is there space, and are you allowed to write there? what is committed \
                                 is kept, run the job again to go on";

#[test]
fn an_output_that_may_not_be_written() {
    let workspace = workspace(1);
    // Nothing can be below a file, whoever asks.
    workspace.write("file", "x");
    let _ = workspace
        .run(&["--output", "file/out"])
        .expect(2)
        .says(CANNOT_WRITE)
        .says("/file/out/")
        .says(CANNOT_WRITE_HELP);
    fs::create_dir(workspace.path().join("out")).unwrap();
    set_mode(&workspace.path().join("out"), 0o555);
    if let Some(ended) = run_unprivileged(&workspace) {
        let _ = ended
            .expect(2)
            .says(CANNOT_WRITE)
            .says("/out/")
            .says("Permission denied")
            .says(CANNOT_WRITE_HELP);
    }
    set_mode(&workspace.path().join("out"), 0o755);
    // Of a stage's folder, the workers find out.
    fs::create_dir(workspace.path().join("out/weights")).unwrap();
    set_mode(&workspace.path().join("out/weights"), 0o555);
    if let Some(ended) = run_unprivileged(&workspace) {
        let _ = ended
            .expect(2)
            .says(CANNOT_WRITE)
            .says("/out/weights/")
            .says("Permission denied")
            .says(CANNOT_WRITE_HELP);
    }
    set_mode(&workspace.path().join("out/weights"), 0o755);
    let _ = workspace.run(&[]).expect(0);
}

#[test]
fn an_input_that_may_not_be_read() {
    let workspace = workspace(2);
    let help = "help: is it there, and are you allowed to read it?";
    set_mode(&part(&workspace, 1), 0o000);
    if let Some(ended) = run_unprivileged(&workspace) {
        let _ = ended
            .expect(2)
            .says("error: job.yaml:3:17: cannot read corpus/part-01.parquet: ")
            .says("Permission denied")
            .says(help);
    }
    set_mode(&part(&workspace, 1), 0o644);
    set_mode(&workspace.path().join("corpus"), 0o000);
    if let Some(ended) = run_unprivileged(&workspace) {
        let _ = ended
            .expect(2)
            .says("error: job.yaml:3:17: cannot read corpus/*.parquet: ")
            .says("Permission denied")
            .says(help);
    }
    set_mode(&workspace.path().join("corpus"), 0o755);
    let _ = workspace.run(&[]).expect(0);
}

/// A bound on the size of files stands for a disk that is nearly full: a record that a task failed
/// would still fit, so only the program can tell that nothing is wrong with the task. It needs no
/// privilege.
#[test]
fn a_disk_without_space_for_an_object_gives_up_no_task() {
    const DOCUMENTS: usize = 2000;
    let workspace = workspace(0);
    write_parquet(&part(&workspace, 0), &documents(DOCUMENTS), DOCUMENTS);
    // Counts and model are small, the table of weights is not.
    let job = JOB.replace("min_tokens: 1", "min_tokens: 1, buckets: 100");
    workspace.write("job.yaml", job);
    // 8 or 16 KiB, by the shell.
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$@\"";
    let mut command = command_in(workspace.path(), Path::new("sh"));
    command.args(["-c", limited, "sh"]).arg(program());
    let all = ["--set", "allow.quarantined_tasks=100%"];
    let _ = ended(command.args(["run", "job.yaml"]).args(all))
        .expect(2)
        .says(CANNOT_WRITE)
        .says("/out/weights/")
        .says("File too large")
        .says(CANNOT_WRITE_HELP);
    let summary = workspace.summary(&[]);
    assert_eq!(lanes(&summary, 0)["ok"], DOCUMENTS);
    assert!(summary["stages"][0]["reuse"]["n_reused"].as_u64().unwrap() > 0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

/// A file system of few blocks, where one may be mounted. What a run left in it is copied, since
/// it ends with the process.
#[test]
fn a_full_disk_is_told_and_the_next_run_goes_on() {
    const UNMOUNTED: i32 = 77;
    let workspace = workspace(3);
    fs::create_dir(workspace.path().join("out")).unwrap();
    let full = "mount -t tmpfs -o size=\"$1\" gleaner out || exit 77\n\
                shift; \"$@\"; code=$?; rm -rf kept; cp -r out kept; exit $code";
    for size in ["4k", "40k", "100k"] {
        let mut command = command_in(workspace.path(), Path::new("unshare"));
        command.args(["--map-root-user", "--mount", "sh", "-c", full, "sh", size]);
        command.arg(program()).args(["run", "job.yaml"]);
        let can_start = command_in(workspace.path(), Path::new("unshare"))
            .args(["--map-root-user", "--mount", "true"])
            .status()
            .is_ok_and(|status| status.success());
        let ended = can_start.then(|| ended(&mut command));
        let Some(ended) = ended.filter(|ended| ended.code != Some(UNMOUNTED)) else {
            println!("skipped: no file system can be mounted here");
            return;
        };
        let _ = ended
            .expect(2)
            .says(CANNOT_WRITE)
            .says("/out/")
            .says("No space left on device")
            .says(CANNOT_WRITE_HELP);
    }
    let _ = workspace.run(&["--output", "kept"]).expect(0);
    let _ = workspace.gleaner(&["verify", "kept"]).expect(0);
}
