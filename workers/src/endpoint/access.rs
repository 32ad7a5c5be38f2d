//! From the name of an endpoint to an exchange with it, as the newest settings say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gleaner_endpoint::{Client, Dialect, EndpointConfig, Secret, Timeouts};
use gleaner_schemas::job::{Endpoint, StructuredOutput};
use gleaner_schemas::{EndpointSettings, Failure, FailureKind, Fingerprint};
use gleaner_storage::Output;

use super::clock::Clock;
use super::exchange::{EndpointFacts, Exchange, ExchangeParts};
use super::local::{LocalModels, n_at_once};
use super::process::ProcessIdentity;
use super::purse::{Purse, PurseSettings};
use super::settings::Settings;
use super::shared_pace::{Rates, SharedPace};
use super::spending::limits;
use super::store_time::StoreTime;
use super::under_way::UnderWay;
use crate::entropy::Entropy;
use crate::generation::EndpointIdentity;

/// Requests in flight where the job file does not tell.
const CONCURRENCY: u32 = 16;
/// Sendings of one request where the job file does not tell.
const ATTEMPTS: u32 = 6;

/// A server that tells everybody to wait is given up when it has answered nobody for this long.
const PATIENCE: Duration = Duration::from_secs(180);

/// An output, the name of an endpoint, and the hash of what it is.
type Place = (String, String, String);

/// The exchanges of a worker process, by output and name.
pub struct Exchanges {
    worker: String,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    settings: Mutex<BTreeMap<String, Arc<Settings>>>,
    open: Mutex<BTreeMap<Place, (u64, Arc<Exchange>)>>,
    /// Those that newer settings have replaced: what they sent is waited for all the same.
    retired: Mutex<Vec<Arc<Exchange>>>,
    under_way: Arc<UnderWay>,
    /// Of the process whose requests `under_way` knows.
    process: ProcessIdentity,
    local: LocalModels,
    n_ranks: AtomicU64,
}

impl fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchanges").finish_non_exhaustive()
    }
}

impl Exchanges {
    /// No exchange yet. `worker` names this process, for people.
    #[must_use]
    pub fn new(worker: String, entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Self {
        Self {
            worker,
            process: ProcessIdentity::own(entropy.next_u64()),
            entropy,
            clock,
            settings: Mutex::default(),
            open: Mutex::default(),
            retired: Mutex::default(),
            under_way: Arc::default(),
            local: LocalModels::default(),
            n_ranks: AtomicU64::new(0),
        }
    }

    /// The rank of a task that begins: its requests come after those of tasks that began before it, so
    /// that not all tasks of a process end, and leave places empty, at the same time.
    #[must_use]
    pub fn next_rank(&self) -> u64 {
        self.n_ranks.fetch_add(1, Ordering::Relaxed)
    }

    /// The exchange with an endpoint, for tasks of `output`.
    ///
    /// # Errors
    ///
    /// Of the store; if the endpoint is another one by now, or its key is missing.
    pub async fn with(
        &self,
        output: &Output,
        identity: &EndpointIdentity,
    ) -> Result<Arc<Exchange>, Failure> {
        let of_output = self.settings_of(output);
        let (mut number, mut settings) = of_output.newest().await?;
        let hash = endpoint_hash(&identity.url, &identity.model);
        let place = (output.uri().to_owned(), identity.name.clone(), hash);
        if let Some(known) = self.known(&place, number) {
            if !known.is_stopped() {
                return Ok(known);
            }
            // A run that began since may have more money, or know of an account that has.
            (number, settings) = of_output.look().await?;
            if let Some(known) = self.known(&place, number) {
                return Ok(known);
            }
        }
        let exchange = Arc::new(self.create(output, identity, &settings).await?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Another slot may have been faster: they must share one.
        let entry = open
            .entry(place)
            .and_modify(|entry| {
                if entry.0 < number {
                    let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
                    retired.push(Arc::clone(&entry.1));
                    *entry = (number, Arc::clone(&exchange));
                }
            })
            .or_insert_with(|| (number, Arc::clone(&exchange)));
        Ok(Arc::clone(&entry.1))
    }

    fn known(&self, place: &Place, number: u64) -> Option<Arc<Exchange>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, exchange) = open.get(place)?;
        (*known == number).then(|| Arc::clone(exchange))
    }

