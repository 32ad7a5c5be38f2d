//! Whose output it is, and whether its store can arbitrate between coordinators.

use bytes::Bytes;
use gleaner_schemas::job::Job;
use gleaner_storage::{Created, Output, layout};
use gleaner_workers::entropy::Entropy;
use serde::{Deserialize, Serialize};

use crate::driver::Environment;
use crate::run_error::RunError;

const EXPECTED: &str = "claim of an output";

/// `job.json`: whose output this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    job: String,
}

/// Whether a run of this job has been here before.
///
/// # Errors
///
/// Of the store.
pub(super) async fn is_claimed(output: &Output, job: &Job) -> Result<bool, RunError> {
    let stored: Option<Claim> = output.get_json(layout::JOB, EXPECTED).await?;
    Ok(stored.is_some_and(|stored| stored.job == job.file.name))
}

/// Makes sure that the output belongs to this job, and that its store can arbitrate.
pub(super) async fn claim(
    output: &Output,
    job: &Job,
    environment: &Environment,
) -> Result<(), RunError> {
    let claim = Claim {
        job: job.file.name.clone(),
    };
    let stored = output
        .create_json(layout::JOB, EXPECTED, claim.clone())
        .await?;
    if stored != claim {
        return Err(job
            .error_at(
                "output",
                format!(
                    "{} holds the output of another job, {:?}; this one is {:?}",
                    output.uri(),
                    stored.job,
                    claim.job
                ),
                Some("choose another `output:`, or rename the job back".to_owned()),
            )
            .into());
    }
    if job.file.single_coordinator {
        return Ok(());
    }
    probe(output, environment.entropy.as_ref()).await
}

/// Some stores accept the condition of a conditional put and ignore it. Several puts of the same
/// new key race; exactly one may win.
async fn probe(output: &Output, entropy: &dyn Entropy) -> Result<(), RunError> {
    const RACERS: u8 = 4;
    let key = format!("{}/probe-{:016x}", layout::PRIVATE, entropy.next_u64());
    let racers = (0..RACERS).map(|racer| output.create(&key, Bytes::from(vec![racer])));
    let results = futures::future::join_all(racers).await;
    let n_winners = results
        .iter()
        .filter(|result| matches!(result, Ok(Created::Stored)))
        .count();
    let failed = results.into_iter().find_map(Result::err);
    output.delete(&key).await?;
    match (n_winners, failed) {
        (1, _) => Ok(()),
        (0, Some(error)) => Err(error.into()),
        _ => Err(RunError::usage(
            format!(
                "the store of {} does not honour conditional puts: {n_winners} of {RACERS} \
                 writers of one new object won",
                output.uri()
            ),
            "two coordinators could publish different versions; use another store, or make sure \
             that only one coordinator runs and set `single_coordinator: true` in the job file",
        )),
    }
}
