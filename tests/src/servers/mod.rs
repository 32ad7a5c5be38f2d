//! Real servers, each an own process on this machine, that tests start, break and stop.

pub mod rabbitmq;

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
