//! How much memory and time of processors the program under test takes.

use std::path::Path;
use std::time::Duration;

use crate::program::start;

/// Ticks of a processor's time in a second: the same on all Linux machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a run of the program took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// The most memory that it ever had, in bytes.
    pub memory: u64,
    /// Time of processors.
    pub cpu: Duration,
}

/// The most memory that a run of the program ever had, in bytes.
///
/// # Panics
///
/// If it cannot be started or does not end with success.
#[must_use]
pub fn peak(directory: &Path, arguments: &[&str]) -> u64 {
    usage(directory, arguments).memory
}

/// What a run of the program took.
///
/// # Panics
///
/// If it cannot be started or does not end with success.
#[must_use]
pub fn usage(directory: &Path, arguments: &[&str]) -> Usage {
    let mut child = start(directory, arguments);
    let mut usage = Usage::default();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        // Gone when the process has ended.
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let kib = status.ok().and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        usage.memory = usage.memory.max(kib.unwrap_or(0) << 10);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()));
        usage.cpu = usage
            .cpu
            .max(stat.ok().and_then(|it| cpu(&it)).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(ended.success());
    usage
}

/// The 14th and 15th field; the second may hold spaces and ends with the last parenthesis.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) / TICKS_PER_SECOND))
}
