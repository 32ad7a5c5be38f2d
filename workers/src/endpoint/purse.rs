//! A worker's lease on what the job may spend at an endpoint: taken before requests are sent,
//! settled with what they cost, given back at the end of each task.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gleaner_schemas::{Failure, FailureKind};
use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, OutputError, layout};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::clock::Clock;
use super::ending::Ending;
use super::lost_requests;
use super::noting::WAITING_MS;
use super::spending::{Amounts, Lease, NoLease, Shortage, Spending};
use super::store_time::StoreTime;
use crate::entropy::Entropy;

/// A lease covers about as many requests per request that may be in flight.
const REQUESTS_PER_SLOT: u64 = 8;
/// Pause before asking again for what other workers hold.
const HELD_PAUSE_MIN: Duration = Duration::from_millis(500);
/// The same, at most.
const HELD_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Others settle and give back within moments. After this time those that do not are taken for lost.
const HELD_WAIT_MIN: Duration = Duration::from_secs(240);
/// The lease of a lost worker is written off when its time is over, which is waited for this long.
const HELD_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Another worker was faster: this often, which with a pause takes longer than any worker needs.
const CHANGES_MAX: u32 = 400;
/// Longest pause before a change is tried again.
const CHANGE_PAUSE_MAX_MS: u64 = 200;

/// Whose purse it is and how it is used.
#[derive(Debug, Clone)]
pub struct PurseSettings {
    /// Hash of the endpoint's URL and model.
    pub endpoint: String,
    /// Name of the endpoint, for messages.
    pub name: String,
    /// Name of this worker, for people.
    pub worker: String,
    /// What may be spent.
    pub limits: Amounts,
    /// Requests in flight.
    pub concurrency: u64,
    /// Longest time that a request may be under way.
    pub request_timeout: Duration,
    /// Milliseconds since 1970 after which nothing more may be sent, if time is budgeted.
    pub until_ms: Option<i64>,
}

/// Why nothing can be spent.
#[derive(Debug, thiserror::Error)]
pub enum PurseError {
    /// The budget is used up.
    #[error("{0}")]
    Spent(String),
    /// The store did not do what was asked.
    #[error(transparent)]
    Store(#[from] OutputError),
    /// What is stored cannot be read.
    #[error(
        "the record of what is spent at endpoint {name} cannot be read: {reason}; use the program \
         version that wrote it"
    )]
    Malformed {
        /// Name of the endpoint.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The task was cancelled.
    #[error("the task was cancelled")]
    Cancelled,
    /// Too many workers change the same value at once.
    #[error("the budget of endpoint {0} could not be changed {CHANGES_MAX} times in a row")]
    Contended(String),
}

impl From<PurseError> for Failure {
    fn from(error: PurseError) -> Self {
        match error {
            PurseError::Spent(message) => Self::new(FailureKind::Budget, message),
            PurseError::Store(error) => error.into(),
            PurseError::Malformed { .. } => Self::new(FailureKind::Permanent, error.to_string()),
            PurseError::Cancelled | PurseError::Contended(_) => {
                Self::new(FailureKind::Transient, error.to_string())
            }
        }
    }
}

/// What this worker may still spend without asking.
#[derive(Default)]
struct Held {
    /// The id of the lease and its end, if there is one.
    lease: Option<(String, i64)>,
    /// Covered by the lease, and not reserved by a request.
    free: Amounts,
    /// Reserved by requests that are under way.
    reserved: Amounts,
    /// Spent since the last settlement.
    unsettled: Amounts,
}

/// A lease that grows as requests need it. Shared by the slots of a worker.
pub struct Purse {
    settings: PurseSettings,
    output: Output,
    list: Numbered,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    /// Leases are judged by the store's clock.
    time: Arc<StoreTime>,
    /// Held over a change in the store: one change at a time by each worker is enough.
    held: Mutex<Held>,
}

impl fmt::Debug for Purse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purse")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// An amount that one request may cost. Must be ended by [`Purse::settle`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Reservation {
    /// The lease that it counts on.
    pub lease: String,
    /// The amount.
    pub amounts: Amounts,
}

impl Purse {
    /// An empty purse.
    #[must_use]
    pub fn new(
        settings: PurseSettings,
        output: Output,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
        time: Arc<StoreTime>,
    ) -> Self {
        let folder = layout::spending(&settings.endpoint);
        Self {
            list: Numbered::new(output.clone(), folder),
            settings,
            output,
            entropy,
            clock,
            time,
            held: Mutex::default(),
        }
    }

