//! What only the store knows of a run: what is spent at endpoints, and what workers elsewhere did.
//! Read every few seconds while somebody watches.

use std::collections::HashSet;
use std::time::Duration;

use gleaner_schemas::AttemptRecord;
use gleaner_storage::{Output, OutputError, layout};

use super::board::Board;
use crate::commands::endpoint_status;

/// Pause between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Records are read in this many objects at a time.
const AT_A_TIME: usize = 16;
/// Objects that one look reads at most: the others come with the next ones.
const OBJECTS_PER_LOOK: usize = 512;

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Follower {
    seen: HashSet<String>,
}

impl Follower {
    /// Reads what is new. What cannot be read is tried again next time: the run does not need it.
    pub(super) async fn look(&mut self, board: &Board) {
        for error in [spent(board).await.err(), self.attempts(board).await.err()]
            .into_iter()
            .flatten()
        {
            tracing::debug!(%error, "cannot read what the page shows");
        }
    }

    async fn attempts(&mut self, board: &Board) -> Result<(), OutputError> {
        let (output, run, has_others) = {
            let state = board.lock();
            // A queue that can tell who takes from it is a broker's.
            let has_others = state
                .queue
                .is_some_and(|(queue, _)| queue.n_slots.is_some());
            (state.output.clone(), state.run.clone(), has_others)
        };
        let (Some(output), Some(run)) = (output, run) else {
            return Ok(());
        };
        if !has_others {
            return Ok(());
        }
        let folder = format!("{}/{run}/attempts", layout::RUNS);
        let listed = output.list(&folder).await?.into_iter();
        let news: Vec<String> = listed
            .map(|object| object.path)
            .filter(|path| !self.seen.contains(path))
            .take(OBJECTS_PER_LOOK)
            .collect();
        let output = &output;
        let read = |path: String| async move {
            let text = output.get(&path).await?;
            Ok::<_, OutputError>((path, text))
        };
        for (path, text) in Output::map_concurrently(news, AT_A_TIME, read).await? {
            if let Some(text) = text {
                add_lines(board, &String::from_utf8_lossy(&text));
            }
            self.seen.insert(path);
        }
        Ok(())
    }
}

/// Reads what is spent at the endpoints of the job.
///
/// # Errors
///
/// Of the store.
pub(super) async fn spent(board: &Board) -> Result<(), OutputError> {
    let output = {
        let state = board.lock();
        state.output.clone().filter(|_| state.has_endpoints)
    };
    if let Some(output) = output
        && let Some(spent) = endpoint_status::spent(&output).await?
    {
        board.change().spent = spent;
    }
    Ok(())
}

/// Attempts of the worker in this process are known already.
fn add_lines(board: &Board, text: &str) {
    let records = text
        .lines()
        .filter_map(|line| serde_json::from_str::<AttemptRecord>(line).ok())
        .filter(|record| record.format == AttemptRecord::FORMAT);
    let mut state = board.change();
    for record in records {
        if !state.workers.is_here(&record.worker) {
            state.workers.attempt_ended(&record);
        }
    }
}
