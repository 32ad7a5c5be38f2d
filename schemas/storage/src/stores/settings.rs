//! What stores are configured with: the environment, and the bounds of every request.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

/// Seconds that a store has for an answer, without the time that the bytes of a request take.
const ANSWER_SECONDS: u64 = 60;
/// Seconds during which failed requests are sent again.
const RETRY_SECONDS: u64 = 180;
/// Requests that are sent again at most this often.
const RETRIES_MAX: usize = 10;
/// The slowest line on which a large put may succeed: 256 MiB then take nine minutes.
const SLOWEST_BYTES_PER_SECOND: u64 = 512 << 10;
/// Establishing a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One request from its first byte to the last one of its answer, whatever its size.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// No bound that a user sets is larger than this.
const SECONDS_MAX: u64 = 3600;

/// Overrides [`ANSWER_SECONDS`].
const ANSWER_VARIABLE: &str = "GLEANER_STORE_TIMEOUT_SECONDS";
/// Overrides [`RETRY_SECONDS`].
const RETRY_VARIABLE: &str = "GLEANER_STORE_RETRY_SECONDS";
/// PEM file of authorities, for every store.
const CERTIFICATES_VARIABLE: &str = "SSL_CERT_FILE";
/// PEM file of authorities, for S3.
pub(super) const S3_CERTIFICATES_VARIABLE: &str = "AWS_CA_BUNDLE";
/// Variables that stores are configured by begin with one of these.
const PREFIXES: [&str; 5] = ["AWS_", "GOOGLE_", "AZURE_", "GLEANER_STORE_", "SSL_CERT_"];

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeouts {
    answer: Duration,
}

impl Timeouts {
    /// From the beginning of a request that carries `bytes` to the beginning of its answer.
    pub(super) fn answer(&self, bytes: u64) -> Duration {
        self.answer + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
    }

    /// Between two pieces of an answer.
    pub(super) fn stall(&self) -> Duration {
        self.answer
    }
}

/// Variables of the environment that concern stores. They hold credentials: never printed.
#[derive(Clone, Default)]
pub(super) struct Settings {
    variables: BTreeMap<String, String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl Settings {
    /// Keeps the variables that concern stores. Empty ones count as absent.
    pub(super) fn new(variables: impl Iterator<Item = (String, String)>) -> Self {
        let concerns = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        Self {
            variables: variables
                .filter(|(name, value)| concerns(name) && !value.is_empty())
                .collect(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The variables that begin with `prefix`, as the keys that `object_store` knows.
    pub(super) fn keys<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (String, &'a str)> {
        self.variables
            .iter()
            .filter(move |(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }

    pub(super) fn timeouts(&self) -> Result<Timeouts, String> {
        Ok(Timeouts {
            answer: self.seconds(ANSWER_VARIABLE, ANSWER_SECONDS)?,
        })
    }

    /// Which requests are sent again is decided by `object_store`: after 5xx, 408, 429 and refused
    /// or broken connections, with growing pauses that jitter.
    pub(super) fn retry(&self) -> Result<RetryConfig, String> {
        Ok(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES_MAX,
            retry_timeout: self.seconds(RETRY_VARIABLE, RETRY_SECONDS)?,
        })
    }

    fn seconds(&self, name: &str, default: u64) -> Result<Duration, String> {
        let Some(text) = self.get(name) else {
            return Ok(Duration::from_secs(default));
        };
        let seconds: Option<u64> = text.parse().ok();
        seconds
            .filter(|seconds| (1..=SECONDS_MAX).contains(seconds))
            .map(Duration::from_secs)
            .ok_or_else(|| format!("{name} is not a number of seconds from 1 to 3600"))
    }

    /// Options that every client has. `own_certificates` names a variable of one scheme.
    pub(super) fn client_options(
        &self,
        own_certificates: Option<&'static str>,
    ) -> Result<ClientOptions, String> {
        let mut options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT);
        for name in [Some(CERTIFICATES_VARIABLE), own_certificates]
            .into_iter()
            .flatten()
        {
            for certificate in self.certificates(name)? {
                options = options.with_root_certificate(certificate);
            }
        }
        Ok(options)
    }

    fn certificates(&self, name: &str) -> Result<Vec<Certificate>, String> {
        let Some(path) = self.get(name) else {
            return Ok(Vec::new());
        };
        let pem = std::fs::read(path)
            .map_err(|error| format!("{name} names {path}, which cannot be read: {error}"))?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            _ => Err(format!(
                "{name} names {path}, which holds no certificate in PEM format"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Settings::new(variables.iter().map(owned))
    }

    #[test]
    fn a_large_put_has_time_on_a_slow_line() {
        let timeouts = settings(&[]).timeouts().unwrap();
        assert_eq!(timeouts.answer(0), Duration::from_secs(60));
        assert_eq!(timeouts.answer(256 << 20), Duration::from_secs(60 + 512));
        assert_eq!(timeouts.stall(), Duration::from_secs(60));
        let timeouts = settings(&[(ANSWER_VARIABLE, "3")]).timeouts().unwrap();
        assert_eq!(timeouts.answer(1 << 20), Duration::from_secs(5));
    }

    #[test]
    fn bounds_cannot_be_switched_off() {
        for value in ["0", "-1", "soon", "3601"] {
            let message = settings(&[(RETRY_VARIABLE, value)]).retry().unwrap_err();
            assert!(message.starts_with(RETRY_VARIABLE), "{message}");
        }
    }

    #[test]
    fn certificates_must_be_there_and_be_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let name = path.display().to_string();
        let settings = settings(&[(CERTIFICATES_VARIABLE, &name)]);
        let message = settings.client_options(None).unwrap_err();
        assert!(message.contains("cannot be read"), "{message}");
        std::fs::write(&path, "nothing").unwrap();
        let message = settings.client_options(None).unwrap_err();
        assert!(message.contains("no certificate"), "{message}");
    }

    #[test]
    fn only_variables_of_stores_are_kept_and_none_is_shown() {
        let settings = settings(&[("AWS_REGION", "x"), ("AWS_TOKEN", ""), ("TOKEN", "secret")]);
        let keys: Vec<_> = settings.keys("AWS_").collect();
        assert_eq!(keys, [("aws_region".to_owned(), "x")]);
        assert!(settings.get("TOKEN").is_none());
        assert_eq!(format!("{settings:?}"), "Settings { .. }");
    }
}