    /// Reserves what one request may cost at most.
    ///
    /// # Errors
    ///
    /// If the budget has no room for it, or of the store.
    pub async fn reserve(
        &self,
        need: Amounts,
        ending: &Ending<'_>,
    ) -> Result<Reservation, PurseError> {
        let mut held = self.held.lock().await;
        let timeout_ms = milliseconds(self.settings.request_timeout);
        let waiting_since = Instant::now();
        let mut pause = HELD_PAUSE_MIN;
        let mut held_until_ms = None;
        loop {
            let clock_ms = self.clock.now_ms();
            if self
                .settings
                .until_ms
                .is_some_and(|until| clock_ms >= until)
            {
                return Err(PurseError::Spent(format!(
                    "the time that the job may spend at endpoint {} is over",
                    self.settings.name
                )));
            }
            let now_ms = self.time.now_ms().await?;
            if let Some((lease, until_ms)) = &held.lease
                && now_ms.saturating_add(timeout_ms + WAITING_MS) < *until_ms
                && held.free.covers(need)
            {
                let lease = lease.clone();
                held.free = held.free.minus(need);
                held.reserved += need;
                return Ok(Reservation {
                    lease,
                    amounts: need,
                });
            }
            match self.enlarge(&mut held, need, now_ms).await? {
                Ok(()) => {}
                Err(NoLease::Spent(shortage)) => return Err(self.spent(&shortage.to_string())),
                Err(NoLease::Held(mut shortage)) => {
                    let own = held.lease.as_ref().map(|(_, until_ms)| *until_ms);
                    let own = own.filter(|_| held.reserved != Amounts::default());
                    shortage.held_until_ms = shortage.held_until_ms.max(own);
                    // Two who wait for each other's rest would wait in vain.
                    self.release(&mut held).await?;
                    drop(held);
                    // Those who take leases anew are alive, so the ends of the first ones count.
                    held_until_ms = held_until_ms.or(shortage.held_until_ms);
                    let waited = waiting_since.elapsed();
                    let may_end = held_until_ms.is_some_and(|end_ms| now_ms <= end_ms);
                    if waited > HELD_WAIT_MAX || waited > HELD_WAIT_MIN && !may_end {
                        return Err(self.withheld(&shortage, now_ms));
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = ending.comes() => return Err(PurseError::Cancelled),
                    }
                    pause = (pause * 2).min(HELD_PAUSE_MAX);
                    held = self.held.lock().await;
                }
            }
        }
    }

    fn spent(&self, shortage: &str) -> PurseError {
        PurseError::Spent(format!(
            "the budget of endpoint {} is used up: {shortage}; raise `budget` in the job file and \
             run the job again to go on: nothing that is paid for is asked again",
            self.settings.name
        ))
    }

    /// The budget is not used up, but the rest of it does not come back in time.
    fn withheld(&self, shortage: &Shortage, now_ms: i64) -> PurseError {
        let rest_ms = shortage.held_until_ms.unwrap_or(now_ms) - now_ms;
        let minutes = rest_ms.max(0) / 60_000 + 1;
        PurseError::Spent(format!(
            "the rest of the budget of endpoint {} is reserved by workers that may be lost: {shortage}; \
             run the job again in {minutes} min, when it has come back, or raise `budget` in the job \
             file: nothing that is paid for is asked again",
            self.settings.name
        ))
    }

    /// Books what a request cost, which is no more than what was reserved unless the server
    /// exceeded what it was asked for.
    pub async fn settle(&self, reservation: Reservation, spent: Amounts) {
        let mut held = self.held.lock().await;
        held.reserved = held.reserved.minus(reservation.amounts);
        let is_current = held
            .lease
            .as_ref()
            .is_some_and(|it| it.0 == reservation.lease);
        if is_current {
            held.free += reservation.amounts.minus(spent);
            // A server that exceeds what it was asked for takes it from the rest.
            held.free = held.free.minus(spent.minus(reservation.amounts));
        }
        held.unsettled += spent;
    }

    /// Settles with the store and gives back what is not reserved. Called at the end of each task.
    ///
    /// # Errors
    ///
    /// Of the store; then the lease runs out.
    pub async fn give_back(&self) -> Result<(), PurseError> {
        let mut held = self.held.lock().await;
        self.release(&mut held).await
    }

    /// The same while nothing is under way, for those who wait for a reply that another worker is to
    /// get: what they hold must not keep it from sending.
    ///
    /// # Errors
    ///
    /// Of the store; then the lease runs out.
    pub async fn give_back_idle(&self) -> Result<(), PurseError> {
        let mut held = self.held.lock().await;
        if held.lease.is_none() || held.reserved != Amounts::default() {
            return Ok(());
        }
        self.release(&mut held).await
    }

    async fn release(&self, held: &mut Held) -> Result<(), PurseError> {
        let Some((id, _)) = held.lease.clone() else {
            return Ok(());
        };
        if held.free == Amounts::default()
            && held.unsettled == Amounts::default()
            && held.reserved != Amounts::default()
        {
            return Ok(());
        }
        let (unsettled, reserved) = (held.unsettled, held.reserved);
        self.change(|spending| {
            spending.settle(&id, unsettled);
            match spending.leases.get_mut(&id) {
                Some(lease) if reserved != Amounts::default() => lease.amounts = reserved,
                _ => spending.give_back(&id),
            }
            Ok(())
        })
        .await?
        .unwrap_or(());
        held.unsettled = Amounts::default();
        held.free = Amounts::default();
        if reserved == Amounts::default() {
            held.lease = None;
        }
        Ok(())
    }

