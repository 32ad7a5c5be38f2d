//! Where the broker is and how it is spoken to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gleaner_schemas::Resource;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use url::Url;

use crate::QueueError;

/// Either side counts the other as gone after twice this.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// For the network connection, TLS, the handshake and the check of the queues together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A broker that is short of memory or disk confirms nothing for as long as that lasts.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a delivery waits in this process before it is left to others.
const PASS_ON_AFTER: Duration = Duration::from_secs(30);
/// What RabbitMQ has if nobody configured it: after that it takes a delivery back.
const CONSUMER_TIMEOUT_USUAL: Duration = Duration::from_secs(30 * 60);
/// The bound of the protocol.
const VHOST_BYTES_MAX: usize = 255;
/// What stands for a secret in texts.
const HIDDEN: &str = "***";

/// Where the broker is, and what this process wants of it. Its `Debug` shows no secret.
#[derive(Clone)]
pub struct AmqpOptions {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. No vhost is the vhost `/`.
    pub url: String,
    /// The user, instead of the URL's.
    pub user: Option<String>,
    /// The password, instead of the URL's.
    pub password: Option<String>,
    /// Certificates (PEM) that the broker's is checked against, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// What this process takes tasks for. Empty for one that only publishes and looks.
    pub resources: Vec<Resource>,
    /// Tasks at a time, of each priority and resource; 0 for a process that takes none.
    pub n_slots: usize,
    /// The broker's `consumer_timeout`, where it is not the usual 30 minutes. The protocol does
    /// not tell it.
    pub consumer_timeout: Option<Duration>,
    /// Heartbeats; in whole seconds.
    pub heartbeat: Duration,
    /// Bound of the time that a connection takes until it can be used.
    pub connect_timeout: Duration,
    /// Bound of the time that the broker takes to confirm what was published.
    pub confirm_timeout: Duration,
    /// How long a delivery may wait in this process, all slots being busy, until it is left to
    /// others.
    pub pass_on_after: Duration,
}

impl AmqpOptions {
    /// The broker at `url`, for a process that takes no tasks.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user: None,
            password: None,
            ca_file: None,
            resources: Vec::new(),
            n_slots: 0,
            consumer_timeout: None,
            heartbeat: HEARTBEAT,
            connect_timeout: CONNECT_TIMEOUT,
            confirm_timeout: CONFIRM_TIMEOUT,
            pass_on_after: PASS_ON_AFTER,
        }
    }

    /// Refuses tasks that may run so long that the broker takes the delivery back: longer than
    /// half its `consumer_timeout`, since a task may wait for that long before it is begun.
    ///
    /// # Errors
    ///
    /// [`QueueError::Refused`] if `task_timeout` is too long.
    pub fn check_task_timeout(&self, task_timeout: Duration) -> Result<(), QueueError> {
        let consumer_timeout = self.consumer_timeout.unwrap_or(CONSUMER_TIMEOUT_USUAL);
        if task_timeout.saturating_mul(2) <= consumer_timeout {
            return Ok(());
        }
        let whose = match self.consumer_timeout {
            Some(_) => "the broker's consumer timeout",
            None => "RabbitMQ's usual consumer timeout",
        };
        Err(QueueError::Refused {
            message: format!(
                "a task may take {} s, and {whose} of {} s is less than twice that: the broker \
                 would give a task to others while it is worked on",
                task_timeout.as_secs_f64(),
                consumer_timeout.as_secs_f64()
            ),
            help: "shorten the task timeout, or raise consumer_timeout in rabbitmq.conf and say \
                   so with the option for the consumer timeout"
                .to_owned(),
        })
    }

    /// The address with the credentials that count. Never print it.
    pub(super) fn uri(&self) -> Result<AMQPUri, QueueError> {
        let refuse = |why: &str| QueueError::Refused {
            message: format!("the URL of the queue {:?} {why}", self.shown()),
            help: "write amqp://user:password@host:port/vhost (amqps:// for TLS), with /, @, # \
                   and % in user, password and vhost as %2F, %40, %23 and %25"
                .to_owned(),
        };
        let url = Url::parse(&self.url).map_err(|error| refuse(&format!("is none: {error}")))?;
        let scheme = match url.scheme() {
            "amqp" => AMQPScheme::AMQP,
            "amqps" => AMQPScheme::AMQPS,
            other => return Err(refuse(&format!("has the scheme {other:?}"))),
        };
        let host = match url.host_str() {
            None | Some("") => return Err(refuse("names no host")),
            Some(host) => host.trim_matches(['[', ']']).to_owned(),
        };
        // A vhost with this sign is likelier a password with a slash.
        if url.path().contains('@') {
            return Err(refuse("has an @ after the first /"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("has something after ? or #"));
        }
        let decoded = |text: &str, what: &str| {
            percent_decoded(text).ok_or_else(|| refuse(&format!("has a {what} that is not UTF-8")))
        };
        let vhost = match decoded(url.path().trim_start_matches('/'), "vhost")? {
            vhost if vhost.is_empty() => "/".to_owned(),
            vhost => vhost,
        };
        if vhost.len() > VHOST_BYTES_MAX {
            return Err(refuse("has a vhost of more than 255 bytes"));
        }
        let username = match &self.user {
            Some(user) => user.clone(),
            None if url.username().is_empty() => "guest".to_owned(),
            None => decoded(url.username(), "user")?,
        };
        let password = match (&self.password, url.password()) {
            (Some(password), _) => password.clone(),
            (None, Some(password)) => decoded(password, "password")?,
            (None, None) => "guest".to_owned(),
        };
        let port = url.port().unwrap_or(scheme.default_port());
        Ok(AMQPUri {
            scheme,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username, password },
                host,
                port,
            },
            vhost,
            query: AMQPQueryString {
                heartbeat: Some(u16::try_from(self.heartbeat.as_secs()).unwrap_or(u16::MAX)),
                ..AMQPQueryString::default()
            },
        })
    }

    /// The address as it may be shown.
    pub(super) fn shown(&self) -> String {
        redact(&self.url)
    }
}

