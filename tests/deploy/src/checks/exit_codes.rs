//! What a Job does after each exit code is what the documents say, and every code is decided.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::overlay::{Component, Overlay, items};
use crate::sources::Facts;

pub(super) fn findings(overlay: &Overlay, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for workload in overlay.ours() {
        let name = workload.name();
        let mut say = |finding: String| found.push(format!("{name}: {finding}"));
        let Some(job) = workload.job else { continue };
        let program = match workload.component() {
            Component::Worker => "worker",
            _ => "coordinator",
        };
        let rules: Vec<&Value> = items(&job["podFailurePolicy"]["rules"]).collect();
        let mut decided = BTreeSet::new();
        for rule in &rules {
            let Some(codes) = rule.get("onExitCodes") else {
                continue;
            };
            if codes["containerName"] != workload.container()["name"] {
                say(format!(
                    "a rule is about the container {}",
                    codes["containerName"]
                ));
            }
            if codes["operator"] != "In" {
                say("a rule is not about codes that it lists".to_owned());
            }
            for code in items(&codes["values"]).filter_map(Value::as_i64) {
                if !decided.insert(code) {
                    say(format!("exit code {code} is decided twice"));
                }
                let documented = facts.documented_codes.iter();
                let mut documented =
                    documented.filter(|it| it.code == code && it.programs.contains(&program));
                let expect = match documented.next() {
                    Some(it) if it.is_tried_again => "Count",
                    Some(_) => "FailJob",
                    None => {
                        say(format!("exit code {code} is not in deploy/README.md"));
                        continue;
                    }
                };
                if rule["action"] != expect {
                    say(format!(
                        "exit code {code} leads to {}, not to {expect}",
                        rule["action"]
                    ));
                }
            }
        }
        let documented = facts.documented_codes.iter();
        let documented = documented
            .filter(|it| it.programs.contains(&program))
            .map(|it| it.code);
        for code in facts.codes[program].iter().copied().chain(documented) {
            if !decided.contains(&code) {
                say(format!("nothing is decided about exit code {code}"));
            }
        }
        let disruption = |rule: &&&Value| {
            let conditions = items(&rule["onPodConditions"]);
            conditions
                .into_iter()
                .any(|it| it["type"] == "DisruptionTarget" && it["status"] == "True")
        };
        match rules.iter().find(disruption) {
            Some(rule) if rule["action"] == "Ignore" => {}
            _ => say("a pod whose node goes away must not count as failed".to_owned()),
        }
        // The first rule that fits decides.
        let place = |action: &str| rules.iter().position(|rule| rule["action"] == action);
        if place("Ignore") > place("Count") {
            say("what is ignored must be decided before what is counted".to_owned());
        }
    }
    found
}
