//! Cosines of an encoder, run in the worker: a column of the table, and measured beside BM25.

use std::fs;
use std::path::Path;

use gleaner_models::encoder::{TextEncoder, cosine};
use gleaner_tests::program::{Workspace, repository, text};

use super::{BOTH, Server, count, job, workspace};
use crate::reports::{embedded, html_of, section};

const DOCUMENTS: usize = 6;

fn copy_encoder(to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in ["config.json", "model.safetensors", "vocab.txt"] {
        let from = repository().join("workers/models/tests/encoder").join(name);
        fs::copy(from, to.join(name)).unwrap();
    }
    // Where a file of sentence-transformers lies in a folder, it is taken along.
    let pooling = to.join("1_Pooling");
    fs::create_dir_all(&pooling).unwrap();
    fs::write(
        pooling.join("config.json"),
        r#"{"pooling_mode_cls_token": true}"#,
    )
    .unwrap();
}

fn with_encoder() -> (Server, Workspace) {
    let server = Server::answering();
    let stages = BOTH.replace("endpoint: llm}", "endpoint: llm, embeddings: encoder}");
    let workspace = workspace(DOCUMENTS, &job(&server.url(), "", &stages));
    copy_encoder(&workspace.path().join("encoder"));
    (server, workspace)
}

#[test]
fn cosines_are_those_of_the_encoder_and_are_measured() {
    let (server, workspace) = with_encoder();
    let summary = workspace.summary(&[]);
    let encoder = TextEncoder::open(&workspace.path().join("encoder")).unwrap();
    let check = |sql: &str| {
        let rows = workspace.sql(sql);
        assert!(!rows.is_empty());
        for row in rows {
            let of = |key: &str| encoder.embed(&text(&row, key)).unwrap();
            let expected = f64::from(cosine(&of("context"), &of("written")));
            let found = row["similarity"].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    };
    check(
        "SELECT c.text AS context, q.query AS written, q.similarity FROM queries q JOIN corpus c ON \
         c.id = q.doc_id WHERE q.query IS NOT NULL",
    );
    check(
        "SELECT query AS context, text AS written, similarity FROM graded WHERE text IS NOT NULL",
    );
    let without = "graded WHERE (similarity IS NULL) <> (text IS NULL)";
    assert_eq!(count(&workspace, without), 0);
    let report = embedded(&html_of(&workspace, &[]));
    for stage in summary["stages"].as_array().unwrap() {
        let found = &stage["generation"]["embeddings"];
        let all = &found["monotonicity"];
        assert!(all["low"].as_f64() <= all["mean"].as_f64(), "{stage}");
        assert!(
            all["n"].as_u64().unwrap() > 0 && all["high"].is_number(),
            "{stage}"
        );
        assert_eq!(found["steps"].as_array().unwrap().len(), 3, "{stage}");
        let name = stage["name"].as_str().unwrap();
        let quality = &section(&report, "generation", Some(name))["measures"];
        assert_eq!(&quality["embeddings"], found);
    }
    // Nothing is paid for again to leave them out.
    let n_requests = server.n_requests();
    let path = workspace.path().join("job.yaml");
    let text = fs::read_to_string(&path).unwrap();
    workspace.write("job.yaml", text.replace(", embeddings: encoder", ""));
    let ended = workspace.run(&[]).expect(0);
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("cosines"));
    assert_eq!(server.n_requests(), n_requests);
}

#[test]
fn directories_that_hold_no_encoder() {
    let (server, workspace) = with_encoder();
    let refused = |words: &str| {
        let ended = workspace.run(&[]).expect(2).says(words);
        assert!(
            ended.stderr.contains("embeddings: encoder"),
            "{}",
            ended.stderr
        );
    };
    let directory = workspace.path().join("encoder");
    fs::remove_file(directory.join("vocab.txt")).unwrap();
    refused("vocab.txt");
    fs::write(directory.join("vocab.txt"), "a\n").unwrap();
    refused("[CLS]");
    fs::remove_dir_all(&directory).unwrap();
    refused("there is no model");
    assert_eq!(server.n_requests(), 0);
}
