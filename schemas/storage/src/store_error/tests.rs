use FailureKind::{Access, Permanent, Transient};
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
            Access,
            "the store denies access",
        ),
        ("403 Forbidden", "", Access, "the store denies access"),
        ("401 Unauthorized", "", Access, "the store denies access"),
        (
            "403 Forbidden",
            "InvalidAccessKeyId",
            Access,
            "does not know the access key",
        ),
        (
            "403 Forbidden",
            "SignatureDoesNotMatch",
            Access,
            "check the secret",
        ),
        (
            "403 Forbidden",
            "AuthenticationFailed",
            Access,
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
