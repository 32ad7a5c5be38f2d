//! Side inputs of tasks: loaded once per worker, shared by its slots, checked by their hash.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use gleaner_schemas::{ContentHash, Failure, FailureKind, SideInput};
use gleaner_storage::table::{self, BlockingIo};

use crate::stage::{Build, Derived, SideInputs};

/// Derived values kept in memory; a job uses one or two at a time.
const VALUES_KEPT: usize = 8;

/// What stages made of side inputs, by content and purpose.
#[derive(Default)]
pub struct SideInputCache {
    // Held while a value is built: slots that start together must not build it twice, and the
    // values are large.
    values: Mutex<VecDeque<(ContentHash, String, Derived)>>,
}

impl fmt::Debug for SideInputCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SideInputCache").finish_non_exhaustive()
    }
}

/// The side inputs of one task.
#[derive(Debug)]
pub struct TaskSideInputs<'a> {
    /// For the reads.
    pub io: &'a BlockingIo,
    /// Shared by the slots of the worker.
    pub cache: &'a SideInputCache,
    /// From the plan.
    pub side_inputs: &'a [SideInput],
}

impl SideInputs for TaskSideInputs<'_> {
    fn derived(&self, name: &str, purpose: &str, build: Build<'_>) -> Result<Derived, Failure> {
        let side_input = self
            .side_inputs
            .iter()
            .find(|side_input| side_input.name == name)
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::Permanent,
                    format!("the task has no side input {name}"),
                )
            })?;
        let mut values = self
            .cache
            .values
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = values.iter().find(|(content, known_purpose, _)| {
            *content == side_input.content && known_purpose == purpose
        });
        if let Some((_, _, value)) = known {
            return Ok(Arc::clone(value));
        }
        let batches = table::read_whole(self.io, &side_input.uri, &side_input.content)?;
        let value = build(&batches)?;
        if values.len() >= VALUES_KEPT {
            values.pop_front();
        }
        values.push_back((
            side_input.content.clone(),
            purpose.to_owned(),
            Arc::clone(&value),
        ));
        Ok(value)
    }
}
