//! What holds them together.

use serde_json::{Value, json};

use super::Change::{Remove, Set};
use super::{
    CPU, CRON_POD, GPU, JOB_POD, POLICY, REFRESH, RUN, SCALED_POD, argument, check, without,
};

#[test]
fn misspelt_fields_and_wrong_types() {
    let misspelt = "/spec/backofLimit is not known";
    check("aws", RUN, "/spec/backofLimit", Set(json!(6)), misspelt);
    check(
        "aws",
        RUN,
        "/spec/backoffLimit",
        Set(json!("6")),
        "does not fit its type",
    );
    check(
        "aws",
        REFRESH,
        "/spec/timezone",
        Set(json!("Etc/UTC")),
        "/spec/timezone is not known",
    );
    let at = format!("{SCALED_POD}/containers/0/resource");
    check("aws", CPU, &at, Set(json!({})), "/resource is not known");
    check(
        "aws",
        CPU,
        "/spec/rollout/stategy",
        Set(json!("x")),
        "/spec/rollout/stategy is not known",
    );
    check(
        "aws",
        CPU,
        "/spec/maxReplicaCount",
        Set(json!("9")),
        "/spec/maxReplicaCount is \"9\"",
    );
    check(
        "aws",
        CPU,
        "/spec/triggers/0/metadata/value",
        Set(json!(4)),
        "/metadata/value is 4",
    );
    let at = "/spec/triggers/1/metadata/queue";
    check(
        "aws",
        CPU,
        at,
        Set(json!("x")),
        "/metadata/queue is not known",
    );
    let at = "/spec/secretTargetRef/0/secret";
    check(
        "aws",
        "TriggerAuthentication/gleaner-broker",
        at,
        Set(json!("x")),
        "/secret is not known",
    );
    check(
        "local",
        "Service/store",
        "/kind",
        Set(json!("Servise")),
        "nothing is known of v1 Servise",
    );
    check(
        "aws",
        POLICY,
        "/spec/egres",
        Set(json!([])),
        "/spec/egres is not known",
    );
}

#[test]
fn network() {
    let selector = "/spec/podSelector/matchLabels/app.kubernetes.io~1part-of";
    check(
        "aws",
        POLICY,
        selector,
        Set(json!("other")),
        "selects no pod",
    );
    check(
        "aws",
        POLICY,
        "/spec/egress/1/ports/0",
        Remove,
        "port 5671 cannot be connected to",
    );
    check(
        "aws",
        POLICY,
        "/spec/egress/0/ports",
        Set(json!([])),
        "port 53 cannot be connected to",
    );
    check(
        "local",
        POLICY,
        "/spec/egress/3",
        Remove,
        "port 9000 cannot be connected to",
    );
    check(
        "aws",
        POLICY,
        "/spec/policyTypes/1",
        Remove,
        "Egress is not restricted",
    );
    check(
        "aws",
        POLICY,
        "/spec/ingress/0/from",
        Remove,
        "everyone may connect",
    );
    check(
        "aws",
        POLICY,
        "/spec/ingress/0/ports/0/port",
        Set(json!(9090)),
        "cannot be read at port 8080",
    );
    let label = "/spec/template/metadata/labels/app.kubernetes.io~1part-of";
    check(
        "aws",
        RUN,
        label,
        Set(json!("x")),
        "Job/gleaner-run is not under it",
    );
    without("aws", POLICY, "NetworkPolicy/gleaner is missing");
    let selector = "/spec/selector/matchLabels/app.kubernetes.io~1component";
    check(
        "aws",
        "PodDisruptionBudget/gleaner-coordinator",
        selector,
        Set(json!("cordinator")),
        "selects no pod",
    );
    check(
        "local",
        "Service/rabbitmq",
        "/spec/selector",
        Set(json!({"app": "x"})),
        "selects no pod",
    );
    check(
        "local",
        "Service/rabbitmq",
        "/spec/ports/0/targetPort",
        Set(json!("ampq")),
        "is none of its pods",
    );
}

#[test]
fn queues() {
    let set = |at: &str, value: Value, expect: &str| check("aws", CPU, at, Set(value), expect);
    set(
        "/spec/triggers/0/metadata/queueName",
        json!("gleaner.cpu.urgent"),
        "it is started for",
    );
    set(
        "/spec/triggers/0/metadata/protocol",
        json!("amqp"),
        "has the protocol \"amqp\", not http",
    );
    set(
        "/spec/triggers/0/metadata/mode",
        json!("MessageRate"),
        "is not the length of a queue",
    );
    set(
        "/spec/triggers/0/metadata/value",
        json!("1"),
        "which has other --slots",
    );
    set(
        "/spec/triggers/0/authenticationRef/name",
        json!("x"),
        "there is no TriggerAuthentication \"x\"",
    );
    check("aws", CPU, "/spec/triggers/2", Remove, "it is started for");
    set(
        "/spec/minReplicaCount",
        json!(1),
        "/minReplicaCount is 1, not 0",
    );
    set(
        "/spec/rollout/strategy",
        json!("default"),
        "/rollout/strategy is \"default\"",
    );
    set(
        "/spec/scalingStrategy/strategy",
        json!("eager"),
        "/scalingStrategy/strategy is \"eager\"",
    );
    check(
        "aws",
        CPU,
        "/spec/scalingStrategy/multipleScalersCalculation",
        Remove,
        "not \"sum\"",
    );
    check(
        "aws",
        CPU,
        "/spec/maxReplicaCount",
        Remove,
        "maxReplicaCount is missing",
    );
    let at = "/spec/jobTargetRef/template/metadata/labels/gleaner~1resource";
    set(at, json!("network"), "is not that of --resources");
    without("aws", GPU, "there are no workers for accelerator");
    without("local", "Job/gleaner-worker-cpu", "there are no workers");
}

