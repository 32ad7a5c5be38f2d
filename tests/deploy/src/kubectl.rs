//! What `kubectl kustomize` makes of an overlay, where there is a kubectl.

use std::io::Write as _;
use std::process::Command;

use crate::repository;

/// Set to make a test fail, rather than be skipped, where a program is not installed.
const REQUIRE_SERVERS: &str = "GLEANER_REQUIRE_SERVERS";
/// The first version of Kustomize that knows what is used here (kubectl 1.27).
const KUSTOMIZE_MIN: u64 = 5;

/// The rendering of an overlay; `None`, said loudly, where there is no kubectl, or one that is too
/// old for any of this, as on Debian 12.
///
/// # Panics
///
/// If the overlay cannot be rendered; or if there is no kubectl, and all programs are required.
#[must_use]
pub fn kustomize(overlay: &str) -> Option<String> {
    match kustomize_version() {
        None => {
            let why = "kubectl is missing: apt-get install kubernetes-client (Debian 13)";
            if std::env::var_os(REQUIRE_SERVERS).is_some_and(|value| value == "1") {
                panic!("{REQUIRE_SERVERS}=1, but {why}");
            }
            skip(why);
            return None;
        }
        Some(version) if version < KUSTOMIZE_MIN => {
            skip("kubectl is too old: 1.27 or later is needed");
            return None;
        }
        Some(_) => {}
    }
    let folder = repository("deploy/kubernetes/overlays").join(overlay);
    let output = Command::new("kubectl")
        .arg("kustomize")
        .arg(&folder)
        .output();
    let output = output.unwrap();
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{}: {errors}", folder.display());
    // Warnings are of deprecated fields.
    assert_eq!(errors, "", "{}", folder.display());
    Some(text)
}

fn skip(why: &str) {
    // Past the capture of the test harness.
    let text = format!("SKIPPED: renderings are not compared, because {why}\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The major version; 0 where it is not told, which very old ones do not.
fn kustomize_version() -> Option<u64> {
    let arguments = ["version", "--client", "--output=json"];
    let output = Command::new("kubectl").args(arguments).output().ok()?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let version = told["kustomizeVersion"].as_str().unwrap_or_default();
    let major = version.trim_start_matches('v').split('.').next();
    Some(major.and_then(|it| it.parse().ok()).unwrap_or(0))
}
