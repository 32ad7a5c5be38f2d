//! Damage in a page of Parquet is found by the page's checksum, where its writer wrote one.
//!
//! The files of `tests/data/page_checksums` are by pyarrow 26 (`compression="none",
//! use_dictionary=False, write_statistics=False, row_group_size=12`), one with
//! `write_page_checksum=True`: texts lie in them as they are, so that a text in which one letter
//! has changed is as readable as before.

use std::fs;

use gleaner_tests::corpus::jsonl;
use gleaner_tests::plain_job::{JOB, documents, lanes};
use gleaner_tests::program::{Workspace, repository};

/// A workspace whose corpus is one of the files, with one letter of row 17 changed.
fn damaged(name: &str) -> Workspace {
    let workspace = Workspace::new();
    let file = repository().join("tests/data/page_checksums").join(name);
    let mut bytes = fs::read(file).unwrap();
    let end_of_text = b" 17";
    let mut found = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(end_of_text));
    let at = found.next().unwrap();
    assert_eq!(found.next(), None);
    bytes[at - 1] ^= 1;
    workspace.write("corpus/damaged.parquet", bytes);
    workspace.write("target.jsonl", jsonl(&documents(6)));
    workspace.write("job.yaml", JOB);
    workspace
}

#[test]
fn a_page_with_a_checksum_cannot_be_damaged_unseen() {
    let workspace = damaged("with.parquet");
    let _ = workspace
        .run(&[])
        .expect(3)
        .says("corpus/damaged.parquet, row group 1: ")
        .says("CRC checksum mismatch");
    // Neither in a target.
    workspace.write("sound.jsonl", jsonl(&documents(6)));
    let arguments = [
        "--set",
        "datasets.target.paths=[corpus/damaged.parquet]",
        "--set",
        "corpus.paths=[sound.jsonl]",
    ];
    let _ = workspace
        .gleaner(&[&["validate", "job.yaml"], &arguments[..]].concat())
        .expect(2)
        .says("corpus/damaged.parquet, row group 1: ");
}

/// What the README says of files without checksums.
#[test]
fn damage_that_still_decodes_is_not_noticed_without_one() {
    let summary = damaged("without.parquet").summary(&[]);
    assert_eq!(lanes(&summary, 0)["ok"], 24);
}