#[test]
fn references() {
    let at = format!("{JOB_POD}/serviceAccountName");
    check(
        "aws",
        RUN,
        &at,
        Set(json!("x")),
        "there is no ServiceAccount x",
    );
    let at = format!("{JOB_POD}/containers/0/envFrom/0/configMapRef/name");
    check("aws", RUN, &at, Set(json!("x")), "there is no ConfigMap x");
    let at = format!("{JOB_POD}/containers/0/envFrom/1/secretRef/name");
    check(
        "aws",
        RUN,
        &at,
        Set(json!("x")),
        "the Secret x is neither there nor in",
    );
    let at = format!("{JOB_POD}/containers/0/env/1/valueFrom/secretKeyRef/key");
    check(
        "aws",
        RUN,
        &at,
        Set(json!("pass")),
        "the Secret gleaner-broker has no key pass",
    );
    check(
        "local",
        RUN,
        &at,
        Set(json!("pass")),
        "the Secret gleaner-broker has no key pass",
    );
    let at = "/spec/secretTargetRef/0/key";
    check(
        "aws",
        "TriggerAuthentication/gleaner-broker",
        at,
        Set(json!("host")),
        "has no key host",
    );
    let at = format!("{JOB_POD}/volumes/2");
    check(
        "aws",
        RUN,
        &at,
        Remove,
        "the volume job is not both there and mounted",
    );
    check(
        "aws",
        RUN,
        &argument(JOB_POD, 1),
        Set(json!("/etc/gleaner/x.yaml")),
        "nothing puts /etc/gleaner/x.yaml there",
    );
    check(
        "aws",
        "ServiceAccount/gleaner",
        "/metadata/namespace",
        Set(json!("x")),
        "names a namespace",
    );
    without(
        "aws",
        "ConfigMap/gleaner-settings",
        "there is no ConfigMap gleaner-settings",
    );
    without(
        "aws",
        "ConfigMap/gleaner-job",
        "there is no ConfigMap gleaner-job",
    );
}

#[test]
fn jobs_and_schedules() {
    check(
        "aws",
        REFRESH,
        "/spec/concurrencyPolicy",
        Set(json!("Allow")),
        "must be Forbid",
    );
    for field in [
        "timeZone",
        "startingDeadlineSeconds",
        "failedJobsHistoryLimit",
    ] {
        check(
            "aws",
            REFRESH,
            &format!("/spec/{field}"),
            Remove,
            &format!("{field} is missing"),
        );
    }
    check(
        "aws",
        REFRESH,
        "/spec/schedule",
        Set(json!("3 * *")),
        "is no schedule",
    );
    check(
        "aws",
        REFRESH,
        "/spec/startingDeadlineSeconds",
        Set(json!(5)),
        "too short to ever start",
    );
    let at = "/spec/jobTemplate/spec/activeDeadlineSeconds";
    check(
        "aws",
        REFRESH,
        at,
        Remove,
        "activeDeadlineSeconds is missing",
    );
    check(
        "aws",
        REFRESH,
        &argument(CRON_POD, 2),
        Remove,
        "does not run what the first run does",
    );
    check(
        "aws",
        RUN,
        &format!("{JOB_POD}/restartPolicy"),
        Set(json!("OnFailure")),
        "must be Never",
    );
    check(
        "aws",
        RUN,
        "/spec/backoffLimit",
        Remove,
        "backoffLimit is missing",
    );
    let worker = "Job/gleaner-worker-cpu";
    check(
        "without-keda",
        worker,
        "/spec/completions",
        Set(json!(4)),
        "has no completions",
    );
    let job = Set(json!("name: x\nstagse: {}\n"));
    check(
        "aws",
        "ConfigMap/gleaner-job",
        "/data/job.yaml",
        job,
        "ConfigMap/gleaner-job: ",
    );
    without("aws", RUN, "Job/gleaner-run is missing");
    let deployment = Set(json!("Deployment"));
    check(
        "without-keda",
        worker,
        "/kind",
        deployment,
        "is no Job: busy pods of others are killed",
    );
}
