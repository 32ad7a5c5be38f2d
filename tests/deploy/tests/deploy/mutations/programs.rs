//! What the programs are told, and how they end.

use serde_json::{Value, json};

use super::Change::{Remove, Set};
use super::{CPU, JOB_POD, REFRESH, RUN, SCALED_POD, SETTINGS, argument, check};

#[test]
fn commands_options_and_variables() {
    let set =
        |at: &str, value: &str, expect: &str| check("aws", CPU, at, Set(json!(value)), expect);
    set(
        &argument(SCALED_POD, 0),
        "--resource=cpu",
        "there is no option --resource",
    );
    set(
        &argument(SCALED_POD, 0),
        "--resources=gpu",
        "there is no resource \"gpu\"",
    );
    set(
        &argument(SCALED_POD, 2),
        "--until-idle=120",
        "--until-idle=120 is no duration",
    );
    set(
        &argument(SCALED_POD, 4),
        "--health=8080",
        "--health must listen to others",
    );
    set(
        &argument(SCALED_POD, 4),
        "--health=0.0.0.0:8081",
        "is no port of the container",
    );
    check(
        "aws",
        CPU,
        &argument(SCALED_POD, 2),
        Remove,
        "without --until-idle it never ends",
    );
    let at = format!("{SCALED_POD}/containers/0/command/0");
    set(
        &at,
        "gleaner",
        "the command is [\"gleaner\"], not gleaner-worker",
    );
    check(
        "aws",
        RUN,
        &argument(JOB_POD, 0),
        Set(json!("plan")),
        "does not run, but \"plan\"",
    );
    check(
        "aws",
        RUN,
        &argument(JOB_POD, 2),
        Set(json!("--until-idle=2min")),
        "no option --until-idle",
    );
    let at = format!("{JOB_POD}/containers/0/env/0/name");
    check(
        "aws",
        RUN,
        &at,
        Set(json!("GLEANER_USER")),
        "nobody reads the variable \"GLEANER_USER\"",
    );
    check(
        "aws",
        SETTINGS,
        "/data/GLEANER_QEUE",
        Set(json!("x")),
        "nobody reads the variable \"GLEANER_QEUE\"",
    );
    check(
        "aws",
        SETTINGS,
        "/data/GLEANER_QUEUE",
        Remove,
        "GLEANER_QUEUE is missing",
    );
}

#[test]
fn probes_and_grace() {
    let probe = |at: &str| format!("{SCALED_POD}/containers/0/livenessProbe/httpGet/{at}");
    check(
        "aws",
        CPU,
        &probe("path"),
        Set(json!("/ready")),
        "livenessProbe asks for \"/ready\"",
    );
    check(
        "aws",
        CPU,
        &probe("port"),
        Set(json!("web")),
        "at the port \"web\"",
    );
    let at = format!("{JOB_POD}/containers/0/livenessProbe");
    check("aws", RUN, &at, Remove, "livenessProbe is missing");
    let at = format!("{SCALED_POD}/terminationGracePeriodSeconds");
    check(
        "aws",
        CPU,
        &at,
        Set(json!(300)),
        "terminationGracePeriodSeconds is 300",
    );
    check(
        "aws",
        CPU,
        &at,
        Remove,
        "terminationGracePeriodSeconds is 30",
    );
    let grace = Set(json!("--grace=10min"));
    check(
        "without-keda",
        "Job/gleaner-worker-cpu",
        &argument(JOB_POD, 3),
        grace,
        "with what comes after takes",
    );
    check(
        "aws",
        CPU,
        &argument(SCALED_POD, 3),
        Remove,
        "--grace is missing",
    );
}

#[test]
fn exit_codes() {
    let rule = |number: usize, at: &str| format!("/spec/podFailurePolicy/rules/{number}/{at}");
    let values = "onExitCodes/values";
    let set = |number: usize, at: &str, value: Value, expect: &str| {
        check("aws", RUN, &rule(number, at), Set(value), expect);
    };
    set(
        0,
        values,
        json!([2, 3, 5]),
        "nothing is decided about exit code 6",
    );
    set(
        0,
        values,
        json!([2, 3, 4, 5, 6]),
        "exit code 4 leads to \"FailJob\", not to Count",
    );
    set(
        2,
        values,
        json!([1, 4, 130, 75]),
        "exit code 75 is not in deploy/README.md",
    );
    set(
        2,
        values,
        json!([1, 4, 4, 130]),
        "exit code 4 is decided twice",
    );
    set(
        0,
        "action",
        json!("Count"),
        "exit code 2 leads to \"Count\", not to FailJob",
    );
    set(1, "action", json!("Count"), "must not count as failed");
    set(
        0,
        "onExitCodes/operator",
        json!("NotIn"),
        "not about codes that it lists",
    );
    set(
        0,
        "onExitCodes/containerName",
        json!("worker"),
        "a rule is about the container \"worker\"",
    );
    check(
        "aws",
        RUN,
        "/spec/podFailurePolicy",
        Remove,
        "nothing is decided about exit code 1",
    );
    let at = "/spec/jobTargetRef/podFailurePolicy/rules/2/onExitCodes/values";
    check(
        "aws",
        CPU,
        at,
        Set(json!([1, 4])),
        "nothing is decided about exit code 75",
    );
    let at = "/spec/jobTemplate/spec/podFailurePolicy/rules/1";
    check("aws", REFRESH, at, Remove, "must not count as failed");
}
