//! Asks one endpoint on behalf of all slots of a worker: from a request to its stored reply.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gleaner_endpoint::{
    Action, CallError, CanonicalRequest, Client, CompletionRequest, Dialect, FailureClass,
    RequestKey, Series, Usage,
};
use gleaner_schemas::job::Price;
use gleaner_schemas::{Failure, FailureKind};
use gleaner_storage::Output;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cost::{cost, cost_of};
use super::ending::Ending;
use super::keeping;
use super::noting::{Ended, Noting, NotingState};
use super::process::ProcessIdentity;
use super::purse::Purse;
use super::shared_pace::SharedPace;
use super::store_time::StoreTime;
use super::stored::{self, StoredReply};
use super::under_way::UnderWay;
use crate::entropy::Entropy;

/// Pause before a reply that somebody else waits for is looked for again.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(100);
/// The same, at most.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A sender whose time is over may have the reply and wait for the store: it tries again within this
/// time of the store's recovery, the pauses of the store's client included.
const LAST_LOOK_PAUSE: Duration = match cfg!(test) {
    true => Duration::from_millis(200),
    false => Duration::from_secs(20),
};
/// Bytes of a prompt per token, told low.
const BYTES_PER_TOKEN: u64 = 3;
/// A request that was sent so often without a reply is given up: something kills who sends it.
const SENDINGS_MAX: u32 = 10_000;

/// What an endpoint is, for messages and keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFacts {
    /// Name in the job file.
    pub name: String,
    /// Hash of URL and model.
    pub hash: String,
    /// Name of the model.
    pub model: String,
}

/// The parts of an exchange.
pub struct ExchangeParts {
    /// What the endpoint is.
    pub facts: EndpointFacts,
    /// Sends requests.
    pub client: Client,
    /// Keeps requests and replies.
    pub output: Output,
    /// What may be spent.
    pub purse: Purse,
    /// How fast.
    pub pace: SharedPace,
    /// What tokens cost.
    pub price: Option<Price>,
    /// Requests in flight.
    pub concurrency: usize,
    /// Longest time that one sending may take.
    pub request_timeout: Duration,
    /// Name of this worker.
    pub worker: String,
    /// The time of the store.
    pub time: Arc<StoreTime>,
    /// Random bits for notes.
    pub entropy: Arc<dyn Entropy>,
    /// Requests that this process has under way, over all exchanges.
    pub under_way: Arc<UnderWay>,
    /// The process that they are of.
    pub process: ProcessIdentity,
}

/// Asks one endpoint. Shared by the slots of a worker.
pub struct Exchange {
    pub(super) parts: ExchangeParts,
    /// What was sent is waited for, whatever becomes of the task that wanted it.
    sendings: TaskTracker,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("facts", &self.parts.facts)
            .finish_non_exhaustive()
    }
}

/// A reply with what is known of its sending.
#[derive(Debug, Clone)]
pub struct Answer {
    /// As it is stored.
    pub stored: StoredReply,
    /// Whether it was there before.
    pub is_old: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// Of this request only: the item has no answer, others may.
    Item {
        /// What the server said of it.
        class: FailureClass,
        /// Its words.
        message: String,
    },
    /// Of the task.
    Task(Failure),
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        Self::Task(failure)
    }
}

/// Whether a request can be sent.
enum Turn {
    /// Under this number.
    Free(u32),
    /// The sending of this number may still be answered.
    Busy(u32),
    /// The time of the sending of this number is over, and nothing more is known of it.
    Over(u32),
}

/// A request with what is made of it once.
struct Asked {
    request: CompletionRequest,
    canonical: CanonicalRequest,
    request_key: RequestKey,
    rank: u64,
}

/// What came of trying to send.
enum Sending {
    Answered(Box<StoredReply>),
    /// Somebody else sends it.
    Taken,
}

impl Exchange {
    /// An exchange of these parts.
    #[must_use]
    pub fn new(parts: ExchangeParts) -> Self {
        Self {
            sendings: TaskTracker::new(),
            parts,
        }
    }

    /// What the endpoint is.
    #[must_use]
    pub fn facts(&self) -> &EndpointFacts {
        &self.parts.facts
    }

