//! Which runs may still be going on, as who removes objects must know.
//!
//! All times are the store's: machines that run coordinators have clocks of their own.

use std::collections::{BTreeMap, BTreeSet};

use gleaner_schemas::RunId;
use gleaner_storage::output::ListedObject;
use gleaner_storage::{Output, OutputError, layout};

/// A run that has not ended and that nothing was heard of for this long, while others were, is
/// taken for killed. In milliseconds.
const KILLED_AFTER_MS: i64 = 2 * 60 * 60 * 1000;

/// The runs of an output, by what their journals tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// When each was announced.
    pub(crate) started_ms: BTreeMap<RunId, i64>,
    ended: BTreeSet<RunId>,
    /// When something of each was last written.
    heard_ms: BTreeMap<RunId, i64>,
}

impl Runs {
    /// The runs as their journals are now.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub(crate) async fn read(output: &Output) -> Result<Self, OutputError> {
        let mut objects = output.list(layout::RUNS).await?;
        objects.extend(output.list(layout::FAILURES).await?);
        Ok(Self::of(&objects))
    }

    fn of(objects: &[ListedObject]) -> Self {
        let mut runs = Self::default();
        for object in objects {
            let Some(run) = layout::parse_run(&object.path) else {
                continue;
            };
            match layout::parse_run_event(&object.path) {
                Some((_, layout::RUN_STARTED)) => {
                    runs.started_ms.insert(run.clone(), object.modified_ms);
                }
                Some((_, layout::RUN_ENDED)) => {
                    runs.ended.insert(run.clone());
                }
                _ => {}
            }
            let heard_ms = runs.heard_ms.entry(run).or_insert(object.modified_ms);
            *heard_ms = object.modified_ms.max(*heard_ms);
        }
        runs
    }

    /// The run that was announced last; several, where the store's clock tells no difference.
    pub(crate) fn newest(&self) -> BTreeSet<RunId> {
        let newest_ms = self.started_ms.values().max();
        let starts = self.started_ms.iter();
        let newest = starts.filter(|(_, at)| Some(*at) == newest_ms);
        newest.map(|(run, _)| run.clone()).collect()
    }

    /// Runs that may be going on.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &RunId> {
        let now_ms = self.heard_ms.values().max().copied().unwrap_or(i64::MIN);
        self.started_ms.keys().filter(move |run| {
            let heard_ms = self.heard_ms.get(*run).copied().unwrap_or(i64::MIN);
            !self.ended.contains(*run) && now_ms.saturating_sub(heard_ms) < KILLED_AFTER_MS
        })
    }

    /// Since when objects may be a part of what `run` goes on with: since the first run was
    /// announced after the last publication before it. `published_ms` are the times of all
    /// versions.
    pub(crate) fn works_with_since(&self, run: &RunId, published_ms: &[i64]) -> i64 {
        let started = self.started_ms.get(run).copied().unwrap_or(i64::MIN);
        let before = published_ms.iter().filter(|at| **at < started).max();
        let before = before.copied().unwrap_or(i64::MIN);
        let starts = self.started_ms.values().copied();
        let since = starts.filter(|start| *start >= before).min();
        since.unwrap_or(before).min(started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 60 * 60 * 1000;

    fn runs(events: &[(u64, &str, i64)]) -> Runs {
        let events = events.iter().map(|(run, event, hour)| ListedObject {
            path: layout::run_event(&RunId::new(*run), event),
            bytes: 1,
            modified_ms: hour * HOUR_MS,
        });
        Runs::of(&events.collect::<Vec<_>>())
    }

    #[test]
    fn a_run_is_alive_until_it_ends_or_nothing_is_heard_of_it_for_long() {
        let check = |events: &[(u64, &str, i64)], expected: &[u64]| {
            let runs = runs(events);
            let alive: Vec<RunId> = runs.alive().cloned().collect();
            let expected: Vec<RunId> = expected.iter().map(|run| RunId::new(*run)).collect();
            assert_eq!(alive, expected, "{events:?}");
        };
        check(&[], &[]);
        check(&[(1, "start", 0)], &[1]);
        check(&[(1, "start", 0), (1, "end", 1)], &[]);
        check(&[(1, "start", 0), (2, "start", 1), (2, "end", 1)], &[1]);
        check(&[(1, "start", 0), (2, "start", 30)], &[2]);
        check(
            &[(1, "start", 0), (1, "phase-001", 29), (2, "start", 30)],
            &[1, 2],
        );
    }

    #[test]
    fn a_run_works_with_what_was_written_since_the_publication_before_it() {
        let starts = [(1, 1), (2, 3), (3, 5), (4, 7)];
        let runs = runs(&starts.map(|(run, hour)| (run, layout::RUN_STARTED, hour)));
        let check = |run: u64, published: &[i64], expected: i64| {
            let published: Vec<i64> = published.iter().map(|hour| hour * HOUR_MS).collect();
            let since = runs.works_with_since(&RunId::new(run), &published);
            assert_eq!(since, expected * HOUR_MS, "{run} {published:?}");
        };
        check(3, &[], 1);
        check(3, &[2], 3);
        check(3, &[2, 4], 5);
        // What another run published later concerns nobody who had begun before.
        check(3, &[2, 6], 3);
        check(4, &[2, 6], 7);
        assert_eq!(runs.newest(), BTreeSet::from([RunId::new(4)]));
    }
}