impl fmt::Debug for AmqpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpOptions")
            .field("url", &self.shown())
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| HIDDEN))
            .field("ca_file", &self.ca_file)
            .field("resources", &self.resources)
            .field("n_slots", &self.n_slots)
            .field("consumer_timeout", &self.consumer_timeout)
            .field("heartbeat", &self.heartbeat)
            .field("connect_timeout", &self.connect_timeout)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("pass_on_after", &self.pass_on_after)
            .finish()
    }
}

/// A URL as it may be shown, logged and stored: without its password, and without anything that
/// may be part of one where the URL is malformed.
#[must_use]
pub fn redact(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if parsed.has_host() && !parsed.path().contains('@') => {
            parsed.set_query(None);
            parsed.set_fragment(None);
            if parsed.password().is_some() && parsed.set_password(Some(HIDDEN)).is_err() {
                return HIDDEN.to_owned();
            }
            parsed.into()
        }
        // A password that was not encoded: hide all that may belong to it.
        _ => match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{HIDDEN}@{rest}"),
            (None, Some((_, rest))) => format!("{HIDDEN}@{rest}"),
            (_, None) if url.contains(['?', '#']) => HIDDEN.to_owned(),
            (_, None) => url.to_owned(),
        },
    }
}

/// `None` if the bytes are not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(&byte) = bytes.get(position) {
        let escaped = match (
            byte,
            digit(bytes.get(position + 1)),
            digit(bytes.get(position + 2)),
        ) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        decoded.push(escaped.unwrap_or(byte));
        position += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for (url, shown) in [
            ("amqp://host", "amqp://host"),
            ("amqp://host:5672/%2f", "amqp://host:5672/%2f"),
            ("amqp://user@host/v", "amqp://user@host/v"),
            ("amqp://user:secret@host/v", "amqp://user:***@host/v"),
            (
                "amqps://user:sec%40ret@[::1]:1/",
                "amqps://user:***@[::1]:1/",
            ),
            ("amqp://user:sec@ret@host/v", "amqp://user:***@host/v"),
            ("amqp://user:sec/ret@host/v", "amqp://***@host/v"),
            ("amqp://user:5/secret@host/v", "amqp://***@host/v"),
            ("amqp://user:sec#ret@host/v", "amqp://***@host/v"),
            ("amqp://host/v?password=secret", "amqp://host/v"),
            ("user:secret@host", "***@host"),
            ("amqp:user:secret@host", "***@host"),
            ("", ""),
        ] {
            assert_eq!(redact(url), shown, "{url}");
            let options = AmqpOptions {
                password: Some("secret".to_owned()),
                ..AmqpOptions::new(url)
            };
            let debug = format!("{options:?}");
            assert!(!debug.contains("secret"), "{debug}");
            assert!(!debug.contains("sec@ret"), "{debug}");
            if let Err(error) = options.uri() {
                let error = format!("{error} {error:?}");
                assert!(
                    !error.contains("secret") && !error.contains("ret@"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn the_parts_of_an_address() {
        let check = |options: AmqpOptions, expect: (&str, &str, &str, u16, &str)| {
            let uri = options.uri().expect("an address");
            let user = &uri.authority.userinfo;
            let found = (
                user.username.as_str(),
                user.password.as_str(),
                uri.authority.host.as_str(),
                uri.authority.port,
                uri.vhost.as_str(),
            );
            assert_eq!(found, expect);
        };
        let new = |url: &str| AmqpOptions::new(url);
        check(new("amqp://host"), ("guest", "guest", "host", 5672, "/"));
        check(new("amqp://host/"), ("guest", "guest", "host", 5672, "/"));
        check(
            new("amqp://host/%2f"),
            ("guest", "guest", "host", 5672, "/"),
        );
        check(new("amqps://[::1]/a"), ("guest", "guest", "::1", 5671, "a"));
        check(
            new("amqp://u%40:p%2F%25@127.0.0.1:7/v%40"),
            ("u@", "p/%", "127.0.0.1", 7, "v@"),
        );
        let apart = AmqpOptions {
            user: Some("me".to_owned()),
            password: Some("p:w/@".to_owned()),
            ..new("amqp://u:p@host/v")
        };
        check(apart, ("me", "p:w/@", "host", 5672, "v"));
    }

    #[test]
    fn addresses_that_are_refused() {
        for url in [
            "",
            "host",
            "http://host",
            "amqp://",
            "amqp://u:p/w@host/v",
            "amqp://host/v?heartbeat=0",
            "amqp://host/%ff",
        ] {
            let error = AmqpOptions::new(url).uri().expect_err(url);
            assert!(
                matches!(error, QueueError::Refused { .. }),
                "{url}: {error:?}"
            );
        }
    }

    #[test]
    fn tasks_take_at_most_half_the_consumer_timeout() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let check = |consumer_timeout, task_timeout, fits: bool| {
            let options = AmqpOptions {
                consumer_timeout,
                ..AmqpOptions::new("amqp://host")
            };
            assert_eq!(options.check_task_timeout(task_timeout).is_ok(), fits);
        };
        check(None, minutes(15), true);
        check(None, minutes(16), false);
        check(Some(minutes(60)), minutes(30), true);
        check(Some(minutes(60)), minutes(31), false);
        check(Some(minutes(60)), Duration::MAX, false);
    }
}
