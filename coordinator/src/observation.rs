//! What the driver sees on its way, for whoever watches a run closely.

use gleaner_queue::QueueState;
use gleaner_schemas::{PhasePlan, Resource, RunId, Task};
use gleaner_storage::Output;

use crate::checked_job::CheckedJob;
use crate::dispatch::Work;
use crate::driver::FinishedStage;
use crate::ledger::Ledger;

/// Something that happened in a run. Looking at it must not block: it is told between two steps
/// of the work.
#[derive(Debug)]
pub enum Observation<'a> {
    /// The run has a name; what it reads is not known yet.
    RunStarted {
        /// The run.
        run: &'a RunId,
        /// Its job.
        job: &'a CheckedJob,
        /// Its output.
        output: &'a Output,
    },
    /// The files of the corpus are known.
    InputsRead {
        /// How many there are.
        n_files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A stage begins.
    StageStarted {
        /// Its name.
        stage: &'a str,
    },
    /// The stage is at a step that the coordinator does by itself.
    StepStarted {
        /// Its name.
        step: &'a str,
    },
    /// A phase was complete before this run.
    PhaseReused {
        /// Its plan.
        plan: &'a PhasePlan,
    },
    /// So much of the phase that has just begun was there before.
    Reused {
        /// Tasks.
        n_tasks: u64,
        /// Their rows and bytes.
        work: Work,
    },
    /// The tasks of the phase, after a look at the store.
    Tasks {
        /// The tasks.
        tasks: &'a [Task],
        /// What is known of them.
        ledger: &'a Ledger,
    },
    /// The queue told what it knows.
    Queue {
        /// What it knows.
        state: QueueState,
        /// What workers must have to take from it.
        resource: Resource,
    },
    /// A stage is complete.
    StageFinished {
        /// Its name.
        stage: &'a str,
        /// What came of it.
        finished: &'a FinishedStage,
    },
    /// All stages are complete.
    Publishing,
}
