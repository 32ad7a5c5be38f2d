//! What pods are, may do, and need.

use serde_json::json;

use super::Change::{Remove, Set};
use super::{CPU, GPU, JOB_POD, RUN, SCALED_POD, SETTINGS, argument, check};

#[test]
fn rights() {
    let pod = |at: &str| format!("{SCALED_POD}/{at}");
    let container = |at: &str| format!("{SCALED_POD}/containers/0/securityContext/{at}");
    check(
        "aws",
        CPU,
        &pod("securityContext/runAsNonRoot"),
        Remove,
        "runAsNonRoot is null",
    );
    check(
        "aws",
        CPU,
        &pod("securityContext/runAsUser"),
        Set(json!(0)),
        "must be a number above 0",
    );
    check(
        "aws",
        CPU,
        &pod("securityContext/runAsUser"),
        Set(json!(1000)),
        "runAsUser is 1000",
    );
    check(
        "aws",
        CPU,
        &pod("securityContext/seccompProfile"),
        Remove,
        "seccompProfile/type is null",
    );
    check(
        "aws",
        CPU,
        &pod("automountServiceAccountToken"),
        Remove,
        "automountServiceAccountToken",
    );
    check(
        "aws",
        CPU,
        &pod("enableServiceLinks"),
        Set(json!(true)),
        "enableServiceLinks is true",
    );
    check(
        "aws",
        CPU,
        &pod("hostNetwork"),
        Set(json!(true)),
        "hostNetwork is asked for",
    );
    let host_path = Set(json!({"name": "cache", "hostPath": {"path": "/"}}));
    check(
        "aws",
        CPU,
        &pod("volumes/1"),
        host_path,
        "is a path of the node",
    );
    check(
        "aws",
        CPU,
        &container("readOnlyRootFilesystem"),
        Remove,
        "readOnlyRootFilesystem is null",
    );
    check(
        "aws",
        CPU,
        &container("allowPrivilegeEscalation"),
        Set(json!(true)),
        "allowPrivilegeEscalation",
    );
    check(
        "aws",
        CPU,
        &container("capabilities"),
        Remove,
        "capabilities is null",
    );
    let at = format!("{JOB_POD}/containers/0/env/1");
    let password = Set(json!({"name": "GLEANER_QUEUE_PASSWORD", "value": "hunter2"}));
    check(
        "aws",
        RUN,
        &at,
        password,
        "GLEANER_QUEUE_PASSWORD is a secret, and stands there",
    );
    let url = Set(json!("amqps://me:hunter2@broker:5671"));
    check(
        "aws",
        SETTINGS,
        "/data/GLEANER_QUEUE",
        url,
        "belongs into a Secret",
    );
    check(
        "aws",
        SETTINGS,
        "/data/LLM_API_KEY",
        Set(json!("x")),
        "belongs into a Secret",
    );
    check(
        "local",
        "StatefulSet/rabbitmq",
        "/spec/template/spec/securityContext/runAsNonRoot",
        Remove,
        "runAsNonRoot",
    );
}

#[test]
fn images() {
    let image = |pod: &str| format!("{pod}/containers/0/image");
    check(
        "aws",
        RUN,
        &image(JOB_POD),
        Set(json!("x/gleaner")),
        "has no tag",
    );
    check(
        "aws",
        RUN,
        &image(JOB_POD),
        Set(json!("x/gleaner:latest")),
        "is another one tomorrow",
    );
    check(
        "aws",
        RUN,
        &image(JOB_POD),
        Set(json!("x/gleaner:0.0.9")),
        "coordinator and workers are of several",
    );
    check(
        "aws",
        CPU,
        &image(SCALED_POD),
        Set(json!("x/gleaner-worker:0.1.0")),
        "the image is gleaner-worker",
    );
    check(
        "aws",
        GPU,
        &image(SCALED_POD),
        Set(json!("x/gleaner:0.1.0")),
        "not gleaner-cuda",
    );
}

#[test]
fn resources() {
    let container = |at: &str| format!("{SCALED_POD}/containers/0/{at}");
    check(
        "aws",
        CPU,
        &container("resources/requests/cpu"),
        Remove,
        "resources/requests/cpu is missing",
    );
    check(
        "aws",
        CPU,
        &container("resources/limits/memory"),
        Set(json!("8Gi")),
        "are less than its slots",
    );
    check(
        "aws",
        CPU,
        &argument(SCALED_POD, 1),
        Remove,
        "--slots is missing",
    );
    let at = "resources/limits/ephemeral-storage";
    check(
        "aws",
        CPU,
        &container(at),
        Set(json!("10Gi")),
        "less than its volumes may take",
    );
    check(
        "aws",
        CPU,
        &container(at),
        Remove,
        "ephemeral-storage is missing",
    );
    let at = format!("{SCALED_POD}/volumes/0/emptyDir/sizeLimit");
    check("aws", CPU, &at, Remove, "has no sizeLimit");
    check(
        "aws",
        CPU,
        &container("volumeMounts/1/mountPath"),
        Set(json!("/x")),
        "nothing is mounted at /cache",
    );
    check(
        "aws",
        SETTINGS,
        "/data/GLEANER_CACHE",
        Set(json!("/var")),
        "GLEANER_CACHE is not /cache",
    );
    let at = container("resources/limits/nvidia.com~1gpu");
    check("aws", GPU, &at, Remove, "a GPU is for workers with");
    check(
        "aws",
        CPU,
        &at,
        Set(json!("1")),
        "a GPU is for workers with",
    );
    check(
        "aws",
        GPU,
        &format!("{SCALED_POD}/tolerations"),
        Remove,
        "nodes with GPUs are not tolerated",
    );
}
