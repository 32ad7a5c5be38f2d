//! What a job allows to be given up.

use gleaner_schemas::PhaseManifest;
use gleaner_schemas::job::Allow;
use gleaner_schemas::units::Limit;

use crate::run_error::RunError;

/// Causes that a message names.
const CAUSES_SHOWN: usize = 3;

/// Whether a phase gave up no more than the job allows.
///
/// # Errors
///
/// [`RunError::Quarantined`] with the first causes and the setting that would allow it.
pub fn check_phase(
    allow: &Allow,
    manifest: &PhaseManifest,
    n_tasks: u64,
    is_table: bool,
) -> Result<(), RunError> {
    let n_quarantined = manifest.quarantined.len() as u64;
    if exceeds(&allow.quarantined_tasks, n_quarantined, n_tasks) {
        let causes: Vec<String> = manifest
            .quarantined
            .iter()
            .take(CAUSES_SHOWN)
            .map(|task| format!("\n  {}", task.failure))
            .collect();
        let more = n_quarantined.saturating_sub(CAUSES_SHOWN as u64);
        let more = if more > 0 {
            format!("\n  and {more} more")
        } else {
            String::new()
        };
        return Err(RunError::Quarantined {
            message: format!(
                "stage {}, phase {}: {n_quarantined} of {n_tasks} tasks were quarantined, the job \
                 allows {}:{}{more}\nmend or remove these files and run the job again (the other \
                 tasks are kept), or allow it: `allow: {{quarantined_tasks: {n_quarantined}}}`",
                manifest.stage,
                manifest.phase,
                allow.quarantined_tasks,
                causes.concat(),
            ),
        });
    }
    let (rejected, rows_in) = (manifest.lanes.rejected, manifest.lanes.rows_in);
    if is_table && exceeds(&allow.rejected_rows, rejected, rows_in) {
        return Err(RunError::Quarantined {
            message: format!(
                "stage {}: {rejected} of {rows_in} rows were rejected, the job allows {}; the \
                 column `reason` of the files in the stage's folder tells why; mend the corpus, \
                 exclude these rows (`corpus: {{where: ...}}`), or raise `allow: {{rejected_rows: \
                 ...}}`",
                manifest.stage, allow.rejected_rows
            ),
        });
    }
    Ok(())
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
