//! The YAML at the top of a card, which dataset hubs and loaders read.

use std::fmt::Write as _;

use super::Told;
use super::markdown::{list, scalar};
use crate::training::size_category;

/// Files of a table that a header lists; of more it names the folder.
pub(super) const FILES_LISTED_MAX: usize = 1000;

pub(super) fn render(told: &Told<'_>) -> String {
    let Told { version, card, .. } = told;
    let mut text = format!("---\npretty_name: {}\n", scalar(told.title()));
    match told.licenses().as_slice() {
        [] => {}
        [license] => {
            let _ = writeln!(text, "license: {}", scalar(license));
        }
        licenses => {
            let _ = writeln!(text, "license: {}", list(licenses));
        }
    }
    for (key, value) in [
        ("license_name", &card.license_name),
        ("license_link", &card.license_link),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "{key}: {}", scalar(value));
        }
    }
    if let Some(languages) = &card.language {
        let _ = writeln!(text, "language: {}", list(languages));
    }
    let mut tags = vec!["gleaner".to_owned()];
    let has_kind = |kind: &str| version.stages.values().any(|stage| stage.kind == kind);
    let is_generated = has_kind("synthetic_queries") || has_kind("graded_documents");
    if is_generated {
        tags.push("synthetic".to_owned());
    }
    tags.extend(card.tags.iter().flat_map(|tags| tags.iter().cloned()));
    tags.dedup();
    let _ = writeln!(text, "tags: {}", list(&tags));
    let task = match is_generated {
        true => "text-retrieval",
        false => "text-generation",
    };
    let _ = writeln!(text, "task_categories: [{task}]");
    let main = told.main_table();
    let n_rows = main.and_then(|name| version.tables.get(name));
    if let Some(table) = n_rows {
        let _ = writeln!(
            text,
            "size_categories: [{}]",
            scalar(size_category(table.rows))
        );
    }
    let tables = told.tables();
    if !tables.is_empty() {
        text.push_str("configs:\n");
    }
    for name in tables {
        let Some(table) = version.tables.get(name) else {
            continue;
        };
        let _ = writeln!(text, "- config_name: {name}");
        if main == Some(name) {
            text.push_str("  default: true\n");
        }
        text.push_str("  data_files:\n  - split: train\n    path:\n");
        if table.files.len() > FILES_LISTED_MAX {
            let _ = writeln!(text, "    - {}", scalar(&format!("{name}/**/*.parquet")));
            continue;
        }
        // Loaders raise an error on files without rows.
        for file in table.files.iter().filter(|file| file.rows > 0) {
            let _ = writeln!(text, "    - {}", scalar(&file.path));
        }
    }
    text.push_str("---\n\n");
    text
}
