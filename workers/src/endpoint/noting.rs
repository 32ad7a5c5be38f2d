//! What comes before each sending of a request: its time, a part of the budget, the note.

use async_trait::async_trait;
use gleaner_endpoint::{FailureClass, Pace};
use gleaner_schemas::Failure;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::exchange::{ExchangeParts, cancelled};
use super::process::ProcessIdentity;
use super::purse::{PurseError, Reservation};
use super::spending::Amounts;
use super::stored::{self, SentRequest};

/// Time for a reply to be stored, and for clocks that differ, before somebody else sends again.
const SLACK_MS: i64 = 60_000;

/// A sending that is noted and reserved for.
pub(super) struct Open {
    pub(super) number: u32,
    pub(super) reservation: Reservation,
    pub(super) sent_ms: i64,
}

/// Why nothing more is sent.
pub(super) enum Ended {
    Taken,
    Failed(Failure),
}

pub(super) struct NotingState {
    /// The next sending's.
    pub(super) number: u32,
    pub(super) open: Option<Open>,
    pub(super) ended: Option<Ended>,
}

/// What comes before each sending: its time, a part of the budget, the note.
pub(super) struct Noting<'a> {
    pub(super) parts: &'a ExchangeParts,
    pub(super) process: &'a ProcessIdentity,
    pub(super) key: &'a str,
    pub(super) stage: &'a str,
    /// What it may cost at most: a token has at least a byte.
    pub(super) estimate: Amounts,
    /// About its tokens, for rates, which need no upper bound.
    pub(super) pace_tokens: u64,
    pub(super) cancel: &'a CancellationToken,
    pub(super) state: Mutex<NotingState>,
}

impl Noting<'_> {
    async fn note(&self, state: &mut NotingState) -> Result<(), Ended> {
        let parts = self.parts;
        let failed = |failure: Failure| Ended::Failed(failure);
        let waited = parts.pace.wait(self.pace_tokens, self.cancel).await;
        if !waited.map_err(|error| failed(error.into()))? {
            return Err(failed(cancelled()));
        }
        let reserved = parts.purse.reserve(self.estimate, self.cancel).await;
        let reservation = reserved.map_err(|error: PurseError| failed(error.into()))?;
        let now_ms = parts.clock.now_ms();
        let timeout_ms = i64::try_from(parts.request_timeout.as_millis()).unwrap_or(i64::MAX / 8);
        let sent = SentRequest {
            format: SentRequest::FORMAT,
            request: self.key.to_owned(),
            number: state.number,
            endpoint: parts.facts.hash.clone(),
            stage: self.stage.to_owned(),
            lease: reservation.lease.clone(),
            estimate: self.estimate,
            sent_ms: now_ms,
            // The reply has to be stored too, and clocks differ.
            until_ms: now_ms.saturating_add(timeout_ms).saturating_add(SLACK_MS),
            worker: parts.worker.clone(),
            process: self.process.clone(),
            nonce: parts.entropy.next_u64(),
        };
        match stored::note_sent(&parts.output, &sent).await {
            Ok(true) => {
                state.open = Some(Open {
                    number: state.number,
                    reservation,
                    sent_ms: now_ms,
                });
                state.number += 1;
                Ok(())
            }
            Ok(false) => {
                parts.purse.settle(reservation, Amounts::default()).await;
                Err(Ended::Taken)
            }
            Err(error) => {
                parts.purse.settle(reservation, Amounts::default()).await;
                Err(failed(error.into()))
            }
        }
    }
}

#[async_trait]
impl Pace for Noting<'_> {
    async fn before(&self, previous: Option<FailureClass>) -> bool {
        let mut state = self.state.lock().await;
        if let Some(open) = state.open.take() {
            let paid = previous.is_some_and(FailureClass::may_be_paid);
            let spent = if paid {
                self.estimate
            } else {
                Amounts::default()
            };
            self.parts.purse.settle(open.reservation, spent).await;
        }
        match self.note(&mut state).await {
            Ok(()) => true,
            Err(ended) => {
                state.ended = Some(ended);
                false
            }
        }
    }
}
