//! Side inputs of tasks: loaded once per worker, shared by its slots, checked by their hash.
//!
//! What stages make of them stays for later tasks as long as all of it fits into the memory of one
//! slot: what no task uses and was not used for the longest time goes first.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use gleaner_schemas::{ContentHash, Failure, FailureKind, SideInput};
use gleaner_storage::LocalCopies;
use gleaner_storage::table::{self, BlockingIo};

use crate::stage::{Build, BuildFromDirectory, Derived, SideInputs};

/// Values kept at most, however small.
const VALUES_KEPT: usize = 64;

/// What stages made of side inputs, by content and purpose.
#[derive(Default)]
pub struct SideInputCache {
    // Held while a value is built: slots that start together must not build it twice, and the
    // values are large.
    values: Mutex<VecDeque<Value>>,
}

/// A value; the one that was used last stands last.
#[derive(Debug)]
struct Value {
    content: ContentHash,
    purpose: String,
    derived: Derived,
}

impl Value {
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.derived.value) > 1
    }
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
    /// For what must be files.
    pub copies: &'a LocalCopies,
    /// From the plan.
    pub side_inputs: &'a [SideInput],
    /// Budget of memory of the task's slot.
    pub memory_bytes: u64,
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
        let (content, bytes_max) = (&side_input.content, self.memory_bytes);
        self.cache.get(content, purpose, bytes_max, &mut || {
            let batches = table::read_whole(self.io, &side_input.uri, &side_input.content)?;
            build(&batches)
        })
    }

    fn directory(
        &self,
        prefix: &str,
        purpose: &str,
        build: BuildFromDirectory<'_>,
    ) -> Result<Derived, Failure> {
        let files: Vec<(&str, &SideInput)> = self
            .side_inputs
            .iter()
            .filter_map(|side_input| {
                let name = side_input.name.strip_prefix(prefix)?.strip_prefix('/')?;
                Some((name, side_input))
            })
            .collect();
        if files.is_empty() {
            return Err(Failure::new(
                FailureKind::Permanent,
                format!("the task has no side inputs below {prefix}"),
            ));
        }
        let contents: Vec<_> = files.iter().map(|(name, it)| (name, &it.content)).collect();
        let content = ContentHash::of(format!("{contents:?}").as_bytes());
        self.cache
            .get(&content, purpose, self.memory_bytes, &mut || {
                build(&self.copies.directory(self.io, &files)?)
            })
    }
}

impl SideInputCache {
    fn get(
        &self,
        content: &ContentHash,
        purpose: &str,
        bytes_max: u64,
        build: &mut dyn FnMut() -> Result<Derived, Failure>,
    ) -> Result<Derived, Failure> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |value: &Value| value.content == *content && value.purpose == purpose;
        if let Some(idx) = values.iter().position(is_it)
            && let Some(value) = values.remove(idx)
        {
            let derived = value.derived.clone();
            values.push_back(value);
            return Ok(derived);
        }
        // Before as well: the new value is not to stand beside all old ones.
        make_room(&mut values, bytes_max / 2);
        let derived = build()?;
        values.push_back(Value {
            content: content.clone(),
            purpose: purpose.to_owned(),
            derived: derived.clone(),
        });
        make_room(&mut values, bytes_max);
        Ok(derived)
    }
}

/// Drops what no task uses, the least recently used first, while there is more than that.
fn make_room(values: &mut VecDeque<Value>, bytes_max: u64) {
    let is_over = |values: &VecDeque<Value>| {
        let bytes: u64 = values.iter().map(|value| value.derived.bytes).sum();
        bytes > bytes_max || values.len() > VALUES_KEPT
    };
    while is_over(values)
        && let Some(idx) = values.iter().position(|value| !value.is_in_use())
    {
        values.remove(idx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_used_goes_when_there_is_no_room() {
        let cache = SideInputCache::default();
        let mut n_built = 0;
        let mut get = |name: &str, bytes: u64| -> (Derived, bool) {
            let before = n_built;
            let content = ContentHash::of(name.as_bytes());
            let derived = cache.get(&content, "test", 100, &mut || {
                n_built += 1;
                let value = Arc::new(name.to_owned());
                Ok(Derived { value, bytes })
            });
            (derived.unwrap(), n_built > before)
        };
        let (held, _) = get("a", 40);
        let _ = get("b", 40);
        assert!(!get("b", 40).1, "it fits beside the first");
        let _ = get("c", 60);
        assert!(!get("a", 40).1, "a value that is used stays");
        assert!(!get("c", 60).1);
        assert!(get("b", 40).1, "the one that was not used went");
        drop(held);
        let _ = get("d", 100);
        assert!(get("a", 40).1, "it is used no more");
    }
}
