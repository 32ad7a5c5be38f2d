//! Tells workers how the endpoints of a job are used now. Keys stay in the environment of whoever
//! needs them.

use gleaner_schemas::job::JobFile;
use gleaner_schemas::{EndpointSettings, RunId};
use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, OutputError, layout};

/// Two coordinators may begin at once; each is faster once at most.
const CHANGES_MAX: u32 = 100;

/// Writes the settings of the job's endpoints, unless the newest say the same.
///
/// # Errors
///
/// Of the store.
pub async fn announce(
    output: &Output,
    file: &JobFile,
    run: &RunId,
    started_ms: i64,
) -> Result<(), OutputError> {
    if file.endpoints.is_empty() {
        return Ok(());
    }
    let settings = EndpointSettings {
        format: EndpointSettings::FORMAT,
        run: run.clone(),
        started_ms,
        endpoints: file.endpoints.clone(),
    };
    // Time is counted from the beginning of each run.
    let is_timed = file
        .endpoints
        .values()
        .any(|endpoint| endpoint.budget.as_ref().is_some_and(|it| it.time.is_some()));
    let list = Numbered::new(output.clone(), layout::ENDPOINTS.to_owned());
    let key = layout::numbered(layout::ENDPOINTS, 0);
    let bytes = serde_json::to_vec_pretty(&settings).map_err(|error| OutputError::Malformed {
        uri: output.uri_of(&key),
        expected: "settings of endpoints",
        message: error.to_string(),
    })?;
    for _ in 0..CHANGES_MAX {
        let newest = list.newest().await?;
        let same = newest
            .as_ref()
            .and_then(|(_, bytes)| serde_json::from_slice::<EndpointSettings>(bytes).ok())
            .is_some_and(|it| it.endpoints == settings.endpoints);
        if same && !is_timed {
            return Ok(());
        }
        let last = newest.map(|(number, _)| number);
        if list.append(last, bytes.clone().into()).await? {
            return Ok(());
        }
    }
    Ok(())
}
