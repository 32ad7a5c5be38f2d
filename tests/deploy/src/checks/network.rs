//! Selectors select something, and what the pods connect to is allowed.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::overlay::{Overlay, entries, items, name};
use crate::sources::Facts;

/// Where names are asked for, and where HTTPS is.
const ALWAYS: [u16; 2] = [53, 443];

pub(super) fn findings(overlay: &Overlay, _: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for document in &overlay.documents {
        let selector = match document["kind"].as_str() {
            Some("Service") => &document["spec"]["selector"],
            Some("NetworkPolicy") => &document["spec"]["podSelector"]["matchLabels"],
            Some("Deployment" | "StatefulSet" | "PodDisruptionBudget") => {
                &document["spec"]["selector"]["matchLabels"]
            }
            _ => continue,
        };
        let mut say = |finding: String| found.push(format!("{}: {finding}", name(document)));
        let selected = selected(overlay, selector);
        if entries(selector).next().is_none() || selected.is_empty() {
            say(format!("{selector} selects no pod"));
        }
        if document["kind"] == "Service" {
            let ports: Vec<&Value> = selected
                .iter()
                .flat_map(|pod| items(&pod["containers"]))
                .flat_map(|it| items(&it["ports"]))
                .collect();
            for port in items(&document["spec"]["ports"]) {
                let target = &port["targetPort"];
                if !ports
                    .iter()
                    .any(|it| it["name"] == *target || it["containerPort"] == *target)
                {
                    say(format!("the port {target} is none of its pods"));
                }
            }
        }
    }
    policies(overlay, &mut found);
    found
}

/// The pods that have all labels of a selector.
fn selected<'a>(overlay: &'a Overlay, selector: &Value) -> Vec<&'a Value> {
    let mut workloads = overlay.workloads();
    workloads.retain(|it| {
        let labels = &it.template["metadata"]["labels"];
        entries(selector).all(|(label, value)| labels[label] == *value)
    });
    workloads.iter().map(|it| it.pod()).collect()
}

fn policies(overlay: &Overlay, found: &mut Vec<String>) {
    let Some(policy) = overlay.find("NetworkPolicy", "gleaner") else {
        found.push("NetworkPolicy/gleaner is missing".to_owned());
        return;
    };
    let mut say = |finding: String| found.push(format!("NetworkPolicy/gleaner: {finding}"));
    let spec = &policy["spec"];
    for workload in overlay.ours() {
        let labels = &workload.template["metadata"]["labels"];
        if !entries(&spec["podSelector"]["matchLabels"])
            .all(|(label, value)| labels[label] == *value)
        {
            say(format!("{} is not under it", workload.name()));
        }
        let health = &workload.container()["ports"][0]["containerPort"];
        let health = health.as_u64().unwrap_or_default();
        if !ports(&spec["ingress"]).contains(&health) {
            say(format!(
                "metrics of {} cannot be read at port {health}",
                workload.name()
            ));
        }
    }
    for direction in ["Ingress", "Egress"] {
        if !items(&spec["policyTypes"]).any(|it| it == direction) {
            say(format!("{direction} is not restricted"));
        }
    }
    if items(&spec["ingress"]).any(|rule| rule["from"].is_null()) {
        say("everyone may connect".to_owned());
    }
    let allowed = ports(&spec["egress"]);
    let settings = overlay.settings("gleaner-settings");
    let urls = ["GLEANER_QUEUE", "AWS_ENDPOINT_URL"]
        .iter()
        .filter_map(|name| settings.get(*name)?.as_str());
    let needed = urls.filter_map(port).chain(ALWAYS).map(u64::from);
    for port in needed.collect::<BTreeSet<_>>() {
        if !allowed.contains(&port) {
            say(format!("port {port} cannot be connected to"));
        }
    }
}

fn ports(rules: &Value) -> BTreeSet<u64> {
    let ports = items(rules).flat_map(|rule| items(&rule["ports"]));
    ports.filter_map(|it| it["port"].as_u64()).collect()
}

/// The port of a URL.
fn port(url: &str) -> Option<u16> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    match authority.rsplit_once(':') {
        Some((_, port)) => port.parse().ok(),
        None => match scheme {
            "amqp" => Some(5672),
            "amqps" => Some(5671),
            "http" => Some(80),
            _ => Some(443),
        },
    }
}
