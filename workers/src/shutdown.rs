//! Stopping in two steps: the first request drains, the second cancels.

use tokio_util::sync::CancellationToken;

/// A request to stop, shared by everything that runs. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    cancel: CancellationToken,
}

impl Shutdown {
    /// Nobody has asked to stop.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to take no new work and to finish what is in hand.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks to drop what is in hand as well.
    pub fn cancel(&self) {
        self.drain.cancel();
        self.cancel.cancel();
    }

    /// Whether no new work is to be taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Waits until no new work is to be taken.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until work in hand is to be dropped.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// A request to stop that follows this one, and can be made alone.
    #[must_use]
    pub fn nested(&self) -> Self {
        Self {
            drain: self.drain.child_token(),
            cancel: self.cancel.child_token(),
        }
    }

    /// A token that is cancelled with this shutdown and can be cancelled alone.
    #[must_use]
    pub fn child(&self) -> CancellationToken {
        self.cancel.child_token()
    }
}
