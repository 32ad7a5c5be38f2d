//! What the coordinator costs with very many tasks. `GLEANER_SCALE_TASKS=1000000` is the scale of
//! which ARCHITECTURE.md tells; the usual run is a twentieth of that.

use gleaner_tests::scale::{TASK_SECONDS, measure};

const TASKS: u64 = 50_000;
const WORKERS: u64 = 1000;
/// Set in a process of its own: memory and processor time are those of a process.
const ALONE: &str = "GLEANER_SCALE_ALONE";

#[test]
fn the_coordinator_costs_little_whatever_the_number_of_tasks() {
    if std::env::var_os(ALONE).is_none() {
        let name = "scale::the_coordinator_costs_little_whatever_the_number_of_tasks";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args([name, "--exact", "--nocapture"]).env(ALONE, "1");
        assert!(alone.status().unwrap().success());
        return;
    }
    let n_tasks = std::env::var("GLEANER_SCALE_TASKS").map_or(TASKS, |text| text.parse().unwrap());
    let cost = measure(n_tasks, WORKERS);
    let per_task = |n: u64| n as f64 / n_tasks as f64;
    println!(
        "{n_tasks} tasks, {WORKERS} workers: {cost:?}\nper task: {:.3} lists, {:.3} reads, {:.3} \
         writes, {:.0} bytes of memory",
        per_task(cost.n_lists),
        per_task(cost.n_reads),
        per_task(cost.n_writes),
        per_task(cost.memory_bytes),
    );
    let work_seconds = (n_tasks * TASK_SECONDS) as f64;
    assert!(cost.processor_seconds < work_seconds / 100.0, "{cost:?}");
    // Workers are never without a task: the simulated time is close to the work by the workers.
    let ideal = work_seconds / WORKERS as f64;
    assert!(
        cost.seconds < 1.1 * ideal + 3.0 * TASK_SECONDS as f64,
        "{cost:?}, ideal {ideal}"
    );
    assert!(cost.memory_bytes < 1_000_000_000, "{cost:?}");
    assert!(per_task(cost.n_lists) < 1.0, "{cost:?}");
    assert!(per_task(cost.n_reads) < 2.0, "{cost:?}");
    assert!(per_task(cost.n_writes) < 0.1, "{cost:?}");
}
