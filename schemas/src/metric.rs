//! Names of all metrics, what they mean, and their labels: one list for all programs.
//!
//! Libraries record by these names with the crate `metrics`; where nobody asked for metrics,
//! recording costs next to nothing. `gleaner-telemetry` describes them to Prometheus.

/// What a metric counts or measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// The name that dashboards use: a promise.
    pub name: &'static str,
    /// How it behaves.
    pub form: Form,
    /// What it says, in a sentence.
    pub help: &'static str,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts observations by size, in these buckets.
    Histogram(&'static [f64]),
}

/// From a task that has hardly any rows to one that takes the default `task_timeout`.
const ATTEMPT_SECONDS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0,
];

/// Attempts at tasks. Labels: `stage_kind`, `outcome` (`committed`, `found`, `failed`,
/// `cancelled`), `failure_kind` (empty unless failed).
pub const ATTEMPTS: &str = "gleaner_attempts_total";
/// How long attempts took, `found` ones apart. Labels: `stage_kind`, `phase`.
pub const ATTEMPT_SECONDS_NAME: &str = "gleaner_attempt_seconds";
/// Rows that tasks read. Label: `stage_kind`.
pub const TASK_ROWS_IN: &str = "gleaner_task_rows_in_total";
/// Rows that tasks wrote. Label: `stage_kind`.
pub const TASK_ROWS_OUT: &str = "gleaner_task_rows_out_total";
/// Uncompressed bytes of the shards that tasks read. Label: `stage_kind`.
pub const TASK_BYTES_IN: &str = "gleaner_task_bytes_in_total";
/// Bytes of the objects that tasks wrote. Label: `stage_kind`.
pub const TASK_BYTES_OUT: &str = "gleaner_task_bytes_out_total";
/// Slots of this worker.
pub const SLOTS: &str = "gleaner_slots";
/// Slots that have a task in hand.
pub const SLOTS_BUSY: &str = "gleaner_slots_busy";
/// Deliveries that were left to others. Label: `reason` (`kind`, `version`, `stopping`,
/// `surroundings`).
pub const PASSED_ON: &str = "gleaner_deliveries_passed_on_total";
/// Coordinator: tasks that wait on the queue. Labels: `resource`, `priority`.
pub const QUEUE_WAITING: &str = "gleaner_queue_waiting";
/// Coordinator: tasks of the phase that runs. Labels: `stage`, `phase`, `state` (`waiting`,
/// `offered`, `done`, `quarantined`).
pub const TASKS: &str = "gleaner_tasks";

/// All of them.
pub const ALL: &[Metric] = &[
    counter(
        ATTEMPTS,
        "Attempts at tasks, by outcome and kind of failure",
    ),
    Metric {
        name: ATTEMPT_SECONDS_NAME,
        form: Form::Histogram(ATTEMPT_SECONDS),
        help: "Seconds that attempts took",
    },
    counter(TASK_ROWS_IN, "Rows that tasks read"),
    counter(TASK_ROWS_OUT, "Rows that tasks wrote"),
    counter(
        TASK_BYTES_IN,
        "Uncompressed bytes of the shards that tasks read",
    ),
    counter(TASK_BYTES_OUT, "Bytes of the objects that tasks wrote"),
    gauge(SLOTS, "Slots of this worker"),
    gauge(SLOTS_BUSY, "Slots that have a task in hand"),
    counter(PASSED_ON, "Deliveries that were left to other workers"),
    gauge(QUEUE_WAITING, "Tasks that wait on the queue for a worker"),
    gauge(TASKS, "Tasks of the phase that runs, by state"),
];

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        form: Form::Counter,
        help,
    }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        form: Form::Gauge,
        help,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_prometheus_and_unique() {
        let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let of_words = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(metric.name.starts_with("gleaner_"), "{}", metric.name);
            assert!(metric.name.chars().all(of_words), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.form == Form::Counter,
                "{}",
                metric.name
            );
        }
    }
}