    /// Whether nothing more is sent, for a reason that concerns every request.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.parts.client.stopped().is_some()
    }

    /// Requests in flight at most.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.parts.concurrency
    }

    /// The reply to a request: the stored one, or a new one, paid for once. Of requests that wait to be
    /// sent, those of the smallest `rank` come first: that of the oldest task.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn ask(
        self: &Arc<Self>,
        request: CompletionRequest,
        rank: u64,
        cancel: &CancellationToken,
    ) -> Result<Answer, NoAnswer> {
        let canonical = request.canonical();
        let request_key = self.parts.client.key_of(&canonical);
        let key = request_key.to_string();
        let asked = Arc::new(Asked {
            request,
            canonical,
            request_key,
            rank,
        });
        let mut pause = LOOK_PAUSE_MIN;
        let mut number = 0;
        let mut over = None;
        let mut series = Series::default();
        let output = &self.parts.output;
        loop {
            if let Some(stored) = stored::reply(output, &key).await.map_err(Failure::from)? {
                return Ok(Answer {
                    stored,
                    is_old: true,
                });
            }
            if cancel.is_cancelled() {
                return Err(cancelled().into());
            }
            if let Some(error) = self.parts.client.stopped() {
                return Err(self.no_answer(error));
            }
            let turn = self.next_number(&key, number, over, &mut series).await?;
            let wait = match turn {
                Turn::Free(free) => {
                    number = free;
                    None
                }
                Turn::Busy(busy) => {
                    number = busy;
                    let wait = pause;
                    pause = (pause * 2).min(LOOK_PAUSE_MAX);
                    Some(wait)
                }
                Turn::Over(sent) => {
                    (number, over) = (sent, Some(sent));
                    Some(LAST_LOOK_PAUSE)
                }
            };
            if let Some(wait) = wait {
                // Whoever sends it may need what lies here unused.
                if let Err(error) = self.parts.purse.give_back_idle().await {
                    tracing::debug!(%error, "a lease of the budget is given back later");
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = cancel.cancelled() => return Err(cancelled().into()),
                }
                continue;
            }
            let Some(going) = self.parts.under_way.begin(&key) else {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = cancel.cancelled() => return Err(cancelled().into()),
                }
                continue;
            };
            // Whoever sent it before may have stored the reply, and ended, since it was looked for.
            if number > 0
                && let Some(stored) = stored::reply(output, &key).await.map_err(Failure::from)?
            {
                return Ok(Answer {
                    stored,
                    is_old: true,
                });
            }
            let (this, asked, key) = (Arc::clone(self), Arc::clone(&asked), key.clone());
            let (ended, is_kept_waiting) = (cancel.clone(), CancellationToken::new());
            let kept_waiting = is_kept_waiting.clone();
            let sending = self.sendings.spawn(async move {
                let first = (number, series);
                let sent = this.send(&asked, &key, first, &ended, &kept_waiting).await;
                drop(going);
                sent
            });
            let sent = tokio::select! {
                sent = sending => sent,
                // The store may not take the reply for hours. Whoever sent it goes on trying.
                () = async { tokio::join!(is_kept_waiting.cancelled(), cancel.cancelled()); } => {
                    return Err(cancelled().into());
                }
            };
            match sent {
                Ok(Ok(Sending::Answered(stored))) => {
                    return Ok(Answer {
                        stored: *stored,
                        is_old: false,
                    });
                }
                Ok(Ok(Sending::Taken)) => {}
                Ok(Err(no_answer)) => return Err(no_answer),
                Err(error) => {
                    let message = format!("sending a request panicked, a bug of Gleaner: {error}");
                    return Err(Failure::new(FailureKind::Permanent, message).into());
                }
            }
        }
    }

    /// Whether the request can be sent. Those before `from` have ended; the time of `over` was over
    /// when it was looked at last. `series` is that of those which have ended.
    async fn next_number(
        &self,
        key: &str,
        from: u32,
        over: Option<u32>,
        series: &mut Series,
    ) -> Result<Turn, Failure> {
        let parts = &self.parts;
        for number in from..SENDINGS_MAX {
            let Some((sent, put_ms)) = stored::sent(&parts.output, key, number).await? else {
                return Ok(Turn::Free(number));
            };
            let is_own = sent.process.is_same(&parts.process);
            let has_ended = match is_own {
                true => !parts.under_way.has(key),
                false => sent.process.has_ended(),
            };
            let is_withdrawn = stored::is_withdrawn(&parts.output, key, number).await?;
            if has_ended || is_withdrawn {
                *series = sent.goes_on(*series, is_withdrawn);
                continue;
            }
            if is_own || !sent.is_over(put_ms, parts.time.now_ms().await?) {
                return Ok(Turn::Busy(number));
            }
            if over != Some(number) {
                return Ok(Turn::Over(number));
            }
            *series = sent.goes_on(*series, false);
        }
        Err(Failure::new(
            FailureKind::Permanent,
            format!(
                "request {key} to endpoint {} was sent {SENDINGS_MAX} times and never answered",
                self.parts.facts.name
            ),
        ))
    }

    /// Sends a request under a free number of a series, with retries under the next ones, and stores the
    /// reply. `kept_waiting` is cancelled when the store does not take it at once.
    async fn send(
        &self,
        asked: &Asked,
        key: &str,
        (number, series): (u32, Series),
        cancel: &CancellationToken,
        kept_waiting: &CancellationToken,
    ) -> Result<Sending, NoAnswer> {
        let parts = &self.parts;
        let request = &asked.request;
        let bound = asked.canonical.token_bound();
        let estimate = cost(self.parts.price.as_ref(), bound.prompt, bound.completion);
        let noting = Noting {
            parts,
            key,
            stage: &request.stage,
            estimate,
            series,
            rank: asked.rank,
            pace_tokens: bound.prompt / BYTES_PER_TOKEN + bound.completion,
            ending: Ending {
                cancel,
                stop: parts.client.stop_token(),
            },
            state: Mutex::new(NotingState {
                number,
                open: None,
                is_paced: false,
                refused: Vec::new(),
                ended: None,
            }),
        };
        let called = parts
            .client
            .complete(request, asked.request_key, &noting, cancel)
            .await;
        let mut state = noting.state.lock().await;
        let reply = match called {
            Ok(reply) => reply,
            Err(error) => {
                noting.settle(&mut state, error.may_be_paid).await;
                noting.take_back(&state.refused).await;
                return match (state.ended.take(), parts.client.stopped()) {
                    (Some(Ended::Taken), _) => Ok(Sending::Taken),
                    (Some(Ended::Failed(_)), Some(stopped)) => Err(self.no_answer(stopped)),
                    (Some(Ended::Failed(failure)), None) => Err(failure.into()),
                    (None, None) if cancel.is_cancelled() && error.status.is_none() => {
                        Err(cancelled().into())
                    }
                    (None, _) => Err(self.no_answer(&error)),
                };
            }
        };
        let usage = Usage::of_body(&reply.body).plausible(&reply.body, bound);
        let spent = cost_of(parts.price.as_ref(), usage, bound);
        let Some(open) = state.open.take() else {
            let message = "a request was sent without a note, which is a bug of Gleaner";
            return Err(Failure::new(FailureKind::Permanent, message).into());
        };
        let stored = StoredReply {
            request: key.to_owned(),
            number: open.number,
            lease: open.reservation.lease.clone(),
            endpoint: parts.facts.hash.clone(),
            stage: request.stage.clone(),
            model: request.model_or(&parts.facts.model).to_owned(),
            sent: asked.canonical.as_str().to_owned(),
            asked_for_schema: request.schema.is_some() && reply.dialect != Dialect::None,
            status: u32::from(reply.status),
            body: reply.body,
            cost: spent,
            sent_ms: open.sent_ms,
            latency_ms: u64::try_from(reply.total.as_millis()).unwrap_or(u64::MAX),
            worker: parts.worker.clone(),
        };
        let kept = keeping::keep(&parts.output, stored, kept_waiting).await;
        parts.purse.settle(open.reservation, spent).await;
        // What was refused before is not to count as possibly paid, should this worker be lost.
        noting.take_back(&state.refused).await;
        Ok(Sending::Answered(Box::new(kept?)))
    }

    fn no_answer(&self, error: &CallError) -> NoAnswer {
        if error.class == FailureClass::BudgetSpent {
            let failure = Failure::new(FailureKind::Budget, error.message.clone());
            return NoAnswer::Task(failure);
        }
        let name = &self.parts.facts.name;
        let message = format!("endpoint {name}: {error}");
        match error.class.action() {
            Action::StopJob => NoAnswer::Task(Failure::new(FailureKind::Endpoint, message)),
            // The client has tried as often as makes sense: no other task would fare better.
            Action::Retry if error.is_endpoint_down => {
                NoAnswer::Task(Failure::new(FailureKind::Endpoint, message))
            }
            _ => NoAnswer::Item {
                class: error.class,
                message,
            },
        }
    }

    /// Settles with the budget. Called at the end of each task.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn settle(&self) -> Result<(), Failure> {
        Ok(self.parts.purse.give_back().await?)
    }

    /// The same, beside whatever comes next. It is waited for as requests are.
    pub fn settle_later(self: &Arc<Self>, handle: &tokio::runtime::Handle) {
        let this = Arc::clone(self);
        self.sendings.spawn_on(
            async move {
                if let Err(error) = this.parts.purse.give_back().await {
                    tracing::warn!(%error, "a lease of the budget is given back by time");
                }
            },
            handle,
        );
    }

    /// Waits until all requests that were sent are answered and stored, at most for `limit`.
    /// Whether they are.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.sendings.close();
        let waited = tokio::time::timeout(limit, self.sendings.wait()).await;
        self.sendings.reopen();
        if let Err(error) = self.parts.purse.give_back().await {
            tracing::warn!(%error, "what is left of the budget's lease is given back by time");
        }
        waited.is_ok()
    }
}

pub(super) fn cancelled() -> Failure {
    Failure::new(FailureKind::Transient, "the task was cancelled")
}
