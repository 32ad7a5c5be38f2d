//! The page of a coordinator is at a port of its own, and reached from within the namespace by who
//! was let in: whoever reaches it may watch.

use std::net::SocketAddr;

use serde_json::Value;

use crate::overlay::{Component, Overlay, entries, items, kind, name};
use crate::sources::Facts;

/// The Service that leads to the page.
const SERVICE: &str = "gleaner-dashboard";

pub(super) fn findings(overlay: &Overlay, _: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for workload in overlay.ours() {
        if workload.component() != Component::Coordinator {
            continue;
        }
        let mut say = |finding: &str| found.push(format!("{}: {finding}", workload.name()));
        let address = |option| workload.option(option)?.parse::<SocketAddr>().ok();
        let Some(page) = address("dashboard").filter(|it| it.ip().is_unspecified()) else {
            say("--dashboard must listen to others, as in 0.0.0.0:8081");
            continue;
        };
        if address("health").is_some_and(|health| health.port() == page.port()) {
            say("the page must not be at the port that collectors of metrics reach");
        }
        let mut ports = items(&workload.container()["ports"]);
        if !ports.any(|it| it["name"] == "dashboard" && it["containerPort"] == page.port()) {
            say("the page's port is no port of the container, named dashboard");
        }
        if workload.option("dashboard-host") != Some(SERVICE) {
            say("the page is not answered by the name of its Service");
        }
        ingress(overlay, page.port(), &mut say);
    }
    let Some(service) = overlay.find("Service", SERVICE) else {
        found.push(format!("Service/{SERVICE} is missing"));
        return found;
    };
    for document in &overlay.documents {
        let is_open = match kind(document) {
            "Ingress" | "HTTPRoute" | "Route" => true,
            "Service" => document["spec"]["type"]
                .as_str()
                .is_some_and(|it| it != "ClusterIP"),
            _ => false,
        };
        if is_open {
            found.push(format!("{}: leads in from outside", name(document)));
        }
    }
    if !items(&service["spec"]["ports"]).any(|it| it["targetPort"] == "dashboard") {
        found.push(format!("Service/{SERVICE}: does not lead to the page"));
    }
    found
}

/// Only pods of the namespace that carry a label are let in to the page.
fn ingress(overlay: &Overlay, port: u16, say: &mut dyn FnMut(&str)) {
    let Some(policy) = overlay.find("NetworkPolicy", "gleaner") else {
        return;
    };
    let leads_there = |rule: &&Value| {
        let mut ports = items(&rule["ports"]).peekable();
        ports.peek().is_none() || ports.any(|it| it["port"] == port)
    };
    let rules: Vec<&Value> = items(&policy["spec"]["ingress"])
        .filter(leads_there)
        .collect();
    if rules.is_empty() {
        say("nobody is let in to the page");
    }
    for from in rules.iter().flat_map(|rule| items(&rule["from"])) {
        let has_label = entries(&from["podSelector"]["matchLabels"])
            .next()
            .is_some();
        if !has_label || !from["namespaceSelector"].is_null() || !from["ipBlock"].is_null() {
            say("more than labelled pods of the namespace are let in to the page");
        }
    }
}
