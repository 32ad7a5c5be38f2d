//! What is said of codes, kinds and keys is complete.

use std::collections::BTreeSet;
use std::fs;

use gleaner_coordinator::diagnostics::Exit;
use gleaner_schemas::FailureKind;
use gleaner_tests::program::{gleaner, repository};

use super::read;

/// First cells of the rows of all tables, without quotes.
fn first_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.flat_map(|row| row.split(" |").next().unwrap().split(", "))
        .map(|cell| cell.trim_matches('`').to_owned())
        .collect()
}

#[test]
fn every_exit_code_and_failure_has_its_row() {
    let guide = read("operators-guide.md");
    let rows = first_cells(&guide);
    let codes = (0..=u8::MAX).filter(|code| Exit::of_code(*code).code() == *code);
    let codes: Vec<u8> = codes.chain([75]).collect();
    assert!(codes.len() >= 9, "{codes:?}");
    for code in codes {
        assert!(rows.contains(&code.to_string()), "exit code {code}");
    }
    for kind in [
        FailureKind::Transient,
        FailureKind::Memory,
        FailureKind::Permanent,
        FailureKind::Access,
        FailureKind::Endpoint,
        FailureKind::Budget,
    ] {
        assert!(rows.contains(&kind.to_string()), "{kind}");
    }
    // Names that stand in two crates which tests do not see otherwise.
    let classes = quoted_after("workers/endpoint/src/failure.rs", "=> \"");
    assert!(classes.len() >= 15, "{classes:?}");
    for class in classes {
        assert!(rows.contains(&class), "{class}");
    }
    let flags = quoted_after("workers/generation/src/flags.rs", " = \"");
    assert!(flags.len() >= 10, "{flags:?}");
    for flag in flags {
        assert!(guide.contains(&format!("`{flag}`")), "{flag}");
    }
}

/// Snake-case texts behind a mark in a source file.
fn quoted_after(path: &str, mark: &str) -> Vec<String> {
    let source = fs::read_to_string(repository().join(path)).unwrap();
    let found = source.split(mark).skip(1);
    let found = found.filter_map(|rest| rest.split_once('"'));
    let is_name = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    found
        .map(|(text, _)| text.to_owned())
        .filter(|text| !text.is_empty() && is_name(text))
        .collect()
}

#[test]
fn the_reference_of_the_job_file_is_the_one_that_is_checked_in() {
    let printed = gleaner(&repository(), &["schema", "--format", "markdown"]).expect(0);
    assert!(
        read("job-file.md") == printed.stdout,
        "docs/job-file.md is not what the program prints; make it anew:\n  cargo run --locked \
         --bin gleaner -- schema --format markdown > docs/job-file.md"
    );
}
