//! What ends the waiting for a budget or a rate.

use tokio_util::sync::CancellationToken;

/// The task was cancelled, or nothing more is sent to the endpoint at all.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// The task's.
    pub cancel: &'a CancellationToken,
    /// The endpoint's.
    pub stop: &'a CancellationToken,
}

impl Ending<'_> {
    pub(super) fn is_there(&self) -> bool {
        self.cancel.is_cancelled() || self.stop.is_cancelled()
    }

    pub(super) async fn comes(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
    }
}