    /// Settles, and makes the lease cover `need` beside what is reserved already.
    async fn enlarge(
        &self,
        held: &mut Held,
        need: Amounts,
        now_ms: i64,
    ) -> Result<Result<(), NoLease>, PurseError> {
        self.write_off_lost(now_ms).await?;
        let id = match &held.lease {
            Some((id, _)) => id.clone(),
            None => format!("{:016x}", self.entropy.next_u64()),
        };
        let need_in_all = held.reserved + need;
        let wish = need.times(self.settings.concurrency.saturating_mul(REQUESTS_PER_SLOT));
        let timeout_ms = milliseconds(self.settings.request_timeout);
        let until_ms = now_ms.saturating_add(timeout_ms * 3 + WAITING_MS);
        let lease = Lease {
            amounts: held.reserved + wish,
            worker: self.settings.worker.clone(),
            since_ms: now_ms,
            until_ms,
            settled: Amounts::default(),
        };
        let unsettled = held.unsettled;
        let mut granted = Amounts::default();
        let changed = self
            .change(|spending| {
                spending.settle(&id, unsettled);
                let mut lease = lease.clone();
                if let Some(earlier) = spending.leases.get(&id) {
                    lease.since_ms = earlier.since_ms;
                    lease.settled = earlier.settled;
                }
                granted = spending.take(&id, lease, need_in_all, self.settings.limits)?;
                Ok(())
            })
            .await?;
        match changed {
            Ok(()) => {
                held.unsettled = Amounts::default();
                held.free = granted.minus(held.reserved);
                held.lease = Some((id, until_ms));
                Ok(Ok(()))
            }
            // Requests of this worker that are under way will cost less than they may.
            Err(NoLease::Spent(shortage)) if held.reserved != Amounts::default() => {
                Ok(Err(NoLease::Held(shortage)))
            }
            Err(no_lease) => Ok(Err(no_lease)),
        }
    }

    /// Books what lost workers may have spent, where leases are over.
    async fn write_off_lost(&self, now_ms: i64) -> Result<(), PurseError> {
        let Some((_, bytes)) = self.list.newest().await? else {
            return Ok(());
        };
        let spending = self.parse(&bytes)?;
        for id in spending.expired(now_ms) {
            let Some(lease) = spending.leases.get(&id) else {
                continue;
            };
            let lost = lost_requests::of_lease(&self.output, &id, lease.since_ms).await?;
            tracing::warn!(
                worker = lease.worker,
                endpoint = self.settings.name,
                n_requests = lost.possibly.requests,
                "a worker is gone that had reserved a part of the budget"
            );
            self.change(|spending| {
                spending.write_off(&id, (lease.since_ms, now_ms), lost.known, lost.possibly);
                Ok(())
            })
            .await?
            .unwrap_or(());
        }
        Ok(())
    }

    /// Changes the value in the store, as often as somebody else was faster. A change that is
    /// refused changes nothing.
    async fn change(
        &self,
        mut change: impl FnMut(&mut Spending) -> Result<(), NoLease>,
    ) -> Result<Result<(), NoLease>, PurseError> {
        for _ in 0..CHANGES_MAX {
            let newest = self.list.newest().await?;
            let mut spending = match &newest {
                Some((_, bytes)) => self.parse(bytes)?,
                None => Spending::default(),
            };
            if let Err(no_lease) = change(&mut spending) {
                return Ok(Err(no_lease));
            }
            spending.format = Spending::FORMAT;
            spending.nonce = self.entropy.next_u64();
            let bytes = serde_json::to_vec(&spending).map_err(|error| self.malformed(&error))?;
            let last = newest.map(|(number, _)| number);
            if self.list.append(last, bytes.into()).await? {
                return Ok(Ok(()));
            }
            let pause_ms = self.entropy.next_u64() % CHANGE_PAUSE_MAX_MS;
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        Err(PurseError::Contended(self.settings.name.clone()))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Spending, PurseError> {
        let spending: Spending =
            serde_json::from_slice(bytes).map_err(|error| self.malformed(&error))?;
        if spending.format != Spending::FORMAT {
            let found = format!(
                "it has format {}, not {}",
                spending.format,
                Spending::FORMAT
            );
            return Err(self.malformed(&found));
        }
        Ok(spending)
    }

    fn malformed(&self, reason: &dyn fmt::Display) -> PurseError {
        PurseError::Malformed {
            name: self.settings.name.clone(),
            reason: reason.to_string(),
        }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 8)
}
