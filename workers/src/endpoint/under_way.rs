//! Which requests this process has under way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Requests that a process has under way: of those that it noted and that are not here, it is known
/// that they have ended.
#[derive(Debug, Default)]
pub struct UnderWay(Mutex<BTreeSet<String>>);

/// A request under way, until it is dropped.
pub(super) struct Going {
    under_way: Arc<UnderWay>,
    request: String,
}

impl UnderWay {
    fn set(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if it is under way already.
    pub(super) fn begin(self: &Arc<Self>, request: &str) -> Option<Going> {
        self.set().insert(request.to_owned()).then(|| Going {
            under_way: Arc::clone(self),
            request: request.to_owned(),
        })
    }

    pub(super) fn has(&self, request: &str) -> bool {
        self.set().contains(request)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.under_way.set().remove(&self.request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_until_it_ends() {
        let under_way = Arc::new(UnderWay::default());
        let going = under_way.begin("a");
        assert!(going.is_some() && under_way.has("a"));
        assert!(under_way.begin("a").is_none());
        // Whoever was refused ends nothing.
        assert!(under_way.has("a") && under_way.begin("b").is_some());
        drop(going);
        assert!(!under_way.has("a") && under_way.begin("a").is_some());
    }
}
