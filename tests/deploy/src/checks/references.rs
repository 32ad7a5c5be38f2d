//! What is referred to is there, or documented as the user's to provide.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::overlay::{Overlay, Workload, entries, items, name};
use crate::sources::Facts;

pub(super) fn findings(overlay: &Overlay, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for workload in overlay.workloads() {
        let mut say = |finding: String| found.push(format!("{}: {finding}", workload.name()));
        if let Some(account) = workload.pod()["serviceAccountName"].as_str()
            && overlay.find("ServiceAccount", account).is_none()
        {
            say(format!("there is no ServiceAccount {account}"));
        }
        for container in workload.containers() {
            for source in items(&container["envFrom"]) {
                secret(overlay, facts, &source["secretRef"]["name"], None, &mut say);
                config_map(overlay, &source["configMapRef"]["name"], &mut say);
            }
            for variable in items(&container["env"]) {
                let reference = &variable["valueFrom"]["secretKeyRef"];
                secret(
                    overlay,
                    facts,
                    &reference["name"],
                    Some(&reference["key"]),
                    &mut say,
                );
            }
        }
        volumes(overlay, facts, &workload, &mut say);
    }
    for authentication in overlay.of_kind("TriggerAuthentication") {
        let mut say = |finding: String| found.push(format!("{}: {finding}", name(authentication)));
        for reference in items(&authentication["spec"]["secretTargetRef"]) {
            secret(
                overlay,
                facts,
                &reference["name"],
                Some(&reference["key"]),
                &mut say,
            );
        }
    }
    for document in &overlay.documents {
        if document["metadata"].get("namespace").is_some() {
            found.push(format!(
                "{}: it names a namespace, which is the user's choice",
                name(document)
            ));
        }
    }
    found
}

fn secret(
    overlay: &Overlay,
    facts: &Facts,
    name: &Value,
    key: Option<&Value>,
    say: &mut dyn FnMut(String),
) {
    let Some(name) = name.as_str() else { return };
    let keys: Option<BTreeSet<String>> = match overlay.find("Secret", name) {
        Some(secret) => Some(
            entries(&secret["data"])
                .map(|(key, _)| key.clone())
                .collect(),
        ),
        None => facts.secrets.get(name).cloned(),
    };
    match (keys, key.and_then(Value::as_str)) {
        (None, _) => say(format!(
            "the Secret {name} is neither there nor in deploy/README.md"
        )),
        (Some(keys), Some(key)) if !keys.contains(key) => {
            say(format!("the Secret {name} has no key {key}"));
        }
        _ => {}
    }
}

fn config_map(overlay: &Overlay, name: &Value, say: &mut dyn FnMut(String)) {
    if let Some(name) = name.as_str()
        && overlay.find("ConfigMap", name).is_none()
    {
        say(format!("there is no ConfigMap {name}"));
    }
}

fn volumes(overlay: &Overlay, facts: &Facts, workload: &Workload<'_>, say: &mut dyn FnMut(String)) {
    let volumes: BTreeSet<&str> = items(&workload.pod()["volumes"])
        .filter_map(|it| it["name"].as_str())
        .collect();
    let containers = workload.containers();
    let mounts = containers.iter().flat_map(|it| items(&it["volumeMounts"]));
    let mounts: BTreeSet<&str> = mounts.filter_map(|it| it["name"].as_str()).collect();
    for name in volumes.symmetric_difference(&mounts) {
        say(format!("the volume {name} is not both there and mounted"));
    }
    for volume in items(&workload.pod()["volumes"]) {
        config_map(overlay, &volume["configMap"]["name"], say);
        secret(overlay, facts, &volume["secret"]["secretName"], None, say);
    }
    // The job file is read where it is mounted.
    let arguments = items(&workload.container()["args"]).filter_map(Value::as_str);
    for file in arguments.filter(|it| it.ends_with(".yaml")) {
        let (folder, file_name) = file.rsplit_once('/').unwrap_or_default();
        let mut mounts = items(&workload.container()["volumeMounts"]);
        let mount = mounts.find(|it| it["mountPath"] == folder);
        let mut volumes = items(&workload.pod()["volumes"]);
        let volume = mount.and_then(|mount| volumes.find(|it| it["name"] == mount["name"]));
        let map = volume.and_then(|it| it["configMap"]["name"].as_str());
        let data = map.map(|map| overlay.settings(map)).unwrap_or_default();
        if !data.contains_key(file_name) {
            say(format!("nothing puts {file} there"));
        }
    }
}
