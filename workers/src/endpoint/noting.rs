//! What comes before each sending of a request: its time, a part of the budget, the note.

use async_trait::async_trait;
use gleaner_endpoint::{FailureClass, Pace, Series};
use gleaner_schemas::Failure;
use tokio::sync::Mutex;

use super::ending::Ending;
use super::exchange::{ExchangeParts, cancelled};
use super::purse::{PurseError, Reservation};
use super::spending::Amounts;
use super::stored::{self, SentRequest};

/// Time for a request to get its place, and for a reply to be stored, before somebody else sends again.
const SLACK_MS: i64 = 90_000;
/// The part of it that a request may wait for its place.
pub(super) const WAITING_MS: i64 = 30_000;

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
    /// Whether the pace has let a sending pass that was not sent yet: a note that is renewed takes no
    /// second part of the rates.
    pub(super) is_paced: bool,
    /// Numbers of sendings that the server did nothing for.
    pub(super) refused: Vec<u32>,
    pub(super) ended: Option<Ended>,
}

/// What comes before each sending: its time, a part of the budget, the note.
pub(super) struct Noting<'a> {
    pub(super) parts: &'a ExchangeParts,
    pub(super) key: &'a str,
    pub(super) stage: &'a str,
    /// What it may cost at most: a token has at least a byte.
    pub(super) estimate: Amounts,
    /// Of those who sent it before.
    pub(super) series: Series,
    /// Of the task that it is for.
    pub(super) rank: u64,
    /// About its tokens, for rates, which need no upper bound.
    pub(super) pace_tokens: u64,
    pub(super) ending: Ending<'a>,
    pub(super) state: Mutex<NotingState>,
}

impl Noting<'_> {
    async fn note(&self, state: &mut NotingState, series: Series) -> Result<(), Ended> {
        let parts = self.parts;
        let failed = |failure: Failure| Ended::Failed(failure);
        if !state.is_paced {
            let waited = parts.pace.wait(self.pace_tokens, &self.ending).await;
            if !waited.map_err(|error| failed(error.into()))? {
                return Err(failed(cancelled()));
            }
            state.is_paced = true;
        }
        let reserved = parts.purse.reserve(self.estimate, &self.ending).await;
        let reservation = reserved.map_err(|error| {
            if let PurseError::Spent(message) = &error {
                parts
                    .client
                    .stop(FailureClass::BudgetSpent, message.clone());
            }
            failed(error.into())
        })?;
        let now_ms = match parts.time.now_ms().await {
            Ok(now_ms) => now_ms,
            Err(error) => {
                parts.purse.settle(reservation, Amounts::default()).await;
                return Err(failed(error.into()));
            }
        };
        let timeout_ms = i64::try_from(parts.request_timeout.as_millis()).unwrap_or(i64::MAX / 8);
        let sent = SentRequest {
            format: SentRequest::FORMAT,
            request: self.key.to_owned(),
            number: state.number,
            series: series.at(state.number).number,
            endpoint: parts.facts.hash.clone(),
            stage: self.stage.to_owned(),
            lease: reservation.lease.clone(),
            estimate: self.estimate,
            sent_ms: now_ms,
            until_ms: now_ms.saturating_add(timeout_ms).saturating_add(SLACK_MS),
            worker: parts.worker.clone(),
            process: parts.process.clone(),
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

impl Noting<'_> {
    /// The sending that is open has failed.
    pub(super) async fn settle(&self, state: &mut NotingState, may_be_paid: bool) {
        let Some(open) = state.open.take() else {
            return;
        };
        state.is_paced = false;
        // An answer may be on its way to nobody.
        let spent = if may_be_paid {
            self.estimate
        } else {
            state.refused.push(open.number);
            Amounts::default()
        };
        self.parts.purse.settle(open.reservation, spent).await;
    }

    /// Takes notes back, so that nobody waits for their replies or counts them as paid.
    pub(super) async fn take_back(&self, numbers: &[u32]) {
        for &number in numbers {
            let taken_back = stored::withdraw(&self.parts.output, self.key, number).await;
            if let Err(error) = taken_back {
                // It counts as sent, and as possibly paid, until its time is over.
                tracing::warn!(%error, request = self.key, "a request's note cannot be taken back");
                return;
            }
        }
    }
}

#[async_trait]
impl Pace for Noting<'_> {
    async fn before(&self, previous: Option<FailureClass>, series: Series) -> bool {
        let mut state = self.state.lock().await;
        self.settle(&mut state, previous.is_some_and(FailureClass::may_be_paid))
            .await;
        match self.note(&mut state, series).await {
            Ok(()) => true,
            Err(ended) => {
                state.ended = Some(ended);
                false
            }
        }
    }

    async fn number(&self) -> Option<u32> {
        self.state
            .lock()
            .await
            .open
            .as_ref()
            .map(|open| open.number)
    }

    fn series(&self) -> Series {
        self.series
    }

    async fn is_current(&self) -> bool {
        let sent_ms = match &self.state.lock().await.open {
            Some(open) => open.sent_ms,
            None => return false,
        };
        let now_ms = self.parts.time.now_ms().await;
        now_ms.is_ok_and(|now_ms| now_ms.saturating_sub(sent_ms) < WAITING_MS)
    }

    fn rank(&self) -> u64 {
        self.rank
    }

    async fn failed(&self, class: FailureClass) {
        let mut state = self.state.lock().await;
        self.settle(&mut state, class.may_be_paid()).await;
    }

    async fn withdraw(&self) {
        let mut state = self.state.lock().await;
        let Some(open) = state.open.take() else {
            return;
        };
        self.take_back(&[open.number]).await;
        self.parts
            .purse
            .settle(open.reservation, Amounts::default())
            .await;
    }
}