    fn settings_of(&self, output: &Output) -> Arc<Settings> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = settings.entry(output.uri().to_owned());
        Arc::clone(entry.or_insert_with(|| Arc::new(Settings::new(output.clone()))))
    }

    async fn create(
        &self,
        output: &Output,
        identity: &EndpointIdentity,
        settings: &EndpointSettings,
    ) -> Result<Exchange, Failure> {
        let name = &identity.name;
        let permanent = |message: String| Failure::new(FailureKind::Permanent, message);
        let endpoint = settings
            .endpoints
            .get(name)
            .filter(|endpoint| {
                endpoint.url.trim_end_matches('/') == identity.url
                    && endpoint.model == identity.model
            })
            .ok_or_else(|| {
                permanent(format!(
                    "the newest run uses endpoint {name} with another URL or model; the task is of \
                     an earlier run"
                ))
            })?;
        let hash = endpoint_hash(&identity.url, &identity.model);
        let concurrency = concurrency(endpoint);
        let request_timeout = endpoint.deadlines().total.duration();
        let entropy = Arc::clone(&self.entropy);
        let failed = |message: String| {
            Failure::new(FailureKind::Endpoint, format!("endpoint {name}: {message}"))
        };
        let url = self.local.url_of(endpoint).await.map_err(failed)?;
        let client = client(endpoint, url, &identity.name, concurrency, entropy)
            .map_err(|message| Failure::new(FailureKind::Endpoint, message))?;
        let budget = endpoint.budget.as_ref();
        let purse = PurseSettings {
            endpoint: hash.clone(),
            name: name.clone(),
            worker: self.worker.clone(),
            limits: limits(budget),
            concurrency: u64::from(concurrency),
            request_timeout,
            until_ms: budget.and_then(|budget| budget.time).map(|time| {
                settings
                    .started_ms
                    .saturating_add(milliseconds(time.duration()))
            }),
        };
        let rates = Rates {
            requests: endpoint.requests_per_minute,
            tokens: endpoint.tokens_per_minute,
        };
        let (entropy, clock) = (&self.entropy, &self.clock);
        let time = StoreTime::new(output.clone(), Arc::clone(clock), Arc::clone(entropy));
        let time = Arc::new(time);
        Ok(Exchange::new(ExchangeParts {
            client,
            output: output.clone(),
            purse: Purse::new(
                purse,
                output.clone(),
                Arc::clone(entropy),
                Arc::clone(clock),
                Arc::clone(&time),
            ),
            pace: SharedPace::new(
                output.clone(),
                hash.clone(),
                rates,
                Arc::clone(entropy),
                Arc::clone(clock),
            ),
            price: endpoint.price.clone(),
            concurrency: concurrency as usize,
            request_timeout,
            worker: self.worker.clone(),
            time,
            entropy: Arc::clone(entropy),
            under_way: Arc::clone(&self.under_way),
            process: self.process.clone(),
            facts: EndpointFacts {
                name: name.clone(),
                hash,
                model: identity.model.clone(),
            },
        }))
    }

    /// Waits until everything that was sent is answered and stored, at most for `limit`.
    pub async fn finish(&self, limit: Duration) {
        let open: Vec<_> = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            let open = open.values().map(|(_, exchange)| exchange);
            open.chain(retired.iter()).map(Arc::clone).collect()
        };
        let finishing = open.iter().map(|exchange| exchange.finish(limit));
        let finished = futures::future::join_all(finishing).await;
        if finished.iter().any(|is_finished| !is_finished) {
            tracing::warn!(
                "requests were sent whose replies nobody waits for any more; they may be paid for"
            );
        }
    }
}

/// Requests in flight of each worker process. A model of this process is asked for no more than it
/// writes at a time: what waits in its queue would count as slow.
fn concurrency(endpoint: &Endpoint) -> u32 {
    let usual = match endpoint.model_directory() {
        Some(_) => u32::try_from(n_at_once()).unwrap_or(CONCURRENCY),
        None => CONCURRENCY,
    };
    endpoint.concurrency.unwrap_or(usual)
}

/// The client of an endpoint as the job file has it, reached at `url`, with the key of this process's environment.
///
/// # Errors
///
/// What is missing or wrong.
pub fn client(
    endpoint: &Endpoint,
    url: String,
    name: &str,
    concurrency: u32,
    entropy: Arc<dyn Entropy>,
) -> Result<Client, String> {
    let api_key = match &endpoint.api_key_env {
        Some(variable) => {
            let key = std::env::var(variable).map_err(|_| {
                format!(
                    "the environment variable {variable}, which holds the key of endpoint {name}, \
                     is not set in process {}",
                    std::process::id()
                )
            })?;
            Some(Secret::new(key))
        }
        None => None,
    };
    let deadlines = endpoint.deadlines();
    let config = EndpointConfig {
        name: name.to_owned(),
        url,
        model: endpoint.model.clone(),
        api_key,
        dialect: match endpoint.structured_output {
            StructuredOutput::Auto => Dialect::Auto,
            StructuredOutput::JsonSchema => Dialect::JsonSchema,
            StructuredOutput::JsonObject => Dialect::JsonObject,
            StructuredOutput::None => Dialect::None,
        },
        concurrency: concurrency as usize,
        timeouts: Timeouts {
            connect: deadlines.connect.duration(),
            first_byte: deadlines.first_byte.duration(),
            total: deadlines.total.duration(),
        },
        attempts_max: endpoint.attempts.unwrap_or(ATTEMPTS),
        patience: PATIENCE,
    };
    let jitter = Arc::new(move || entropy.next_u64());
    Client::new(config, jitter).map_err(|error| error.to_string())
}

/// Names an endpoint in paths: a hash of its URL and model.
#[must_use]
pub fn endpoint_hash(url: &str, model: &str) -> String {
    Fingerprint::of("endpoint", &(url.trim_end_matches('/'), model)).to_string()
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 8)
}

/// What a task needs to ask endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Endpoints<'a> {
    /// The exchanges of this process.
    pub exchanges: &'a Exchanges,
    /// The output that the task belongs to.
    pub output: &'a Output,
    /// The runtime that requests run on.
    pub handle: &'a tokio::runtime::Handle,
}

impl Endpoints<'_> {
    /// The exchange with an endpoint. Must not be called on a thread of the runtime.
    ///
    /// # Errors
    ///
    /// As [`Exchanges::with`].
    pub fn exchange(&self, identity: &EndpointIdentity) -> Result<Arc<Exchange>, Failure> {
        self.handle
            .block_on(self.exchanges.with(self.output, identity))
    }
}
