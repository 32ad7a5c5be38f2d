//! What an error of a store means, and what to do about it. The one place where answers of stores
//! become sentences; no text that leaves here holds a credential.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use gleaner_schemas::FailureKind;
use gleaner_schemas::failure::error_chain;
use object_store::client::{HttpError, HttpErrorKind};

use crate::redact::redact;
use crate::stores::Refusal;

/// What is wrong, as far as the store's answer or the lack of one tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreProblem {
    /// There is no such object.
    Missing,
    /// There is no such bucket or container.
    BucketMissing,
    /// The credentials are good, but not for this.
    AccessDenied,
    /// The store does not know the key.
    KeyUnknown,
    /// The secret does not belong to the key, or the request was changed on its way.
    SecretWrong,
    /// There are no credentials to be found.
    CredentialsMissing,
    /// The session's token has run out, or is not of this session.
    TokenExpired,
    /// This machine's clock differs too much from the store's.
    ClockSkew,
    /// The bucket is elsewhere.
    RegionWrong {
        /// Where, if the store tells.
        region: Option<String>,
    },
    /// The name of the store's host does not resolve.
    HostUnknown,
    /// Nothing listens at the store's address.
    Refused,
    /// The store's certificate is not signed by a known authority.
    CertificateUnknown,
    /// No answer, or no more of it, in time.
    Timeout,
    /// The connection broke.
    Disconnected,
    /// The store asks for fewer requests.
    Throttled,
    /// The store failed by itself.
    ServerError,
    /// The object is another one than the one that is expected.
    Changed,
    /// There is an object already.
    Exists,
    /// The store cannot do this.
    Unsupported,
    /// The disk is full, or the file system forbids it.
    Disk,
    /// Anything else.
    Other {
        /// Whether trying again may help.
        is_transient: bool,
    },
}

impl StoreProblem {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Missing
            | Self::BucketMissing
            | Self::AccessDenied
            | Self::KeyUnknown
            | Self::SecretWrong
            | Self::CredentialsMissing
            | Self::RegionWrong { .. }
            | Self::CertificateUnknown
            | Self::Changed
            | Self::Unsupported
            | Self::Disk
            | Self::Other {
                is_transient: false,
            } => FailureKind::Permanent,
            // A token can be renewed and a clock be set while a run waits.
            Self::TokenExpired
            | Self::ClockSkew
            | Self::HostUnknown
            | Self::Refused
            | Self::Timeout
            | Self::Disconnected
            | Self::Throttled
            | Self::ServerError
            | Self::Exists
            | Self::Other { is_transient: true } => FailureKind::Transient,
        }
    }

    /// What is wrong and what to do, without a full stop. `None` if only the store's words tell.
    fn sentence(&self) -> Option<String> {
        let sentence = match self {
            Self::BucketMissing => {
                "the bucket does not exist; create it, or correct its name in the URI"
            }
            Self::AccessDenied => {
                "the store denies access; allow these credentials to list, read, write and delete \
                 there"
            }
            Self::KeyUnknown => {
                "the store does not know the access key; check the key \
                 (AWS_ACCESS_KEY_ID for S3) and the endpoint"
            }
            Self::SecretWrong => {
                "the store does not accept the signature; check the secret \
                 (AWS_SECRET_ACCESS_KEY for S3, AZURE_STORAGE_ACCOUNT_KEY for Azure)"
            }
            Self::CredentialsMissing => {
                "there are no credentials for the store; set them in the environment \
                 (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, \
                 AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY); profiles of other \
                 tools are not read"
            }
            Self::TokenExpired => {
                "the session token has expired or is not valid; get new credentials, set all of \
                 them (AWS_SESSION_TOKEN for S3), and run the job again"
            }
            Self::ClockSkew => {
                "the clock of this machine differs too much from the store's; set it, and run the \
                 job again"
            }
            Self::RegionWrong {
                region: Some(region),
            } => {
                return Some(format!(
                    "the bucket is in the region {region}; set AWS_REGION={region}"
                ));
            }
            Self::RegionWrong { region: None } => {
                "the bucket is in another region, or behind another endpoint; set AWS_REGION and \
                 AWS_ENDPOINT_URL"
            }
            Self::HostUnknown => {
                "the name of the store's host cannot be resolved; check the endpoint \
                 (AWS_ENDPOINT_URL for S3) and the network"
            }
            Self::Refused => {
                "nothing listens at the store's address; check the endpoint (AWS_ENDPOINT_URL for \
                 S3), and whether the store is up"
            }
            Self::CertificateUnknown => {
                "the store's certificate cannot be trusted; name the PEM file of its authority in \
                 SSL_CERT_FILE (AWS_CA_BUNDLE for S3), or correct the host name"
            }
            Self::Timeout => "the store did not answer in time",
            Self::Disconnected => "the connection to the store broke",
            Self::Throttled => "the store asks for fewer requests",
            Self::ServerError => "the store failed by itself",
            Self::Missing
            | Self::Changed
            | Self::Exists
            | Self::Unsupported
            | Self::Disk
            | Self::Other { .. } => return None,
        };
        Some(sentence.to_owned())
    }
}

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
                let problem = match has_lasting_cause(&error) {
                    true => StoreProblem::Disk,
                    false => StoreProblem::Other { is_transient: true },
                };
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
                None => StoreProblem::Disk,
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
    if has_lasting_cause(error) {
        return StoreProblem::Disk;
    }
    StoreProblem::Other { is_transient: true }
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
                    | ErrorKind::PermissionDenied
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
mod tests {
    use FailureKind::{Permanent, Transient};
    use object_store::Error;

