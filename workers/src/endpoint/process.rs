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
    /// When it started, in ticks since the boot: ids are used again. Empty where the system does not
    /// tell.
    pub started: String,
    /// Random: tells processes apart where the system does not. Older notes have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<u64>,
}

impl ProcessIdentity {
    /// This process, which calls itself by a random number beside what the system tells.
    #[must_use]
    pub fn own(nonce: u64) -> Self {
        let pid = std::process::id();
        Self {
            machine: machine().unwrap_or_default(),
            pid,
            started: started(pid).unwrap_or_default(),
            nonce: Some(nonce),
        }
    }

    /// Whether both are the same process for sure: what the system tells of two may be alike.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.nonce.is_some() && self == other
    }

    /// Whether it is known to have ended: it was on this machine, and is not there any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let here = machine().unwrap_or_default();
        !here.is_empty()
            && here == self.machine
            && match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
                Ok(stat) => {
                    let is_known = !self.started.is_empty();
                    is_known && started_of(&stat).is_some_and(|started| started != self.started)
                }
                // Whatever else keeps us from looking is no proof that it is gone.
                Err(error) => error.kind() == std::io::ErrorKind::NotFound && sees_others(),
            }
    }
}

/// Systems may hide the processes of other users (`hidepid`), that of `init` among them.
fn sees_others() -> bool {
    fs::metadata("/proc/1").is_ok()
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
        let own = ProcessIdentity::own(1);
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
        // Of what was not told nothing is known, and of other machines.
        assert!(!ended(|it| it.started = String::new()));
        assert!(!ended(|it| it.machine = "another".to_owned()));
        assert!(!ended(|it| {
            it.machine = String::new();
            it.pid = u32::MAX;
        }));
    }

    #[test]
    fn who_is_the_same() {
        // Two containers may have the same ids, and a system that tells nothing.
        let of = |nonce| ProcessIdentity {
            machine: String::new(),
            pid: 1,
            started: String::new(),
            nonce,
        };
        assert!(of(Some(7)).is_same(&of(Some(7))));
        assert!(!of(Some(7)).is_same(&of(Some(8))));
        let older = r#"{"machine":"","pid":1,"started":""}"#;
        let older: ProcessIdentity = serde_json::from_str(older).unwrap();
        assert_eq!(older, of(None));
        assert!(!older.is_same(&older) && !of(Some(7)).is_same(&older));
        assert!(!older.has_ended());
    }
}
