//! The prompts that ship with Gleaner.

use super::template::{Prompt, PromptKind};

const FILES: &[(PromptKind, &str)] = &[
    (
        PromptKind::QueriesJoint,
        include_str!("../../prompts/queries_joint_steps.j2"),
    ),
    (
        PromptKind::QueriesJoint,
        include_str!("../../prompts/queries_joint_searchers.j2"),
    ),
    (
        PromptKind::QueriesSeparate,
        include_str!("../../prompts/queries_separate_definition.j2"),
    ),
    (
        PromptKind::QueriesSeparate,
        include_str!("../../prompts/queries_separate_searcher.j2"),
    ),
    (
        PromptKind::GradedDocuments,
        include_str!("../../prompts/graded_documents_steps.j2"),
    ),
    (
        PromptKind::GradedDocuments,
        include_str!("../../prompts/graded_documents_collection.j2"),
    ),
    (PromptKind::Judge, include_str!("../../prompts/judge.j2")),
];

/// The built-in prompts of a kind, the default first.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "the files are part of the program; a test reads each"
)]
pub fn built_in_prompts(kind: PromptKind) -> Vec<Prompt> {
    FILES
        .iter()
        .filter(|(of_kind, _)| *of_kind == kind)
        .map(|(_, text)| Prompt::parse(kind, text).expect("a built-in prompt is sound"))
        .collect()
}

/// The built-in prompt of a kind and name.
#[must_use]
pub fn built_in_prompt(kind: PromptKind, name: &str) -> Option<Prompt> {
    built_in_prompts(kind)
        .into_iter()
        .find(|prompt| prompt.name() == name)
}
