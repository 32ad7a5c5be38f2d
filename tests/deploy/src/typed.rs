//! Through the published types and back: what they do not know is gone afterwards.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::overlay::{Overlay, entries, items, name};

/// What does not fit the types of Kubernetes 1.33 or of KEDA.
#[must_use]
pub fn findings(overlay: &Overlay) -> Vec<String> {
    let of_document = |document| {
        let found = check(document).into_iter();
        found.map(move |finding| format!("{}: {finding}", name(document)))
    };
    overlay.documents.iter().flat_map(of_document).collect()
}

fn check(document: &Value) -> Vec<String> {
    let version = document["apiVersion"].as_str().unwrap_or_default();
    let kind = document["kind"].as_str().unwrap_or_default();
    match (version, kind) {
        ("v1", "ConfigMap") => round_trip::<ConfigMap>(document),
        ("v1", "Secret") => round_trip::<Secret>(document),
        ("v1", "Service") => round_trip::<Service>(document),
        ("v1", "ServiceAccount") => round_trip::<ServiceAccount>(document),
        ("apps/v1", "Deployment") => round_trip::<Deployment>(document),
        ("apps/v1", "StatefulSet") => round_trip::<StatefulSet>(document),
        ("batch/v1", "CronJob") => round_trip::<CronJob>(document),
        ("batch/v1", "Job") => round_trip::<Job>(document),
        ("networking.k8s.io/v1", "NetworkPolicy") => round_trip::<NetworkPolicy>(document),
        ("policy/v1", "PodDisruptionBudget") => round_trip::<PodDisruptionBudget>(document),
        ("keda.sh/v1alpha1", "ScaledJob") => {
            let mut found = round_trip::<JobSpec>(&document["spec"]["jobTargetRef"]);
            found.extend(fits(document, &scaled_job(), ""));
            found
        }
        ("keda.sh/v1alpha1", "TriggerAuthentication") => {
            fits(document, &trigger_authentication(), "")
        }
        _ => vec![format!("nothing is known of {version} {kind}")],
    }
}

fn round_trip<T: DeserializeOwned + Serialize>(before: &Value) -> Vec<String> {
    let after = serde_json::from_value::<T>(before.clone()).and_then(serde_json::to_value);
    let mut lost = Vec::new();
    match after {
        Ok(after) => differences(before, &after, "", &mut lost),
        Err(error) => lost.push(format!("does not fit its type: {error}")),
    }
    lost
}

/// What is in `before` and not in `after`.
fn differences(before: &Value, after: &Value, at: &str, lost: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(_)) => {
            for (key, value) in before {
                differences(value, &after[key], &format!("{at}/{key}"), lost);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (number, (before, after)) in before.iter().zip(after).enumerate() {
                differences(before, after, &format!("{at}/{number}"), lost);
            }
        }
        _ if before == after => {}
        (_, Value::Null) => lost.push(format!("{at} is not known")),
        _ => lost.push(format!("{at} is {before}, and is read as {after}")),
    }
}

/// The parts of a ScaledJob that are used here: an example of each value. What stands in a list
/// of one is an example of every item; `null` is anything.
fn scaled_job() -> Value {
    json!({
        "apiVersion": "", "kind": "", "metadata": null,
        "spec": {
            "minReplicaCount": 0, "maxReplicaCount": 0, "pollingInterval": 0,
            "successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0,
            "rollout": {"strategy": ""},
            "scalingStrategy": {"strategy": "", "multipleScalersCalculation": ""},
            "triggers": [{
                "type": "", "name": "",
                // Numbers are texts there.
                "metadata": {"protocol": "", "mode": "", "queueName": "", "value": ""},
                "authenticationRef": {"name": ""},
            }],
            "jobTargetRef": null,
        },
    })
}

fn trigger_authentication() -> Value {
    json!({
        "apiVersion": "", "kind": "", "metadata": null,
        "spec": {"secretTargetRef": [{"parameter": "", "name": "", "key": ""}]},
    })
}

fn fits(value: &Value, example: &Value, at: &str) -> Vec<String> {
    match (value, example) {
        (_, Value::Null)
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_)) => Vec::new(),
        (Value::Object(_), Value::Object(known)) => {
            let entry = |(key, value): (&String, &Value)| {
                let at = format!("{at}/{key}");
                match known.get(key) {
                    Some(example) => fits(value, example, &at),
                    None => vec![format!("{at} is not known")],
                }
            };
            entries(value).flat_map(entry).collect()
        }
        (Value::Array(_), Value::Array(example)) => items(value)
            .enumerate()
            .flat_map(|(number, item)| fits(item, &example[0], &format!("{at}/{number}")))
            .collect(),
        _ => vec![format!("{at} is {value}, and should be as {example}")],
    }
}
