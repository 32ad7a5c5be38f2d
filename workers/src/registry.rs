//! The kinds of stages that this build knows: one list.

use gleaner_schemas::job::{Job, JobError, nearest};

use crate::stage::StageKind;

/// All kinds. A further one has a line here, and one among the modules of the crate.
pub const KINDS: &[&dyn StageKind] = &[
    &crate::importance_weights::ImportanceWeightsKind,
    &crate::select::SelectKind,
    &crate::query::QueryKind,
    &crate::train_language_model::TrainLanguageModelKind,
    &crate::loss_reduction::LossReductionKind,
    &crate::synthetic_queries::SyntheticQueriesKind,
    &crate::graded_documents::GradedDocumentsKind,
];

/// The kind of that name.
#[must_use]
pub fn kind(name: &str) -> Option<&'static dyn StageKind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// The kind of a stage of a job.
///
/// # Errors
///
/// At the place of `kind:`, with the nearest name that is known.
pub fn kind_of(
    job: &Job,
    stage: &str,
    kind_name: &str,
) -> Result<&'static dyn StageKind, JobError> {
    kind(kind_name).ok_or_else(|| {
        job.error_at(
            &format!("stages.{stage}.kind"),
            format!("there is no kind of stage `{kind_name}`"),
            nearest(kind_name, KINDS.iter().map(|kind| kind.name())),
        )
    })
}

/// Name and JSON Schema of the parameters of each kind, for the schema of the job file.
#[must_use]
pub fn params_schemas() -> Vec<(&'static str, schemars::Schema)> {
    KINDS
        .iter()
        .map(|kind| (kind.name(), kind.params_schema()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::job;

    #[test]
    fn names_are_unique_and_found() {
        for kind in KINDS {
            assert_eq!(
                super::kind(kind.name()).map(StageKind::name),
                Some(kind.name())
            );
        }
        let mut names: Vec<_> = KINDS.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
        assert_eq!(params_schemas().len(), KINDS.len());
    }

    /// Who adds a folder and forgets its line is told here, and not by users.
    #[test]
    fn every_folder_with_a_kind_is_in_the_list() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut n_kinds = 0;
        for entry in std::fs::read_dir(source).unwrap() {
            let folder = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(folder.join("mod.rs")) else {
                continue;
            };
            if let Some((_, rest)) = text.split_once("impl StageKind for ") {
                let kind = rest.split_whitespace().next().unwrap();
                let line = format!("::{kind},");
                let list = include_str!("registry.rs");
                assert!(
                    list.contains(&line),
                    "{} is not in the list",
                    folder.display()
                );
                n_kinds += 1;
            }
        }
        assert_eq!(n_kinds, KINDS.len());
    }

    #[test]
    fn an_unknown_kind_gets_the_nearest_name() {
        let job = job("  s: {kind: selct}\n");
        let error = kind_of(&job, "s", "selct").unwrap_err();
        assert_eq!(error.message, "there is no kind of stage `selct`");
        assert_eq!(error.help.as_deref(), Some("did you mean `select`?"));
        assert!(error.span.is_some());
    }
}
