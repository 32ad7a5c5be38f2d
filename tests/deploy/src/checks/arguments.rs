//! Commands, options, probes and variables are those that the programs know.

use std::net::SocketAddr;
use std::time::Duration;

use gleaner_schemas::Resource;
use gleaner_schemas::units::HumanDuration;
use serde_json::Value;

use crate::overlay::{Component, Overlay, Workload, items};
use crate::sources::Facts;

/// Options whose values are spans of time.
const DURATIONS: [&str; 5] = [
    "grace",
    "until-idle",
    "patience",
    "broker-patience",
    "consumer-timeout",
];
/// Variables of stores and libraries, and of endpoints (`api_key_env` in job files).
const OTHERS: [&str; 6] = ["AWS_", "GOOGLE_", "AZURE_", "SSL_CERT_", "RUST_LOG", "LLM_"];

pub(super) fn findings(overlay: &Overlay, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for workload in overlay.ours() {
        let name = workload.name();
        let mut say = |finding: String| found.push(format!("{name}: {finding}"));
        command(&workload, facts, &mut say);
        probes(&workload, facts, &mut say);
        grace(&workload, facts, &mut say);
        for variable in items(&workload.container()["env"]) {
            known_variable(&variable["name"], facts, &mut say);
        }
    }
    let settings = overlay.settings("gleaner-settings");
    let mut say = |finding| found.push(format!("ConfigMap/gleaner-settings: {finding}"));
    for variable in settings.keys() {
        known_variable(&Value::from(variable.as_str()), facts, &mut say);
    }
    if !settings.contains_key("GLEANER_QUEUE") {
        say("GLEANER_QUEUE is missing".to_owned());
    }
    found
}

fn command(workload: &Workload<'_>, facts: &Facts, say: &mut dyn FnMut(String)) {
    let component = workload.component();
    let container = workload.container();
    let expect = match component {
        Component::Worker => "gleaner-worker",
        _ => "gleaner",
    };
    if container["command"] != serde_json::json!([expect]) {
        say(format!(
            "the command is {}, not {expect}",
            container["command"]
        ));
    }
    if component == Component::Coordinator && container["args"][0] != "run" {
        say(format!(
            "the coordinator does not run, but {}",
            container["args"][0]
        ));
    }
    for (option, value) in workload.options() {
        if !facts.options(component).contains(option) {
            say(format!("there is no option --{option}"));
        }
        if DURATIONS.contains(&option) && value.parse::<HumanDuration>().is_err() {
            say(format!("--{option}={value} is no duration"));
        }
    }
    if component == Component::Worker {
        let resources = workload.option("resources").unwrap_or_default();
        for resource in resources.split(',') {
            if !Resource::ALL.iter().any(|it| it.as_str() == resource) {
                say(format!("there is no resource {resource:?}"));
            }
        }
        if workload.option("until-idle").is_none() {
            say("without --until-idle it never ends".to_owned());
        }
    }
}

/// Liveness must not depend on broker or store, as `/ready` does.
fn probes(workload: &Workload<'_>, facts: &Facts, say: &mut dyn FnMut(String)) {
    let container = workload.container();
    let ports: Vec<&Value> = items(&container["ports"]).collect();
    let listens = workload.option("health").map(str::parse::<SocketAddr>);
    match listens {
        Some(Ok(address)) if address.ip().is_unspecified() => {
            if !ports
                .iter()
                .any(|port| port["containerPort"] == address.port())
            {
                say(format!(
                    "--health is on port {}, which is no port of the container",
                    address.port()
                ));
            }
        }
        _ => say("--health must listen to others, as in 0.0.0.0:8080".to_owned()),
    }
    for (probe, expect) in [
        ("livenessProbe", "/live"),
        ("startupProbe", "/live"),
        ("readinessProbe", "/ready"),
    ] {
        let request = &container[probe]["httpGet"];
        if container[probe].is_null() {
            if probe == "livenessProbe" {
                say(format!("{probe} is missing"));
            }
            continue;
        }
        let path = request["path"].as_str().unwrap_or_default();
        if path != expect || !facts.health_paths.contains(path) {
            say(format!("{probe} asks for {path:?}, not for {expect}"));
        }
        if !ports.iter().any(|port| port["name"] == request["port"]) {
            say(format!(
                "{probe} asks at the port {}, which is none of the container",
                request["port"]
            ));
        }
    }
}

fn grace(workload: &Workload<'_>, facts: &Facts, say: &mut dyn FnMut(String)) {
    let seconds = workload.pod()["terminationGracePeriodSeconds"].as_u64();
    let period = Duration::from_secs(seconds.unwrap_or(30));
    if workload.component() != Component::Worker {
        return;
    }
    let grace = workload
        .option("grace")
        .and_then(|it| it.parse::<HumanDuration>().ok());
    let Some(grace) = grace else {
        say("--grace is missing".to_owned());
        return;
    };
    let needed = grace.duration() + facts.handing_back;
    if period <= needed {
        say(format!(
            "terminationGracePeriodSeconds is {}, and --grace with what comes after takes {}",
            period.as_secs(),
            needed.as_secs()
        ));
    }
}

fn known_variable(variable: &Value, facts: &Facts, say: &mut dyn FnMut(String)) {
    let variable = variable.as_str().unwrap_or_default();
    let is_of_others = OTHERS.iter().any(|prefix| variable.starts_with(prefix));
    if !is_of_others && !facts.variables.contains(variable) {
        say(format!("nobody reads the variable {variable:?}"));
    }
}