    use super::*;

    /// An error as `object_store` words it.
    fn answered(status: &str, body: &str) -> Error {
        let text = format!(
            "Error performing PUT http://h/b/k in 1ms - Server returned non-2xx status code: \
             {status}: {body}"
        );
        let (path, source) = ("k".to_owned(), text.into());
        match status.split(' ').next() {
            Some("404") => Error::NotFound { path, source },
            Some("403") => Error::PermissionDenied { path, source },
            Some("401") => Error::Unauthenticated { path, source },
            Some("412") => Error::Precondition { path, source },
            _ => Error::Generic {
                store: "S3",
                source,
            },
        }
    }

    fn code(code: &str) -> String {
        format!("<Error><Code>{code}</Code><Message>m</Message></Error>")
    }

    #[test]
    fn each_answer_has_its_sentence_and_its_kind() {
        let cases = [
            (
                "404 Not Found",
                "NoSuchBucket",
                Permanent,
                "the bucket does not exist",
            ),
            (
                "404 Not Found",
                "ContainerNotFound",
                Permanent,
                "the bucket does not exist",
            ),
            (
                "403 Forbidden",
                "AccessDenied",
                Permanent,
                "the store denies access",
            ),
            ("403 Forbidden", "", Permanent, "the store denies access"),
            ("401 Unauthorized", "", Permanent, "the store denies access"),
            (
                "403 Forbidden",
                "InvalidAccessKeyId",
                Permanent,
                "does not know the access key",
            ),
            (
                "403 Forbidden",
                "SignatureDoesNotMatch",
                Permanent,
                "check the secret",
            ),
            (
                "403 Forbidden",
                "AuthenticationFailed",
                Permanent,
                "AZURE_STORAGE_ACCOUNT_KEY",
            ),
            (
                "400 Bad Request",
                "ExpiredToken",
                Transient,
                "session token has expired",
            ),
            (
                "400 Bad Request",
                "InvalidToken",
                Transient,
                "session token has expired",
            ),
            (
                "403 Forbidden",
                "RequestTimeTooSkewed",
                Transient,
                "the clock of this machine",
            ),
            (
                "400 Bad Request",
                "PermanentRedirect",
                Permanent,
                "another region",
            ),
            (
                "400 Bad Request",
                "AuthorizationHeaderMalformed",
                Permanent,
                "AWS_REGION",
            ),
            (
                "503 Slow Down",
                "SlowDown",
                Transient,
                "asks for fewer requests",
            ),
            ("429 Too Many", "", Transient, "asks for fewer requests"),
            ("500 Oops", "InternalError", Transient, "failed by itself"),
            ("502 Bad Gateway", "", Transient, "failed by itself"),
            (
                "400 Bad Request",
                "InvalidArgument",
                Permanent,
                "InvalidArgument",
            ),
        ];
        for (status, name, kind, words) in cases {
            let error = StoreError::of(&answered(status, &code(name)));
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(text.contains(words), "{text}");
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn a_region_that_the_store_tells_is_told() {
        let body = "<Error><Code>PermanentRedirect</Code><Region>eu-west-1</Region></Error>";
        let text = StoreError::of(&answered("400 Bad Request", body)).to_string();
        assert!(text.contains("set AWS_REGION=eu-west-1"), "{text}");
    }

    #[test]
    fn what_is_missing_is_told_from_a_missing_bucket() {
        assert!(is_missing(&answered("404 Not Found", &code("NoSuchKey"))));
        assert!(is_missing(&answered("404 Not Found", "")));
        assert!(!is_missing(&answered(
            "404 Not Found",
            &code("NoSuchBucket")
        )));
        assert!(!is_missing(&answered("403 Forbidden", &code("NoSuchKey"))));
    }

    #[test]
    fn refusals_that_come_with_success_count() {
        let text = "DeleteObjects request failed for key a: no (code: AccessDenied)";
        let error = Error::Generic {
            store: "S3",
            source: text.into(),
        };
        assert_eq!(
            *StoreError::of(&error).problem(),
            StoreProblem::AccessDenied
        );
        let text = format!("Server returned error response: {}", code("SlowDown"));
        let error = Error::Generic {
            store: "S3",
            source: text.into(),
        };
        assert_eq!(*StoreError::of(&error).problem(), StoreProblem::Throttled);
    }

    fn transport(kind: HttpErrorKind, cause: io::Error) -> StoreError {
        StoreError::of(&Error::Generic {
            store: "S3",
            source: Box::new(HttpError::new(kind, cause)),
        })
    }

    #[test]
    fn connections_that_fail_say_where() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let cases = [
            (refused, StoreProblem::Refused),
            (
                io::Error::other("dns error: no such name"),
                StoreProblem::HostUnknown,
            ),
            (
                io::Error::other("invalid peer certificate: UnknownIssuer"),
                StoreProblem::CertificateUnknown,
            ),
            (
                io::Error::other(METADATA_ABSENT),
                StoreProblem::CredentialsMissing,
            ),
            (io::Error::other("broken"), StoreProblem::Disconnected),
        ];
        for (cause, problem) in cases {
            let error = transport(HttpErrorKind::Connect, cause);
            assert_eq!(*error.problem(), problem);
            assert!(
                error.to_string().contains(" ("),
                "the cause is told: {error}"
            );
        }
        let late = transport(HttpErrorKind::Timeout, io::Error::other("late"));
        assert_eq!(*late.problem(), StoreProblem::Timeout);
    }

    #[test]
    fn errors_of_the_disk_last() {
        let full = |kind: io::ErrorKind| Error::Generic {
            store: "local",
            source: Box::new(io::Error::from(kind)),
        };
        let kinds = [
            io::ErrorKind::StorageFull,
            io::ErrorKind::ReadOnlyFilesystem,
        ];
        for kind in kinds {
            assert_eq!(store_error_kind(&full(kind)), Permanent);
        }
        assert_eq!(
            store_error_kind(&full(io::ErrorKind::Interrupted)),
            Transient
        );
    }

    #[test]
    fn errors_behind_adapters_are_found_and_secrets_are_not_shown() {
        let inner = answered("403 Forbidden", &code("AccessDenied"));
        let error = StoreError::from(io::Error::other(inner));
        assert_eq!(*error.problem(), StoreProblem::AccessDenied);
        let text = "GET https://a.blob/c?sv=1&sig=hunter2 failed; Authorization: hunter2";
        let error = StoreError::of(&Error::Generic {
            store: "Azure",
            source: text.into(),
        });
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(StdError::source(&error).is_none());
    }
}
