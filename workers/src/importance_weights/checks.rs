//! What is checked of the parameters of several kinds of stages.

use std::collections::BTreeMap;

use gleaner_schemas::job::{Job, JobError, nearest};
use gleaner_schemas::units::Ratio;
use serde_json::json;

use super::params::CORPUS;

/// `input` must be the corpus or an earlier selection that holds documents.
pub(crate) fn check_input(job: &Job, name: &str, input: &str) -> Result<(), JobError> {
    if input == CORPUS {
        return Ok(());
    }
    let place = format!("stages.{name}.input");
    let earlier: Vec<&str> = job.file.stages.before(name).collect();
    if !earlier.contains(&input) {
        return Err(job.error_at(
            &place,
            format!("there is no stage `{input}` before this one"),
            nearest(input, earlier.into_iter().chain([CORPUS])),
        ));
    }
    let spec = job.file.stages.get(input);
    let holds_documents = spec.is_some_and(|spec| {
        spec.kind == "select" && spec.params.get("materialize") == Some(&json!(true))
    });
    if !holds_documents {
        return Err(job.error_at(
            &place,
            format!("the table of stage `{input}` does not hold documents"),
            Some("give it `kind: select` and `materialize: true`".to_owned()),
        ));
    }
    Ok(())
}

/// Every target has a share, nothing else has, and they do not sum to nothing.
pub(crate) fn check_proportions(
    job: &Job,
    place: &str,
    proportions: &BTreeMap<String, Ratio>,
    targets: &[String],
) -> Result<(), JobError> {
    for name in proportions.keys() {
        if !targets.contains(name) {
            return Err(job.error_at(
                &format!("{place}.{name}"),
                format!("there is no target `{name}`"),
                nearest(name, targets.iter().map(String::as_str)),
            ));
        }
    }
    if let Some(missing) = targets
        .iter()
        .find(|target| !proportions.contains_key(*target))
    {
        return Err(job.error_at(place, format!("the target `{missing}` has no share"), None));
    }
    if proportions.values().all(|share| share.is_zero()) {
        return Err(job.error_at(place, "all shares are zero", None));
    }
    Ok(())
}
