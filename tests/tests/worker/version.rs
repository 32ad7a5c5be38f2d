//! Workers of another version than whoever planned: they leave the tasks to others.

use serde_json::Value;

use super::*;

/// Changes the plan that the tasks are of, as another version would have written it. Returns what
/// it was.
fn change_plan(undone: &Undone, change: impl Fn(&mut Value)) -> (PathBuf, Vec<u8>) {
    let folder = undone.chunk.parent().unwrap();
    let mut others = files(folder);
    others.retain(|path| *path != undone.chunk);
    let [path] = <[PathBuf; 1]>::try_from(others).unwrap();
    let before = fs::read(&path).unwrap();
    let mut plan: Value = serde_json::from_slice(&before).unwrap();
    change(&mut plan);
    fs::write(&path, plan.to_string()).unwrap();
    (path, before)
}

fn check(change: impl Fn(&mut Value), says: &str) {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let undone = undone();
    let (plan, before) = change_plan(&undone, change);
    let offers = Offers::new(&url);
    offers.publish(&undone.messages);
    let port = free_port().to_string();
    let arguments = ["--queue", &url, "--slots", "2", "--health", &port];
    let mut worker = Worker::start(&undone.workspace, &arguments);
    // More tasks than a worker passes on before it ends where it cannot write.
    let passed_on = "gleaner_deliveries_passed_on_total{reason=\"version\"} 8";
    worker.until_answers(port.parse().unwrap(), "/metrics", passed_on);
    worker.terminate();
    let ended = worker.ended().expect(0).says(says);
    let warnings = ended.stderr.matches("WARN").count();
    assert_eq!(warnings, 1, "once: {}", ended.stderr);
    // Nothing is known against the tasks: no record of a failure, no delivery that was dropped.
    offers.until_waiting(N_TASKS as u64);
    assert!(undone.workspace.contents("out/weights").is_empty());
    let run = &undone.messages[0].run;
    let failures = gleaner_storage::layout::failures(run);
    assert!(!undone.workspace.path().join("out").join(failures).exists());
    // The coordinator is told why.
    let given_up = offers.runtime.block_on(async {
        let mut deliveries = offers.queue.given_up(run).await.unwrap();
        let first = deliveries.pop().unwrap();
        let refusal = first.task.refusal.clone();
        first.ack().await.unwrap();
        refusal
    });
    assert!(given_up.unwrap().message.contains(says));
    // A worker of the right version does them.
    fs::write(plan, before).unwrap();
    let port = free_port().to_string();
    let arguments = ["--queue", &url, "--slots", "2", "--health", &port];
    let mut worker = Worker::start(&undone.workspace, &arguments);
    let done = "outcome=\"committed\",failure_kind=\"\"} 9";
    worker.until_answers(port.parse().unwrap(), "/metrics", done);
    worker.terminate();
    let _ = worker.ended().expect(0);
    let after = undone.workspace.contents("out/weights").into_values();
    assert_eq!(sorted(after.collect()), undone.before);
}

#[test]
fn tasks_of_another_version_of_a_stage_are_left_to_others() {
    check(
        |plan| plan["code_version"] = 999.into(),
        "the coordinator has version 999",
    );
}

#[test]
fn tasks_of_a_kind_that_is_not_known_are_left_to_others() {
    check(
        |plan| plan["kind"] = "unheard_of".into(),
        "does not know stages of kind unheard_of",
    );
}

#[test]
fn plans_of_another_format_are_left_to_others() {
    check(
        |plan| {
            plan["format"] = 3.into();
            plan["news"] = true.into();
        },
        "has plan format 3, this worker reads formats 1 to 2",
    );
}
