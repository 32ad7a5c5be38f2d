//! Published versions of an output.

use gleaner_schemas::Version;
use serde::Deserialize;

use crate::layout;
use crate::output::Output;
use crate::output_error::OutputError;

impl Output {
    /// Numbers of the published versions, ascending.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn version_numbers(&self) -> Result<Vec<u64>, OutputError> {
        let mut numbers: Vec<u64> = self
            .list(layout::VERSIONS)
            .await?
            .iter()
            .filter_map(|object| layout::parse_version(&object.path))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A published version.
    ///
    /// # Errors
    ///
    /// Of the store, or if the object is not a version that this build reads.
    pub async fn version(&self, number: u64) -> Result<Option<Version>, OutputError> {
        const EXPECTED: &str = "published version";
        let key = layout::version(number);
        let Some(bytes) = self.get(&key).await? else {
            return Ok(None);
        };
        // First of all the format: another one may have other keys.
        match serde_json::from_slice::<Stamp>(&bytes) {
            Ok(stamp) if !(1..=Version::FORMAT).contains(&stamp.format) => {
                Err(OutputError::Format {
                    uri: self.uri_of(&key),
                    expected: EXPECTED,
                    found: stamp.format,
                    known: Version::FORMAT,
                    writer: stamp.gleaner_version,
                })
            }
            _ => Ok(Some(self.parse_json(&key, EXPECTED, &bytes)?)),
        }
    }

    /// The newest published version: the highest number wins.
    ///
    /// # Errors
    ///
    /// As [`Output::version`].
    pub async fn latest_version(&self) -> Result<Option<Version>, OutputError> {
        match self.version_numbers().await?.last() {
            Some(number) => self.version(*number).await,
            None => Ok(None),
        }
    }
}

/// What every format of a version says.
#[derive(Deserialize)]
struct Stamp {
    format: u32,
    #[serde(default)]
    gleaner_version: String,
}
