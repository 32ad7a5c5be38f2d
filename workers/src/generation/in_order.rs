//! Items that wait for a server, many at a time, on behalf of a thread that computes: they are
//! started in order and come back in order, so that a task's rows do not depend on who answers
//! first.

use std::collections::VecDeque;

use gleaner_schemas::{Failure, FailureKind};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bounds of what is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Items, so that one slow answer does not stop the others: several times as many as requests
    /// in flight.
    pub(crate) n_items: usize,
    /// Their weights in bytes.
    pub(crate) bytes: usize,
}

struct Item<T> {
    task: JoinHandle<Result<T, Failure>>,
    bytes: usize,
}

/// Items under way. Those that are left when it is dropped are cancelled.
pub(crate) struct InOrder<T> {
    handle: Handle,
    cancel: CancellationToken,
    bounds: Bounds,
    items: VecDeque<Item<T>>,
    bytes: usize,
}

impl<T: Send + 'static> InOrder<T> {
    pub(crate) fn new(handle: Handle, cancel: CancellationToken, bounds: Bounds) -> Self {
        Self {
            handle,
            cancel,
            bounds,
            items: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Starts an item that keeps about `bytes` in memory. Call [`InOrder::next_ready`] until it
    /// gives nothing before the next one.
    pub(crate) fn start(
        &mut self,
        bytes: usize,
        item: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) {
        let task = self.handle.spawn(item);
        self.bytes += bytes;
        self.items.push_back(Item { task, bytes });
    }

    /// The oldest item, if it is done or if there is no room for another one.
    ///
    /// # Errors
    ///
    /// Of the item, or if the task was cancelled.
    pub(crate) fn next_ready(&mut self) -> Result<Option<T>, Failure> {
        let is_full = self.items.len() >= self.bounds.n_items || self.bytes >= self.bounds.bytes;
        let is_done = self
            .items
            .front()
            .is_some_and(|item| item.task.is_finished());
        if is_full || is_done {
            self.next()
        } else {
            Ok(None)
        }
    }

    /// The oldest item, waited for; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Of the item, or if the task was cancelled.
    pub(crate) fn next(&mut self) -> Result<Option<T>, Failure> {
        let Some(mut item) = self.items.pop_front() else {
            return Ok(None);
        };
        self.bytes -= item.bytes;
        let ended = self.handle.block_on(async {
            tokio::select! {
                biased;
                ended = &mut item.task => Some(ended),
                () = self.cancel.cancelled() => None,
            }
        });
        match ended {
            Some(Ok(result)) => result.map(Some),
            Some(Err(error)) => Err(Failure::new(
                FailureKind::Permanent,
                format!("an item of the task panicked, which is a bug of Gleaner: {error}"),
            )),
            None => {
                item.task.abort();
                Err(Failure::new(
                    FailureKind::Transient,
                    "the task was cancelled",
                ))
            }
        }
    }
}

impl<T> Drop for InOrder<T> {
    fn drop(&mut self) {
        for item in &self.items {
            item.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn bounds(n_items: usize, bytes: usize) -> Bounds {
        Bounds { n_items, bytes }
    }

    /// Runs `work` on a thread that may block, as a stage does.
    async fn on_thread<T: Send + 'static>(work: impl FnOnce(Handle) -> T + Send + 'static) -> T {
        let handle = Handle::current();
        tokio::task::spawn_blocking(move || work(handle))
            .await
            .expect("the thread ends")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_first_comes_first_whoever_is_done_first() {
        let gate = Arc::new(Semaphore::new(0));
        let opener = Arc::clone(&gate);
        let found = on_thread(move |handle| {
            let mut items = InOrder::new(handle, CancellationToken::new(), bounds(3, 1000));
            let mut found = Vec::new();
            for idx in 0..3_u32 {
                let (gate, opener) = (Arc::clone(&gate), Arc::clone(&opener));
                items.start(10, async move {
                    if idx == 0 {
                        // The first waits for the last.
                        let permit = gate.acquire().await;
                        drop(permit);
                    } else if idx == 2 {
                        opener.add_permits(1);
                    }
                    Ok(idx)
                });
                if idx < 2 {
                    assert_eq!(items.next_ready().expect("no failure"), None);
                }
            }
            while let Some(item) = items.next().expect("no failure") {
                found.push(item);
            }
            found
        })
        .await;
        assert_eq!(found, [0, 1, 2]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bounds_failures_and_cancelling() {
        let check = async |n_items, bytes, is_full: bool| {
            let found = on_thread(move |handle| {
                let cancel = CancellationToken::new();
                let mut items = InOrder::new(handle, cancel.clone(), bounds(n_items, bytes));
                for _ in 0..2 {
                    items.start(100, std::future::pending::<Result<u8, Failure>>());
                }
                cancel.cancel();
                // Whoever is full waits, and is cancelled.
                items.next_ready().is_err()
            })
            .await;
            assert_eq!(found, is_full, "{n_items} items, {bytes} bytes");
        };
        check(2, 1000, true).await;
        check(3, 200, true).await;
        check(3, 201, false).await;
        let failure = Failure::new(FailureKind::Budget, "spent");
        let expected = failure.clone();
        let found = on_thread(move |handle| {
            let mut items = InOrder::new(handle, CancellationToken::new(), bounds(2, 10));
            items.start(1, async move { Err::<u8, _>(failure) });
            items.next()
        })
        .await;
        assert_eq!(found, Err(expected));
    }
}
