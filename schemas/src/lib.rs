//! The words of Gleaner: job file, task, plan, manifest, version, columns and failures.
//!
//! This crate does no I/O and nothing asynchronous. Everything that crosses a boundary (queue,
//! object store, command line) is one of its types, so that coordinator and workers can be of
//! different builds and still agree or refuse.
//!
//! # Invariants
//!
//! 1. An object, a plan and a manifest never change once they exist. Workers never delete.
//! 2. An object that is visible is complete.
//! 3. Readers go through a manifest. When a run ends, attempts that lost are removed.
//! 4. A task's rows are a function of (stage, parameters, side inputs, shard, seed). Where the
//!    world answers differently each time, the pinned attempt is the truth for later phases.
//! 5. Each input row comes out in exactly one lane: ok, ineligible, rejected, failed.
//! 6. A delivery is acknowledged only after the store holds its outcome.

pub mod attempt_record;
pub mod columns;
pub mod endpoint_settings;
pub mod failure;
pub mod figures;
pub mod identity;
pub mod job;
pub mod known_footers;
pub mod lanes;
pub mod manifest;
pub mod metric;
pub mod plan;
pub mod units;

pub use attempt_record::{AttemptOutcome, AttemptRecord, Throttled};
pub use endpoint_settings::EndpointSettings;
pub use failure::{Failure, FailureKind, Place};
pub use figures::{Beyond, Check, ColumnSums, Figure, Figures};
pub use identity::{AttemptId, ContentHash, Fingerprint, PlanId, RunId, TaskId};
pub use known_footers::{KnownFooter, KnownFooters};
pub use lanes::Lanes;
pub use manifest::{
    PhaseManifest, PinnedAttempt, QuarantinedTask, ReduceResult, Reuse, StoredAttempt, StoredFile,
    StoredPhaseManifest, TableFile, TableVersion, Version, VersionStage,
};
pub use plan::{
    DocumentColumns, FileFormat, PhasePlan, Reader, Resource, Route, RowGroupFacts, Shard,
    SideInput, Slice, SourceFile, Task, TaskMessage, TaskSplit,
};
