//! Makes a reply durable: it is paid for, so it is held until the store takes it.

use std::time::Duration;

use gleaner_schemas::{Failure, FailureKind};
use gleaner_storage::{Output, OutputError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stored::{self, StoredReply};

/// Pause before a reply that the store does not take is put again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The same, at most.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A store that says it will never take a reply may be mended by somebody within this time.
const REFUSED_MAX: Duration = Duration::from_secs(600);

/// Stores a reply, or returns what another worker has stored: that counts, for both. It goes on as
/// long as this process lives and the store may recover. `kept_waiting` is cancelled when the store
/// does not take the reply at once.
///
/// # Errors
///
/// Of a store that refuses it for good.
pub(super) async fn keep(
    output: &Output,
    reply: StoredReply,
    kept_waiting: &CancellationToken,
) -> Result<StoredReply, Failure> {
    let encoded = reply.encode()?;
    let request = &reply.request;
    let began = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let error = match stored::keep_reply(output, request, encoded.clone()).await {
            Ok(None) => return Ok(reply),
            Ok(Some(other)) => return Ok(other),
            Err(error) => error,
        };
        let is_of_store = matches!(error, OutputError::Store { .. });
        let may_recover = error.kind() == FailureKind::Transient || began.elapsed() < REFUSED_MAX;
        if !is_of_store || !may_recover {
            tracing::error!(%error, request, "a reply that is paid for cannot be stored");
            return Err(error.into());
        }
        tracing::warn!(%error, request, "a reply that is paid for cannot be stored yet");
        kept_waiting.cancel();
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
