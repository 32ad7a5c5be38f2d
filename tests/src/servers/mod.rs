//! Servers that tests start: real ones, each an own process on this machine, where they are
//! installed; fakes that misbehave on demand; and a proxy that breaks connections.

pub mod azurite;
pub mod ceph;
pub mod fake_s3;
pub mod leaderless_queue;
pub mod proxy;
pub mod rabbitmq;
pub mod tls;

use std::fmt;

/// Set to make a test fail, rather than be skipped, where a server is not installed.
pub const REQUIRE_SERVERS: &str = "GLEANER_REQUIRE_SERVERS";

/// Says loudly that tests are skipped, since a server is missing.
///
/// # Panics
///
/// If the environment variable [`REQUIRE_SERVERS`] is `1`.
pub fn skip(why: impl fmt::Display) {
    if std::env::var_os(REQUIRE_SERVERS).is_some_and(|value| value == "1") {
        panic!("{REQUIRE_SERVERS}=1, but {why}");
    }
    // Past the capture of the test harness.
    let text = format!("SKIPPED: a test, because {why}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}
