//! How endpoints are used now, as the newest run says.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gleaner_schemas::{EndpointSettings, Failure, FailureKind};
use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, layout};
use tokio::time::Instant;

/// Another run may be given more money: it is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// The newest settings of the endpoints of one output.
#[derive(Debug)]
pub struct Settings {
    list: Numbered,
    newest: Mutex<Option<(Instant, u64, EndpointSettings)>>,
}

impl Settings {
    /// Of the endpoints of `output`.
    #[must_use]
    pub fn new(output: Output) -> Self {
        Self {
            list: Numbered::new(output, layout::ENDPOINTS.to_owned()),
            newest: Mutex::default(),
        }
    }

    /// The newest settings, with their number.
    ///
    /// # Errors
    ///
    /// Of the store; permanent if there are none, or of another version.
    pub async fn newest(&self) -> Result<(u64, EndpointSettings), Failure> {
        let known = self
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((looked_at, number, settings)) = known
            && looked_at.elapsed() < LOOK_AGAIN
        {
            return Ok((number, settings));
        }
        self.look().await
    }

    /// The same, as they are now.
    ///
    /// # Errors
    ///
    /// As [`Settings::newest`].
    pub async fn look(&self) -> Result<(u64, EndpointSettings), Failure> {
        let permanent = |message: String| Failure::new(FailureKind::Permanent, message);
        let Some((number, bytes)) = self.list.newest().await? else {
            return Err(permanent(
                "the output does not tell how its endpoints are used".to_owned(),
            ));
        };
        let settings: EndpointSettings = serde_json::from_slice(&bytes).map_err(|error| {
            permanent(format!(
                "entry {number} of {} cannot be read: {error}; run workers and coordinator of the \
                 same version",
                layout::ENDPOINTS
            ))
        })?;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = Some((Instant::now(), number, settings.clone()));
        Ok((number, settings))
    }
}
