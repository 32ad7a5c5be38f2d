//! Which process it is, so that another one on the same machine can tell whether it is gone.

use std::fs;

use serde::{Deserialize, Serialize};

/// A process of some machine. Two processes with the same machine can look at each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessIdentity {
    /// Names this boot of the machine and the namespace that its process ids belong to: containers
    /// of one machine do not see each other's. Empty where the system does not tell.
    pub machine: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, in ticks since the boot: ids are used again.
    pub started: String,
}

impl ProcessIdentity {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id();
        Self {
            machine: machine().unwrap_or_default(),
            pid,
            started: started(pid).unwrap_or_default(),
        }
    }

    /// Whether it is known to have ended: it was on this machine, and is not there any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let here = machine().unwrap_or_default();
        !here.is_empty()
            && here == self.machine
            && match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
                Ok(stat) => started_of(&stat).is_some_and(|started| started != self.started),
                // Whatever else keeps us from looking is no proof that it is gone.
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            }
    }
}

fn machine() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

fn started(pid: u32) -> Option<String> {
    started_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The 22nd field of `stat`; the second may hold spaces and ends with the last parenthesis.
fn started_of(stat: &str) -> Option<String> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_ended() {
        let own = ProcessIdentity::own();
        assert!(!own.has_ended());
        let ended = |change: fn(&mut ProcessIdentity)| {
            let mut other = own.clone();
            change(&mut other);
            other.has_ended()
        };
        if own.machine.is_empty() {
            return;
        }
        // The id was used again, or is used by nobody.
        assert!(ended(|it| it.started = "1".to_owned()));
        assert!(ended(|it| it.pid = u32::MAX));
        // Of other machines nothing is known.
        assert!(!ended(|it| it.machine = "another".to_owned()));
        assert!(!ended(|it| {
            it.machine = String::new();
            it.pid = u32::MAX;
        }));
    }
}
