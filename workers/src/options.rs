//! What a worker may be told about how to work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::activity::Activity;
use crate::attempt_log::AttemptLog;

/// How a worker works. The default takes everything, waits for what is in hand, and keeps no
/// record.
#[derive(Debug, Clone, Default)]
pub struct WorkerOptions {
    /// Kinds of stages whose tasks are taken; `None` takes all. Others are left to others.
    pub kinds: Option<BTreeSet<String>>,
    /// How long tasks in hand may go on after the worker was told to stop; `None` lets them end.
    pub grace: Option<Duration>,
    /// How long the queue lets a worker hold a task before it takes it away; `None` if it does
    /// not. Tasks that may take longer than half of it are refused.
    pub consumer_timeout: Option<Duration>,
    /// Whether the worker may read exactly what the coordinator may, since they are one process.
    /// Then a task whose input is denied is given up; otherwise it is left to other workers.
    pub is_beside_coordinator: bool,
    /// Where attempts are recorded.
    pub attempts: Option<Arc<AttemptLog>>,
    /// Where it is noted what slots have in hand.
    pub activity: Option<Arc<Activity>>,
}
