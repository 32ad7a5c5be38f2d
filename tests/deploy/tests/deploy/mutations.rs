//! Each check finds what it is for: overlays with one thing broken.

mod cluster;
mod dashboard;
mod pods;
mod programs;

use std::sync::LazyLock;

use gleaner_deploy_tests::checks::findings;
use gleaner_deploy_tests::overlay::{Overlay, name};
use gleaner_deploy_tests::sources::Facts;
use serde_json::Value;

/// The place of a pod within the document that makes it.
const JOB_POD: &str = "/spec/template/spec";
const CRON_POD: &str = "/spec/jobTemplate/spec/template/spec";
const SCALED_POD: &str = "/spec/jobTargetRef/template/spec";

const RUN: &str = "Job/gleaner-run";
const REFRESH: &str = "CronJob/gleaner-refresh";
const CPU: &str = "ScaledJob/gleaner-worker-cpu";
const GPU: &str = "ScaledJob/gleaner-worker-accelerator";
const POLICY: &str = "NetworkPolicy/gleaner";
const SETTINGS: &str = "ConfigMap/gleaner-settings";

static FACTS: LazyLock<Facts> = LazyLock::new(Facts::read);

/// What is done to a value.
enum Change {
    Set(Value),
    Remove,
}
use Change::{Remove, Set};

/// Breaks one thing, and expects a finding about it.
#[track_caller]
fn check(overlay: &str, document: &str, at: &str, change: Change, expect: &str) {
    let mut overlay = Overlay::rendered(overlay);
    let found = overlay.documents.iter_mut().find(|it| name(it) == document);
    let document = found.unwrap_or_else(|| panic!("there is no {document}"));
    let (parent, last) = at.rsplit_once('/').unwrap();
    let parent = document
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("there is no {parent}"));
    let last = last.replace("~1", "/");
    match (parent, change) {
        (Value::Object(entries), Set(value)) => {
            assert_ne!(
                entries.insert(last, value.clone()),
                Some(value),
                "{at} is that already"
            );
        }
        (Value::Object(entries), Remove) => {
            assert!(entries.remove(&last).is_some(), "there is no {at}");
        }
        (Value::Array(items), Set(value)) => items[last.parse::<usize>().unwrap()] = value,
        (Value::Array(items), Remove) => {
            items.remove(last.parse::<usize>().unwrap());
        }
        (other, _) => panic!("{at} is within {other}"),
    }
    let findings = findings(&overlay, &FACTS);
    assert!(
        findings.iter().any(|it| it.contains(expect)),
        "{at}: {expect:?} is not in {findings:#?}"
    );
}

/// Takes a document away.
#[track_caller]
fn without(overlay: &str, document: &str, expect: &str) {
    let mut overlay = Overlay::rendered(overlay);
    let n_before = overlay.documents.len();
    overlay.documents.retain(|it| name(it) != document);
    assert_eq!(overlay.documents.len() + 1, n_before);
    let findings = findings(&overlay, &FACTS);
    assert!(
        findings.iter().any(|it| it.contains(expect)),
        "{expect:?} is not in {findings:#?}"
    );
}

fn argument(pod: &str, number: usize) -> String {
    format!("{pod}/containers/0/args/{number}")
}
