//! Trying again while the store is unreachable.

use std::time::Duration;

use gleaner_schemas::{Failure, FailureKind};
use gleaner_storage::OutputError;
use gleaner_workers::shutdown::Shutdown;
use tokio::time::Instant;

use crate::run_error::RunError;

/// The store may be unreachable for this long before the run ends resumably. Its client has tried
/// again for minutes before it says so.
const UNREACHABLE_MAX: Duration = Duration::from_secs(120);
/// First pause; doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Tries again, with pauses, while the store is unreachable, for a bounded time.
///
/// # Errors
///
/// Of the operation, or if somebody asks to stop.
pub async fn retrying<T, F, Fut>(shutdown: &Shutdown, operation: F) -> Result<T, RunError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, OutputError>>,
{
    let started = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let error = match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.kind() != FailureKind::Transient || started.elapsed() > UNREACHABLE_MAX {
            return Err(error.into());
        }
        let failure = Failure::from(error);
        tracing::warn!(%failure, "trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.draining() => return Err(RunError::Interrupted),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
