//! The store misbehaves, cannot be reached, or is full.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gleaner_tests::job::{Job, LONG, SOON};
use gleaner_tests::servers::ceph::Ceph;
use gleaner_tests::servers::fake_s3::{FakeS3, Faults};
use gleaner_tests::servers::proxy::{Mode, Proxy};

use super::shared;

#[test]
fn a_store_that_throttles_cuts_and_lies_about_puts() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let store = FakeS3::start(&["bucket"]);
    let faults = Faults {
        throttle_every: 11,
        fail_after_put_every: 5,
        silent_after_put_every: 7,
        cut_every: 13,
        delay: Duration::from_millis(5),
        ..Faults::default()
    };
    store.set(faults);
    let mut cluster = job.cluster_with(broker.new_vhost_url(), store.variables());
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&["--output", "s3://bucket/out"]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    let counts = store.counts();
    assert!(
        counts.throttled > 0 && counts.failed_puts > 0 && counts.cut > 0,
        "{counts:?}"
    );
    store.set(Faults::default());
    job.check(&cluster, "s3://bucket/out");
}

#[test]
fn a_partition_between_one_worker_and_the_store_but_not_the_broker() {
    let (Some(broker), Some(ceph)) = (shared(), Ceph::shared()) else {
        return;
    };
    let job = Job::new();
    let proxy = Proxy::start(ceph.address());
    let bucket = ceph.new_bucket();
    let output = format!("s3://{bucket}/out");
    let queue = broker.new_vhost_url();
    let mut behind = job.cluster_with(queue.clone(), ceph.variables_by(proxy.address()));
    let mut cluster = job.cluster_with(queue, ceph.variables());
    behind.start_worker(7, &[]);
    cluster.start_coordinator(&["--output", &output]);
    cluster.await_that("the worker does not come", SOON, || {
        proxy.n_connections() > 0
    });
    proxy.set(Mode::BlackHole);
    cluster.start_worker(0, &[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    proxy.set(Mode::Pass);
    job.check(&cluster, &output);
}

/// A file system of a fixed size; gone when dropped.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// `None` where none can be mounted.
    fn mount(path: &'a Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        match mount.arg(path).status() {
            Ok(status) if status.success() => Some(Self(path)),
            _ => {
                gleaner_tests::servers::skip("no file system can be mounted (as root it can)");
                None
            }
        }
    }

    /// Writes to a file until no byte is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Nothing is wrong with the tasks: none is given up, and the coordinator tells what is wrong.
#[test]
fn a_disk_that_is_full_for_a_while() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let out = job.workspace.path().join("out");
    let Some(disk) = Disk::mount(&out, "48m") else {
        return;
    };
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&[]);
    job.await_attempts(&cluster, 2);
    let filler = disk.fill();
    // The worker ends when it can write nothing at all, and is started again, as a supervisor does.
    let mut n_ends = 0;
    let deadline = Instant::now() + SOON;
    let says = || cluster_log_says(&job, "No space left on device");
    while n_ends == 0 || !says() {
        if let Some(status) = cluster.ended_worker(0) {
            assert_eq!(status.code(), Some(2), "{}", cluster.log("worker-0.log"));
            n_ends += 1;
            cluster.start_worker(0, &[]);
        }
        assert!(
            cluster.is_coordinated(),
            "{}",
            cluster.log("coordinator.log")
        );
        if Instant::now() > deadline {
            cluster.fail::<()>("nobody is told");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_file(filler).unwrap();
    while cluster.is_coordinated() {
        if cluster.ended_worker(0).is_some() {
            cluster.start_worker(0, &[]);
        }
        if Instant::now() > deadline + LONG {
            cluster.fail::<()>("the coordinator does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}

fn cluster_log_says(job: &Job, text: &str) -> bool {
    let log = job.workspace.path().join("coordinator.log");
    std::fs::read_to_string(log).is_ok_and(|log| log.contains(text))
}
