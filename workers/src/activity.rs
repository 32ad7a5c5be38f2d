//! What the slots of a worker have in hand, for whoever shows it in the same process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gleaner_schemas::{TaskId, TaskMessage};
use tokio::time::Instant;

/// A task that a slot has in hand.
#[derive(Debug, Clone)]
pub struct Doing {
    /// Name of the stage.
    pub stage: String,
    /// Name of the phase.
    pub phase: String,
    /// The task.
    pub task: TaskId,
    /// Since when.
    pub since: Instant,
}

/// The slots of a worker, and what each does. Slots are numbered by who came first, so that a
/// slot that is idle leaves a gap and the others keep their places.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Vec<Option<Doing>>>);

impl Activity {
    /// What each slot does now; `None` for one that waits.
    #[must_use]
    pub fn now(&self) -> Vec<Option<Doing>> {
        self.lock().clone()
    }

    /// A slot begins a task, and has it in hand until the result is dropped.
    #[must_use]
    pub fn begin(&self, message: &TaskMessage) -> InSlot<'_> {
        let doing = Doing {
            stage: message.stage.clone(),
            phase: message.phase.clone(),
            task: message.task.clone(),
            since: Instant::now(),
        };
        let mut slots = self.lock();
        let slot = slots.iter().position(Option::is_none);
        let slot = slot.unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        slots[slot] = Some(doing);
        InSlot {
            activity: self,
            slot,
        }
    }

    /// The slots are valid after any panic.
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Doing>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task in a slot.
#[derive(Debug)]
pub struct InSlot<'a> {
    activity: &'a Activity,
    slot: usize,
}

impl Drop for InSlot<'_> {
    fn drop(&mut self) {
        self.activity.lock()[self.slot] = None;
    }
}

#[cfg(test)]
mod tests {
    use gleaner_schemas::job::Priority;
    use gleaner_schemas::{Fingerprint, Resource, Route, RunId};

    use super::*;

    fn message(number: u64) -> TaskMessage {
        TaskMessage {
            format: TaskMessage::FORMAT,
            run: RunId::new(1),
            output: "file:///out".to_owned(),
            stage: "weights".to_owned(),
            kind: "importance_weights".to_owned(),
            phase: "score".to_owned(),
            plan: Fingerprint::of("plan", &0).into(),
            task_idx: number,
            task: Fingerprint::of("task", &number).into(),
            route: Route {
                resource: Resource::Cpu,
                priority: Priority::Normal,
            },
            n_passed_on: 0,
            refusal: None,
        }
    }

    #[test]
    fn a_slot_keeps_its_place_while_others_come_and_go() {
        let activity = Activity::default();
        assert!(activity.now().is_empty());
        let first = activity.begin(&message(0));
        let second = activity.begin(&message(1));
        drop(first);
        let tasks = |activity: &Activity| {
            let now = activity.now().into_iter();
            now.map(|doing| doing.map(|it| it.task)).collect::<Vec<_>>()
        };
        assert_eq!(tasks(&activity), [None, Some(message(1).task)]);
        let third = activity.begin(&message(2));
        assert_eq!(
            tasks(&activity),
            [Some(message(2).task), Some(message(1).task)]
        );
        drop((second, third));
        assert_eq!(tasks(&activity), [None, None]);
    }
}
