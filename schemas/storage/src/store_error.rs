//! What an error of a store means, and what to do about it. The one place where answers of stores
//! become sentences; no text that leaves here holds a credential.

mod problem;

use std::error::Error as StdError;
use std::fmt;
use std::io;

use gleaner_schemas::FailureKind;
use gleaner_schemas::failure::error_chain;
use object_store::client::{HttpError, HttpErrorKind};

pub use problem::StoreProblem;

use crate::redact::redact;
use crate::stores::Refusal;

/// An error of a store, in words that help. Holds no secret, and is its own last cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    problem: StoreProblem,
    /// The store's own words.
    detail: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem.sentence() {
            Some(sentence) if self.detail.is_empty() => f.write_str(&sentence),
            Some(sentence) => write!(f, "{sentence} ({})", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

impl StdError for StoreError {}

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> Self {
        Self::of(&error)
    }
}

impl From<io::Error> for StoreError {
    /// Of an adapter that reads or writes objects like files.
    fn from(error: io::Error) -> Self {
        match object_store_error(&error) {
            Some(error) => Self::of(error),
            None => {
                let problem = problem_of_cause(&error);
                Self {
                    problem,
                    detail: redact(&error_chain(&error)),
                }
            }
        }
    }
}

impl StoreError {
    /// What the error means.
    #[must_use]
    pub fn of(error: &object_store::Error) -> Self {
        let text = error_chain(error);
        let answer = Answer::of(&text);
        let transport = transport(error);
        let problem = problem(error, answer.as_ref(), transport, &text);
        let detail = match (&problem.sentence(), &answer, transport) {
            (Some(_), Some(answer), _) => answer.to_string(),
            (Some(_), None, Some(http)) => last_cause(http),
            _ => redact(&text),
        };
        Self { problem, detail }
    }

    /// What it means that a request got no answer.
    pub(crate) fn of_transport(error: &HttpError) -> Self {
        Self {
            problem: problem_of_transport(error, &error_chain(error)),
            detail: last_cause(error),
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &StoreProblem {
        &self.problem
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.problem.kind()
    }
}

/// The status and the refusal that an HTTP store answered with.
struct Answer {
    status: u16,
    refusal: Refusal,
}

impl Answer {
    /// `object_store` keeps the answer in its text alone.
    fn of(text: &str) -> Option<Self> {
        if let Some((_, after)) = text.split_once("non-2xx status code: ") {
            let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
            return Some(Self {
                status: digits.parse().ok()?,
                refusal: Refusal::parse(after),
            });
        }
        // Some refusals come with 200, and those of deletions one by one.
        let refusal = if let Some((_, after)) = text.split_once("returned error response: ") {
            Refusal::parse(after)
        } else {
            let (_, after) = text.split_once("DeleteObjects request failed for key ")?;
            let (_, code) = after.rsplit_once("(code: ")?;
            Refusal {
                code: code.trim_end_matches(')').to_owned(),
                ..Refusal::default()
            }
        };
        Some(Self {
            status: 200,
            refusal,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it answered {}", self.status)?;
        if !self.refusal.code.is_empty() {
            write!(f, " {}", self.refusal.code)?;
        }
        if !self.refusal.message.is_empty() {
            write!(f, ": {}", self.refusal.message)?;
        }
        Ok(())
    }
}

/// What an error code says; `None` if it says no more than the status.
fn problem_of_code(refusal: &Refusal) -> Option<StoreProblem> {
    Some(match refusal.code.as_str() {
        "NoSuchBucket" | "ContainerNotFound" | "FilesystemNotFound" => StoreProblem::BucketMissing,
        "NoSuchKey" | "BlobNotFound" | "PathNotFound" => StoreProblem::Missing,
        "AuthorizationFailure" if refusal.message.contains("failed to authenticate") => {
            StoreProblem::SecretWrong
        }
        "AccessDenied"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "InsufficientAccountPermissions"
        | "PublicAccessNotPermitted" => StoreProblem::AccessDenied,
        "InvalidAccessKeyId" => StoreProblem::KeyUnknown,
        "SignatureDoesNotMatch" | "AuthenticationFailed" => StoreProblem::SecretWrong,
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => {
            StoreProblem::TokenExpired
        }
        "RequestTimeTooSkewed" | "RequestExpired" => StoreProblem::ClockSkew,
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => StoreProblem::RegionWrong {
            region: refusal.region.clone(),
        },
        "SlowDown" | "ServerBusy" | "TooManyRequests" | "RequestLimitExceeded" => {
            StoreProblem::Throttled
        }
        "RequestTimeout" | "OperationTimedOut" => StoreProblem::Timeout,
        "InternalError" => StoreProblem::ServerError,
        _ => return None,
    })
}

fn problem(
    error: &object_store::Error,
    answer: Option<&Answer>,
    transport: Option<&HttpError>,
    text: &str,
) -> StoreProblem {
    use object_store::Error;
    if let Some(problem) = answer.and_then(|answer| problem_of_code(&answer.refusal)) {
        return problem;
    }
    match error {
        Error::NotFound { .. } => return StoreProblem::Missing,
        Error::Precondition { .. } | Error::NotModified { .. } => return StoreProblem::Changed,
        Error::AlreadyExists { .. } => return StoreProblem::Exists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            return match answer {
                Some(_) => StoreProblem::AccessDenied,
                None => StoreProblem::FileDenied,
            };
        }
        Error::NotSupported { .. } | Error::NotImplemented { .. } => {
            return StoreProblem::Unsupported;
        }
        Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => {
            return StoreProblem::Other {
                is_transient: false,
            };
        }
        _ => {}
    }
    if let Some(answer) = answer {
        return match answer.status {
            301 | 302 | 307 | 308 => StoreProblem::RegionWrong {
                region: answer.refusal.region.clone(),
            },
            408 => StoreProblem::Timeout,
            429 | 503 => StoreProblem::Throttled,
            500..=599 => StoreProblem::ServerError,
            200..=299 => StoreProblem::Other { is_transient: true },
            // A request that is wrong in itself is as wrong the next time.
            _ => StoreProblem::Other {
                is_transient: false,
            },
        };
    }
    if text.contains("redirect without LOCATION") {
        return StoreProblem::RegionWrong { region: None };
    }
    if let Some(transport) = transport {
        return problem_of_transport(transport, text);
    }
    problem_of_cause(error)
}

/// What the file system says.
fn problem_of_cause(error: &(dyn StdError + 'static)) -> StoreProblem {
    let is_denied = caused_by(error, |error| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    });
    if is_denied {
        StoreProblem::FileDenied
    } else if has_lasting_cause(error) {
        StoreProblem::Disk
    } else {
        StoreProblem::Other { is_transient: true }
    }
}

fn problem_of_transport(error: &HttpError, text: &str) -> StoreProblem {
    if text.contains(METADATA_ABSENT) {
        return StoreProblem::CredentialsMissing;
    }
    if is_untrusted(error) {
        return StoreProblem::CertificateUnknown;
    }
    let lowered = text.to_ascii_lowercase();
    if [
        "dns error",
        "failed to lookup address",
        "name or service not known",
    ]
    .iter()
    .any(|part| lowered.contains(part))
    {
        return StoreProblem::HostUnknown;
    }
    let refused = caused_by(error, |error| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    if refused {
        return StoreProblem::Refused;
    }
    let is_late = caused_by(error, |error| {
        error
            .downcast_ref::<HttpError>()
            .is_some_and(|error| error.kind() == HttpErrorKind::Timeout)
    });
    if is_late {
        return StoreProblem::Timeout;
    }
    StoreProblem::Disconnected
}

/// What the connector says instead of asking a metadata service that is not there again.
pub(crate) const METADATA_ABSENT: &str = "there is no metadata service to ask for credentials";

/// Whether a connection failed because of the other side's certificate. TLS is below what can be
/// named here, so its text has to do.
pub(crate) fn is_untrusted(error: &HttpError) -> bool {
    caused_by(error, |error| {
        error.to_string().contains("invalid peer certificate")
    })
}

fn caused_by(
    error: &(dyn StdError + 'static),
    matches: impl Fn(&(dyn StdError + 'static)) -> bool,
) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if matches(error) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn transport(error: &object_store::Error) -> Option<&HttpError> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http);
        }
        cause = error.source();
    }
    None
}

fn last_cause(error: &HttpError) -> String {
    let mut last: &(dyn StdError + 'static) = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    redact(&last.to_string())
}

/// The error of a store within an error of an adapter.
fn object_store_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a object_store::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<object_store::Error>() {
            return Some(found);
        }
        // An io::Error hides what it holds from `source`.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        cause = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

/// Whether the file system refuses what trying again cannot change.
fn has_lasting_cause(error: &(dyn StdError + 'static)) -> bool {
    use io::ErrorKind;
    caused_by(error, |error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                ErrorKind::StorageFull
                    | ErrorKind::QuotaExceeded
                    | ErrorKind::FileTooLarge
                    | ErrorKind::ReadOnlyFilesystem
                    | ErrorKind::NotADirectory
                    | ErrorKind::IsADirectory
            )
        })
    })
}

/// What to do about an error of a store.
#[must_use]
pub fn store_error_kind(error: &object_store::Error) -> FailureKind {
    StoreError::of(error).kind()
}

/// Whether there is no such object, in a bucket that exists.
pub(crate) fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
        && *StoreError::of(error).problem() == StoreProblem::Missing
}

#[cfg(test)]
mod tests;
