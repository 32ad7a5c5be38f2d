//! The latch of an endpoint: once it is closed, this process sends it nothing more.
//!
//! Some failures concern every request: a key that is refused, a quota or a budget that is used up,
//! a model that does not exist. Each further request would fail alike, or cost money that nobody
//! agreed to. So the first of them closes the latch for all who share the client; whoever waits for
//! a place wakes up and gets the same reason. What was sent before is waited for.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use crate::failure::CallError;

/// Open until a failure closes it; never opened again.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    reason: OnceLock<CallError>,
    closed: CancellationToken,
}

impl Stop {
    /// Closes it. The first reason stays.
    pub(crate) fn close(&self, reason: CallError) {
        if self.reason.set(reason).is_ok() {
            self.closed.cancel();
        }
    }

    /// Why nothing more is sent, if that is so.
    pub(crate) fn reason(&self) -> Option<&CallError> {
        self.reason.get()
    }

    /// Cancelled when it is closed.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;

    #[tokio::test]
    async fn the_first_reason_stays_and_wakes_whoever_waits() {
        let stop = Stop::default();
        assert_eq!(stop.reason(), None);
        let error = |class, message: &str| CallError {
            class,
            message: message.to_owned(),
            status: None,
            n_sendings: 1,
            is_endpoint_down: false,
            may_be_paid: false,
        };
        let first = error(FailureClass::Authentication, "wrong key");
        let close = async {
            stop.close(first.clone());
            stop.close(error(FailureClass::QuotaExhausted, "no money"));
        };
        tokio::join!(stop.token().cancelled(), close);
        assert_eq!(stop.reason(), Some(&first));
    }
}
