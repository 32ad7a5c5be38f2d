//! What a job allows to be given up.

use gleaner_schemas::job::Allow;
use gleaner_schemas::units::Limit;
use gleaner_schemas::{FailureKind, PhaseManifest, QuarantinedTask};

use crate::run_error::RunError;

/// Causes that a message names.
const CAUSES_SHOWN: usize = 3;

/// Whether a phase gave up no more than the job allows. What could not be reached is no part of that:
/// it is there again tomorrow, so nothing is published without it.
///
/// # Errors
///
/// [`RunError::Quarantined`] with the first causes and the setting that would allow it;
/// [`RunError::Unreachable`] where stores did not answer for too long.
pub fn check_phase(
    allow: &Allow,
    manifest: &PhaseManifest,
    n_tasks: u64,
    is_table: bool,
) -> Result<(), RunError> {
    let (unreachable, quarantined): (Vec<_>, Vec<_>) = manifest
        .quarantined
        .iter()
        .partition(|task| task.failure.kind == FailureKind::Transient);
    let n_quarantined = quarantined.len() as u64;
    if exceeds(&allow.quarantined_tasks, n_quarantined, n_tasks) {
        return Err(RunError::Quarantined {
            message: format!(
                "stage {}, phase {}: {n_quarantined} of {n_tasks} tasks were quarantined, the job \
                 allows {}:{}\nmend or remove these files and run the job again (the other \
                 tasks are kept), or allow it: `allow: {{quarantined_tasks: {n_quarantined}}}`",
                manifest.stage,
                manifest.phase,
                allow.quarantined_tasks,
                causes(&quarantined),
            ),
        });
    }
    if !unreachable.is_empty() {
        return Err(RunError::Unreachable(format!(
            "stage {}, phase {}: {} of {n_tasks} tasks came to nothing, since what they read or write \
             could not be reached:{}\nrun the job again to go on (the other tasks are kept)",
            manifest.stage,
            manifest.phase,
            unreachable.len(),
            causes(&unreachable),
        )));
    }
    let (rejected, rows_in) = (manifest.lanes.rejected, manifest.lanes.rows_in);
    if is_table && exceeds(&allow.rejected_rows, rejected, rows_in) {
        return Err(RunError::Quarantined {
            message: format!(
                "stage {}: {rejected} of {rows_in} rows were rejected, the job allows {}; the \
                 column `reason` of the files in the stage's folder tells why; mend the corpus or \
                 the prompt, exclude these rows (`corpus: {{where: ...}}`), or raise `allow: \
                 {{rejected_rows: ...}}` and run the job again: what is computed and paid for is \
                 kept",
                manifest.stage, allow.rejected_rows
            ),
        });
    }
    Ok(())
}

/// The first causes, a line each.
fn causes(tasks: &[&QuarantinedTask]) -> String {
    let shown = tasks.iter().take(CAUSES_SHOWN);
    let mut causes: Vec<String> = shown.map(|task| format!("\n  {}", task.failure)).collect();
    let n_more = tasks.len().saturating_sub(CAUSES_SHOWN);
    if n_more > 0 {
        causes.push(format!("\n  and {n_more} more"));
    }
    causes.concat()
}

/// Whether no more rows of a dataset are rejected than the job allows. `told` are the first of
/// them, a line each.
///
/// # Errors
///
/// [`RunError::Quarantined`] with these rows and the setting that would allow them.
pub fn check_dataset(
    allow: &Allow,
    name: &str,
    n_rejected: u64,
    n_rows: u64,
    told: &str,
) -> Result<(), RunError> {
    if !exceeds(&allow.rejected_rows, n_rejected, n_rows) {
        return Ok(());
    }
    Err(RunError::Quarantined {
        message: format!(
            "dataset {name}: {n_rejected} of {n_rows} rows cannot be used, the job allows \
             {}:{told}\nmend these rows, exclude them (`datasets: {{{name}: {{where: ...}}}}`), or \
             raise `allow: {{rejected_rows: ...}}`",
            allow.rejected_rows
        ),
    })
}

pub(crate) fn exceeds(limit: &Limit, count: u64, total: u64) -> bool {
    match limit {
        Limit::Count(allowed) => count > *allowed,
        Limit::Share(share) => count > share.floor_of(total),
    }
}

#[cfg(test)]
mod tests {
    use gleaner_schemas::{Failure, Fingerprint, Lanes};

    use super::*;

    fn manifest(kinds: &[FailureKind]) -> PhaseManifest {
        let quarantined = kinds
            .iter()
            .zip(0_u32..)
            .map(|(kind, number)| QuarantinedTask {
                task: Fingerprint::of("task", &number).into(),
                failure: Failure::new(*kind, format!("cause {number}")),
                attempts: 3,
                inputs: Vec::new(),
                rows: None,
            });
        PhaseManifest {
            stage: "weights".to_owned(),
            phase: "score".to_owned(),
            plan: Fingerprint::of("plan", &1).into(),
            attempts: Vec::new(),
            quarantined: quarantined.collect(),
            lanes: Lanes::default(),
        }
    }

    #[test]
    fn what_could_not_be_reached_is_not_published_without() {
        use FailureKind::{Permanent, Timeout, Transient};
        let code = |kinds: &[FailureKind], allowed: u64| {
            let allow = Allow {
                quarantined_tasks: Limit::Count(allowed),
                ..Allow::default()
            };
            let checked = check_phase(&allow, &manifest(kinds), 10, true);
            checked.err().map_or(0, |error| error.exit_code())
        };
        assert_eq!(code(&[], 0), 0);
        assert_eq!(code(&[Permanent], 1), 0);
        assert_eq!(code(&[Permanent], 0), 3);
        // It may be the task's fault that it takes so long.
        assert_eq!(code(&[Timeout], 0), 3);
        assert_eq!(code(&[Timeout], 1), 0);
        assert_eq!(code(&[Transient], 0), 4);
        assert_eq!(code(&[Transient, Transient], 9), 4);
        // What somebody has to mend is told first.
        assert_eq!(code(&[Permanent, Transient], 1), 4);
        assert_eq!(code(&[Permanent, Transient], 0), 3);
        let error = check_phase(&Allow::default(), &manifest(&[Transient; 5]), 10, true);
        let message = error.unwrap_err().to_string();
        for part in [
            "5 of 10 tasks",
            "cause 0",
            "cause 2",
            "and 2 more",
            "run the job again",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("cause 3"), "{message}");
    }
}
