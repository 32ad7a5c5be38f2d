//! `deploy/compose.yaml` against what the programs know.

use std::time::Duration;

use gleaner_schemas::units::HumanDuration;
use serde_json::{Value, json};

use crate::overlay::{Component, entries, items};
use crate::repository;
use crate::sources::Facts;

/// What a service may have: what is used, so that a misspelt field is found.
const FIELDS: [&str; 17] = [
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "deploy",
    "entrypoint",
    "environment",
    "healthcheck",
    "image",
    "mem_limit",
    "ports",
    "read_only",
    "security_opt",
    "stop_grace_period",
    "tmpfs",
    "user",
    "volumes",
];
/// Where the image has the examples.
const EXAMPLES: &str = "/usr/share/gleaner/examples/";
/// What Compose waits for a service to stop if nothing is said.
const STOP_USUAL: Duration = Duration::from_secs(10);

/// What is wrong with a Compose file.
#[must_use]
pub fn findings(compose: &Value, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let services = &compose["services"];
    for (name, service) in entries(services) {
        let mut say = |finding: String| found.push(format!("{name}: {finding}"));
        of_any(services, service, &mut say);
        match service["entrypoint"][0].as_str() {
            Some("gleaner") => of_ours(services, service, Component::Coordinator, facts, &mut say),
            Some("gleaner-worker") => {
                of_ours(services, service, Component::Worker, facts, &mut say)
            }
            _ => {}
        }
    }
    for name in ["coordinator", "worker", "broker", "store"] {
        if services.get(name).is_none() {
            found.push(format!("{name} is missing"));
        }
    }
    if services["worker"]["deploy"]["replicas"] != 2 {
        found.push("worker: there are not two".to_owned());
    }
    found
}

fn of_any(services: &Value, service: &Value, say: &mut dyn FnMut(String)) {
    for (field, _) in entries(service).filter(|(field, _)| !FIELDS.contains(&field.as_str())) {
        say(format!("{field} is not known"));
    }
    let image = service["image"].as_str().unwrap_or_default();
    let tag = image
        .rsplit('/')
        .next()
        .and_then(|last| last.split_once(':'));
    if tag.is_none_or(|(_, tag)| tag == "latest") {
        say(format!("the image {image:?} has no version"));
    }
    for port in items(&service["ports"]) {
        if !port
            .as_str()
            .is_some_and(|port| port.starts_with("127.0.0.1:"))
        {
            say(format!("the port {port} is open to others"));
        }
    }
    let listed = items(&service["depends_on"]).filter_map(Value::as_str);
    let named = entries(&service["depends_on"]).map(|(name, _)| name.as_str());
    for other in listed.chain(named) {
        if services.get(other).is_none() {
            say(format!("it waits for {other}, which is not there"));
        }
    }
    for volume in items(&service["volumes"]).filter_map(Value::as_str) {
        let source = volume.split(':').next().unwrap_or_default();
        if source.starts_with('.') && !repository("deploy").join(source).exists() {
            say(format!("{source} is not there"));
        }
    }
    let build = service["build"]["dockerfile"].as_str();
    if build.is_some_and(|file| !repository(file).exists()) {
        say("its Dockerfile is not there".to_owned());
    }
}

fn of_ours(
    services: &Value,
    service: &Value,
    component: Component,
    facts: &Facts,
    say: &mut dyn FnMut(String),
) {
    let user = format!("{0}:{0}", facts.image_user);
    let expected = [
        ("user", json!(user)),
        ("read_only", json!(true)),
        ("cap_drop", json!(["ALL"])),
        ("security_opt", json!(["no-new-privileges:true"])),
    ];
    for (field, expect) in expected {
        if service[field] != expect {
            say(format!("{field} is {}, not {expect}", service[field]));
        }
    }
    let arguments: Vec<&str> = items(&service["command"])
        .filter_map(Value::as_str)
        .collect();
    for option in arguments.iter().filter_map(|it| it.strip_prefix("--")) {
        let option = option.split('=').next().unwrap_or(option);
        if !facts.options(component).contains(option) {
            say(format!("there is no option --{option}"));
        }
    }
    for job in arguments.iter().filter_map(|it| it.strip_prefix(EXAMPLES)) {
        if !repository("examples").join(job).exists() {
            say(format!("the image has no example {job}"));
        }
    }
    if component == Component::Coordinator && arguments.first() != Some(&"run") {
        say("the coordinator does not run".to_owned());
    }
    let environment = &service["environment"];
    for (variable, _) in entries(environment) {
        let is_known = variable.starts_with("AWS_") || facts.variables.contains(variable);
        if !is_known {
            say(format!("nobody reads the variable {variable}"));
        }
    }
    let pairs = [
        ("GLEANER_QUEUE_USER", "broker", "RABBITMQ_DEFAULT_USER"),
        ("GLEANER_QUEUE_PASSWORD", "broker", "RABBITMQ_DEFAULT_PASS"),
        ("AWS_ACCESS_KEY_ID", "store", "MINIO_ROOT_USER"),
        ("AWS_SECRET_ACCESS_KEY", "store", "MINIO_ROOT_PASSWORD"),
    ];
    for (ours, server, theirs) in pairs {
        if environment[ours] != services[server]["environment"][theirs] {
            say(format!("{ours} is not {theirs} of {server}"));
        }
    }
    for variable in ["GLEANER_QUEUE", "AWS_ENDPOINT_URL"] {
        let url = environment[variable].as_str().unwrap_or_default();
        let host = url
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split([':', '/']).next());
        if services.get(host.unwrap_or_default()).is_none() {
            say(format!(
                "{variable} is {url:?}, and there is no such service"
            ));
        }
    }
    let vhost = &services["broker"]["environment"]["RABBITMQ_DEFAULT_VHOST"];
    let queue = environment["GLEANER_QUEUE"].as_str();
    if queue.and_then(|url| url.rsplit('/').next()) != vhost.as_str() {
        say(format!("GLEANER_QUEUE is not of the vhost {vhost}"));
    }
    if component == Component::Worker {
        let grace = arguments.iter().position(|it| *it == "--grace");
        let grace = duration(grace.and_then(|at| arguments.get(at + 1)).copied());
        let stop = duration(service["stop_grace_period"].as_str()).unwrap_or(STOP_USUAL);
        if grace.is_none_or(|grace| stop <= grace + facts.handing_back) {
            say("stop_grace_period is shorter than --grace with what comes after".to_owned());
        }
    }
}

fn duration(text: Option<&str>) -> Option<Duration> {
    text?.parse().map(HumanDuration::duration).ok()
}
