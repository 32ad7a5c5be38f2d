//! Pods have no more rights than they need.

use serde_json::{Value, json};

use crate::overlay::{Component, Overlay, Workload, items};
use crate::sources::Facts;

/// Containers of others that cannot do with a root that is read-only.
const WRITE_TO_THEIR_ROOT: [&str; 1] = ["rabbitmq"];

pub(super) fn findings(overlay: &Overlay, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for workload in overlay.workloads() {
        let name = workload.name();
        let mut say = |finding: String| found.push(format!("{name}: {finding}"));
        pod(&workload, facts, &mut say);
        for container in workload.containers() {
            let container_name = container["name"].as_str().unwrap_or_default();
            let expected = [
                ("allowPrivilegeEscalation", json!(false)),
                ("capabilities", json!({"drop": ["ALL"]})),
                ("readOnlyRootFilesystem", json!(true)),
            ];
            for (setting, expect) in expected {
                let may_write = setting.starts_with("readOnly")
                    && WRITE_TO_THEIR_ROOT.contains(&container_name);
                let value = &container["securityContext"][setting];
                if *value != expect && !may_write {
                    say(format!(
                        "{container_name}: {setting} is {value}, not {expect}"
                    ));
                }
            }
            for variable in items(&container["env"]) {
                secret_by_reference(variable, &mut say);
            }
        }
    }
    for (name, value) in overlay.settings("gleaner-settings") {
        let mut say =
            |finding: String| found.push(format!("ConfigMap/gleaner-settings: {finding}"));
        if is_secret(&name) || has_password(value.as_str().unwrap_or_default()) {
            say(format!("{name} is a secret, which belongs into a Secret"));
        }
    }
    found
}

fn pod(workload: &Workload<'_>, facts: &Facts, say: &mut dyn FnMut(String)) {
    let pod = workload.pod();
    let mut expected = vec![
        ("/securityContext/runAsNonRoot", json!(true)),
        (
            "/securityContext/seccompProfile/type",
            json!("RuntimeDefault"),
        ),
        ("/automountServiceAccountToken", json!(false)),
        ("/enableServiceLinks", json!(false)),
    ];
    if workload.component() != Component::Other {
        expected.extend([
            ("/securityContext/runAsUser", json!(facts.image_user)),
            ("/securityContext/runAsGroup", json!(facts.image_user)),
            ("/securityContext/fsGroup", json!(facts.image_user)),
            ("/serviceAccountName", json!("gleaner")),
        ]);
    }
    for (at, expect) in expected {
        let value = pod.pointer(at).unwrap_or(&Value::Null);
        if *value != expect {
            say(format!("{at} is {value}, not {expect}"));
        }
    }
    if pod["securityContext"]["runAsUser"]
        .as_i64()
        .is_none_or(|user| user == 0)
    {
        say("runAsUser must be a number above 0".to_owned());
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod.get(field).is_some() {
            say(format!("{field} is asked for"));
        }
    }
    for volume in items(&pod["volumes"]) {
        if volume.get("hostPath").is_some() {
            say(format!(
                "the volume {} is a path of the node",
                volume["name"]
            ));
        }
    }
}

fn secret_by_reference(variable: &Value, say: &mut dyn FnMut(String)) {
    let name = variable["name"].as_str().unwrap_or_default();
    let value = variable["value"].as_str();
    if value.is_some_and(|value| is_secret(name) || has_password(value)) {
        say(format!("{name} is a secret, and stands there"));
    }
}

fn is_secret(name: &str) -> bool {
    ["PASSWORD", "_PASS", "SECRET", "TOKEN", "_KEY"]
        .iter()
        .any(|it| name.ends_with(it))
}

/// As in `amqp://user:password@host`.
fn has_password(value: &str) -> bool {
    let authority = value
        .split_once("://")
        .map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    authority.is_some_and(|authority| authority.contains('@'))
}
