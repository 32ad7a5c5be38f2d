//! Jobs, their schedule, and the job file that they run.

use gleaner_schemas::job::{Job, JobSource};
use serde_json::{Value, json};

use crate::overlay::Overlay;
use crate::sources::Facts;

pub(super) fn findings(overlay: &Overlay, _: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, name) in [
        ("Job", "gleaner-run"),
        ("CronJob", "gleaner-refresh"),
        ("ServiceAccount", "gleaner"),
    ] {
        if overlay.find(kind, name).is_none() {
            found.push(format!("{kind}/{name} is missing"));
        }
    }
    if let Err(why) = job_file(overlay) {
        found.push(format!("ConfigMap/gleaner-job: {why}"));
    }
    for cron in overlay.of_kind("CronJob") {
        schedule(cron, &mut |why| {
            found.push(format!("CronJob/gleaner-refresh: {why}"))
        });
    }
    for workload in overlay.ours() {
        let name = workload.name();
        let mut say = |why: &str| found.push(format!("{name}: {why}"));
        if workload.pod()["restartPolicy"] != "Never" {
            say("restartPolicy must be Never, else podFailurePolicy is refused");
        }
        let Some(job) = workload.job else {
            say("is no Job: busy pods of others are killed when they are scaled");
            continue;
        };
        if job["backoffLimit"].as_u64().is_none() {
            say("backoffLimit is missing");
        }
        if name.starts_with("Job/gleaner-worker") && !job["completions"].is_null() {
            say("a Job whose workers share a queue has no completions");
        }
    }
    let coordinator = |kind, name, at| overlay.find(kind, name).and_then(|it| it.pointer(at));
    let run = coordinator(
        "Job",
        "gleaner-run",
        "/spec/template/spec/containers/0/args",
    );
    let at = "/spec/jobTemplate/spec/template/spec/containers/0/args";
    let refresh = coordinator("CronJob", "gleaner-refresh", at);
    if run != refresh {
        found.push("the refresh does not run what the first run does".to_owned());
    }
    found
}

/// The job file of an overlay.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn job_file(overlay: &Overlay) -> Result<Job, String> {
    let data = overlay.settings("gleaner-job");
    let text = data.get("job.yaml").and_then(Value::as_str);
    let source = JobSource {
        name: "job.yaml".to_owned(),
        text: text.ok_or("job.yaml is missing")?.to_owned(),
    };
    Job::parse(source).map_err(|errors| format!("{errors:?}"))
}

fn schedule(cron: &Value, say: &mut dyn FnMut(String)) {
    let spec = &cron["spec"];
    if spec["concurrencyPolicy"] != "Forbid" {
        say("concurrencyPolicy must be Forbid".to_owned());
    }
    for field in [
        "timeZone",
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        if spec[field].is_null() {
            say(format!("{field} is missing"));
        }
    }
    let fields = spec["schedule"].as_str().unwrap_or_default();
    if fields.split_whitespace().count() != 5 {
        say(format!("{fields:?} is no schedule"));
    }
    // Kubernetes looks every ten seconds and refuses shorter ones.
    if spec["startingDeadlineSeconds"]
        .as_u64()
        .is_some_and(|it| it < 10)
    {
        say("startingDeadlineSeconds is too short to ever start".to_owned());
    }
    if spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == json!(null) {
        say(
            "a refresh that hangs keeps all others from starting: activeDeadlineSeconds is missing"
                .to_owned(),
        );
    }
}
