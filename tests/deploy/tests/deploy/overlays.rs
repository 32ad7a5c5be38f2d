//! Every overlay is as it should be, and its rendering is that of today.

use std::collections::BTreeSet;
use std::fs;

use gleaner_deploy_tests::checks::findings;
use gleaner_deploy_tests::overlay::{Component, Overlay, items, kind, name};
use gleaner_deploy_tests::sources::Facts;
use gleaner_deploy_tests::{OVERLAYS, kubectl, read, repository};
use serde_json::{Value, json};

#[test]
fn nothing_is_wrong_with_any_overlay() {
    let facts = Facts::read();
    for overlay in OVERLAYS {
        assert_eq!(
            findings(&Overlay::rendered(overlay), &facts),
            [""; 0],
            "{overlay}"
        );
    }
}

#[test]
fn all_overlays_are_checked() {
    let folders = fs::read_dir(repository("deploy/kubernetes/overlays")).unwrap();
    let folders: BTreeSet<String> = folders
        .map(|folder| folder.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, OVERLAYS.map(str::to_owned).into());
    let readme = read("deploy/README.md");
    for overlay in OVERLAYS {
        assert!(
            readme.contains(&format!("`{overlay}`")),
            "{overlay} is not in deploy/README.md"
        );
    }
}

/// Kustomize orders and quotes as its version likes: the values count.
#[test]
fn renderings_are_those_of_today() {
    for overlay in OVERLAYS {
        let Some(text) = kubectl::kustomize(overlay) else {
            return;
        };
        let sorted = |mut documents: Vec<Value>| {
            documents.sort_by_key(name);
            documents
        };
        let today = sorted(Overlay::parse(overlay, &text).unwrap().documents);
        let stored = sorted(Overlay::rendered(overlay).documents);
        assert!(
            today == stored,
            "tests/deploy/rendered/{overlay}.yaml is not what deploy/kubernetes gives; look at it \
             after tests/deploy/render.sh"
        );
    }
}

#[test]
fn workers_come_by_keda_or_as_jobs() {
    let check = |overlay: &str, expect: &[&str]| {
        let overlay = Overlay::rendered(overlay);
        let mut workers = overlay.ours();
        workers.retain(|it| it.component() == Component::Worker);
        let names: Vec<String> = workers.iter().map(|it| it.name()).collect();
        assert_eq!(names, expect, "{}", overlay.name);
    };
    let scaled = [
        "ScaledJob/gleaner-worker-accelerator",
        "ScaledJob/gleaner-worker-cpu",
        "ScaledJob/gleaner-worker-network",
    ];
    for overlay in ["aws", "gcp", "spot"] {
        check(overlay, &scaled);
    }
    check(
        "without-keda",
        &["Job/gleaner-worker-cpu", "Job/gleaner-worker-network"],
    );
    check("local", &["Job/gleaner-worker-cpu"]);
}

/// By all labels that clouds give such nodes: workers want one of them, the coordinator none.
#[test]
fn on_spot_nodes_are_workers_only() {
    let overlay = Overlay::rendered("spot");
    let at =
        "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let labels = |terms: &[&Value], operator: &str| -> BTreeSet<String> {
        let expressions = terms
            .iter()
            .flat_map(|term| items(&term["matchExpressions"]));
        let with = expressions.filter(|it| it["operator"] == operator);
        with.map(|it| format!("{}={}", it["key"], it["values"]))
            .collect()
    };
    let mut wanted = BTreeSet::new();
    let mut avoided = BTreeSet::new();
    for workload in overlay.ours() {
        let terms: Vec<&Value> = items(workload.pod().pointer(at).unwrap()).collect();
        match workload.component() {
            Component::Worker => {
                // Terms are alternatives, so each has one label.
                assert!(
                    terms
                        .iter()
                        .all(|it| items(&it["matchExpressions"]).count() == 1)
                );
                wanted.insert(labels(&terms, "In"));
                assert!(
                    workload.option("grace") == Some("5s"),
                    "{}",
                    workload.name()
                );
            }
            _ => {
                assert_eq!(terms.len(), 1, "{}", workload.name());
                avoided.insert(labels(&terms, "NotIn"));
            }
        }
    }
    assert_eq!(wanted.len(), 1);
    assert_eq!(wanted, avoided);
}

#[test]
fn clouds_give_their_identities() {
    let check = |overlay: &str, annotation: &str| {
        let overlay = Overlay::rendered(overlay);
        let account = overlay.find("ServiceAccount", "gleaner").unwrap();
        let annotations = &account["metadata"]["annotations"];
        assert!(annotations[annotation].is_string(), "{annotations}");
        let job = overlay.settings("gleaner-job");
        let scheme = if overlay.name == "gcp" {
            "gs://"
        } else {
            "s3://"
        };
        assert!(job["job.yaml"].as_str().unwrap().contains(scheme));
    };
    check("aws", "eks.amazonaws.com/role-arn");
    check("gcp", "iam.gke.io/gcp-service-account");
}

/// Passwords are in the overlay for trials alone.
#[test]
fn secrets_are_by_reference() {
    for name in OVERLAYS {
        let overlay = Overlay::rendered(name);
        let n_secrets = overlay
            .documents
            .iter()
            .filter(|it| kind(it) == "Secret")
            .count();
        assert_eq!(n_secrets > 0, name == "local", "{name}");
    }
    let local = Overlay::rendered("local");
    let suspended = local.find("CronJob", "gleaner-refresh").unwrap();
    assert_eq!(suspended["spec"]["suspend"], json!(true));
}
