//! What an error of the client means for whoever uses the queue.

use std::error::Error as _;
use std::io;

use lapin::ErrorKind;

use crate::QueueError;

/// Codes of the protocol.
const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

const PERMISSIONS: &str = "give the user the permissions configure '^gleaner\\.', write \
                           '^(gleaner\\.|amq\\.default)' and read '^gleaner\\.' on the vhost \
                           (rabbitmqctl set_permissions)";

/// The error of somebody who tried `what` on the broker at `address` (without secrets).
pub(super) fn explain(error: &lapin::Error, what: &str, address: &str) -> QueueError {
    let refused = |message: String, help: String| QueueError::Refused { message, help };
    let (code, text) = match error.kind() {
        ErrorKind::ProtocolError(error) => (error.get_id(), error.get_message().to_string()),
        _ => return unreachable(error, what, address),
    };
    match code {
        ACCESS_REFUSED if is_login(&text) => refused(
            format!("the broker at {address} refuses the user or its password: {text}"),
            "check user and password; the user guest may only come from the broker's own machine"
                .to_owned(),
        ),
        ACCESS_REFUSED => refused(
            format!("the broker at {address} does not permit to {what}: {text}"),
            PERMISSIONS.to_owned(),
        ),
        NOT_ALLOWED if text.contains("not found") => refused(
            format!("the broker at {address} has no such vhost: {text}"),
            "create it (rabbitmqctl add_vhost NAME), or correct the end of the URL; the vhost / \
             is written %2f"
                .to_owned(),
        ),
        NOT_ALLOWED => refused(
            format!("the broker at {address} does not let the user into the vhost: {text}"),
            PERMISSIONS.to_owned(),
        ),
        PRECONDITION_FAILED if !is_consumer_timeout(error) => refused(
            format!("a queue on the broker at {address} has other properties than needed: {text}"),
            "stop what uses the queue that is named, delete it (rabbitmqctl delete_queue NAME; no \
             work is lost, open tasks are published again) and start again; or use another vhost"
                .to_owned(),
        ),
        _ => unreachable(error, what, address),
    }
}

/// Whether a broker that let this process in before may say so while it recovers: its users, vhosts
/// and permissions come back one after the other.
pub(super) fn may_pass(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => [ACCESS_REFUSED, NOT_ALLOWED].contains(&error.get_id()),
        _ => false,
    }
}

/// Whether the channel was closed because a delivery was kept for too long.
pub(super) fn is_consumer_timeout(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            error.get_id() == PRECONDITION_FAILED
                && error
                    .get_message()
                    .as_str()
                    .contains("delivery acknowledgement")
        }
        _ => false,
    }
}

/// Whether the other side may speak another protocol: TLS answers with bytes that cannot be read,
/// and then ends the connection; either may be seen.
fn is_no_amqp(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ParsingError(_) => true,
        ErrorKind::IOError(error) => {
            let kinds = [
                io::ErrorKind::ConnectionAborted,
                io::ErrorKind::ConnectionReset,
            ];
            kinds.contains(&error.kind())
        }
        _ => false,
    }
}

fn is_login(text: &str) -> bool {
    text.contains("Login was refused") || text.contains("can only connect via localhost")
}

fn unreachable(error: &lapin::Error, what: &str, address: &str) -> QueueError {
    // The outermost message of an I/O error often says less than the innermost.
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    let hint = if text.contains("UnknownIssuer") {
        "; its certificate is signed by an authority that is not known here: give the file with \
         that authority's certificate as the CA file of the queue"
    } else if text.contains("not valid for name") || text.contains("NotValidForName") {
        "; its certificate is for another host name than the URL's"
    } else if text.contains("corrupt message") || text.contains("InvalidContentType") {
        "; does that port speak TLS? amqp:// is without"
    } else if is_no_amqp(error) && address.starts_with("amqp:") {
        "; does that port speak AMQP without TLS? amqps:// is with"
    } else {
        ""
    };
    QueueError::Unreachable(format!("cannot {what} at {address}: {text}{hint}"))
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPSoftError};

    use super::*;

    #[test]
    fn a_consumer_timeout_is_no_wrong_queue() {
        let error = |text: &str| {
            let error = AMQPError::new(AMQPSoftError::PRECONDITIONFAILED.into(), text.into());
            lapin::Error::from(ErrorKind::ProtocolError(error))
        };
        let timeout = error(
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value \
             used: 3000 ms.",
        );
        let arguments =
            error("PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'gleaner.dead'");
        assert!(is_consumer_timeout(&timeout));
        assert!(!is_consumer_timeout(&arguments));
        assert!(matches!(
            explain(&timeout, "receive", "amqp://host"),
            QueueError::Unreachable(_)
        ));
        assert!(matches!(
            explain(&arguments, "check the queues", "amqp://host"),
            QueueError::Refused { .. }
        ));
    }
}
