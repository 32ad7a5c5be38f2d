//! Workers are started for the queues that they read.

use std::collections::BTreeSet;

use gleaner_queue::queue_name;
use gleaner_schemas::job::Priority;
use gleaner_schemas::{Resource, Route};
use serde_json::{Value, json};

use crate::overlay::{Component, Overlay, Workload, items};
use crate::sources::Facts;

pub(super) fn findings(overlay: &Overlay, _: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let mut workers = overlay.ours();
    workers.retain(|it| it.component() == Component::Worker);
    if workers.is_empty() {
        found.push("there are no workers".to_owned());
    }
    let mut served = BTreeSet::new();
    let mut is_scaled = false;
    for worker in &workers {
        let name = worker.name();
        let mut say = |finding: String| found.push(format!("{name}: {finding}"));
        let resource = worker.option("resources").unwrap_or_default();
        served.insert(resource);
        if worker.template["metadata"]["labels"]["gleaner/resource"] != resource {
            say("the label gleaner/resource is not that of --resources".to_owned());
        }
        if worker.document["kind"] == "ScaledJob" {
            is_scaled = true;
            scaled(worker, overlay, &mut say);
        }
    }
    for resource in Resource::ALL.map(Resource::as_str) {
        if is_scaled && !served.contains(resource) {
            found.push(format!("there are no workers for {resource}"));
        }
    }
    found
}

fn scaled(worker: &Workload<'_>, overlay: &Overlay, say: &mut dyn FnMut(String)) {
    let spec = &worker.document["spec"];
    let expected = [
        ("/minReplicaCount", json!(0)),
        // Others end workers that are busy when a ScaledJob changes.
        ("/rollout/strategy", json!("gradual")),
        // What is in hand is counted, and what runs is subtracted.
        ("/scalingStrategy/strategy", json!("default")),
        ("/scalingStrategy/multipleScalersCalculation", json!("sum")),
        ("/jobTargetRef/parallelism", json!(1)),
        ("/jobTargetRef/completions", json!(1)),
    ];
    for (at, expect) in expected {
        let value = spec.pointer(at).unwrap_or(&Value::Null);
        if *value != expect {
            say(format!("{at} is {value}, not {expect}"));
        }
    }
    if spec["maxReplicaCount"].as_u64().is_none_or(|it| it == 0) {
        say("maxReplicaCount is missing".to_owned());
    }
    let resource = worker.option("resources").unwrap_or_default();
    let resource = Resource::ALL.into_iter().find(|it| it.as_str() == resource);
    let expect: BTreeSet<String> = resource
        .into_iter()
        .flat_map(|resource| Priority::ALL.map(|priority| queue_name(Route { resource, priority })))
        .collect();
    let triggers: Vec<&Value> = items(&spec["triggers"]).collect();
    let queues = triggers
        .iter()
        .filter_map(|it| it["metadata"]["queueName"].as_str());
    let queues: BTreeSet<String> = queues.map(str::to_owned).collect();
    if queues != expect || triggers.len() != expect.len() {
        say(format!(
            "it is started for {queues:?}, and reads {expect:?}"
        ));
    }
    for trigger in triggers {
        let metadata = &trigger["metadata"];
        if trigger["type"] != "rabbitmq" || metadata["mode"] != "QueueLength" {
            say("a trigger is not the length of a queue".to_owned());
        }
        // Over AMQP, messages in hand are not counted.
        if metadata["protocol"] != "http" {
            say(format!(
                "a trigger has the protocol {}, not http",
                metadata["protocol"]
            ));
        }
        if metadata["value"].as_str() != worker.option("slots") {
            say(format!(
                "{} messages are for one worker, which has other --slots",
                metadata["value"]
            ));
        }
        let authentication = trigger["authenticationRef"]["name"]
            .as_str()
            .unwrap_or_default();
        if overlay
            .find("TriggerAuthentication", authentication)
            .is_none()
        {
            say(format!(
                "there is no TriggerAuthentication {authentication:?}"
            ));
        }
    }
}
