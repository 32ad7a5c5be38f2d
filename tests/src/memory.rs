//! How much memory the program under test takes.

use std::path::Path;

use crate::program::start;

/// The most memory that a run of the program ever had, in bytes.
///
/// # Panics
///
/// If it cannot be started or does not end with success.
#[must_use]
pub fn peak(directory: &Path, arguments: &[&str]) -> u64 {
    let mut child = start(directory, arguments);
    let mut peak = 0;
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
        peak = peak.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    assert!(ended.success());
    peak
}
