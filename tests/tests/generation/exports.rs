//! Training sets as their trainers read them, made of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use gleaner_scripted_endpoint::{Play, Request, Script};
use gleaner_tests::program::{Workspace, files, number, text};
use serde_json::{Value, json};

use super::{BOTH, MARK, Server, documents, job, with_marked, workspace, workspace_of};

const SPLITS: [&str; 3] = ["train", "dev", "test"];
const GROUP: usize = 4;

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn values(path: &Path) -> Vec<Value> {
    lines(path)
        .iter()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn is_trainers_id(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && !id.contains(char::is_whitespace)
}

fn exported(workspace: &Workspace, format: &str) -> Value {
    let split = "train=0.6,dev=0.2,test=0.2";
    let arguments = [
        "export", "out", "graded", "--format", format, "--to", format, "--split", split, "--json",
    ];
    let mut events = workspace.gleaner(&arguments).expect(0).events();
    events.pop().unwrap()
}

/// Queries that tables have, with their source documents.
fn sources(workspace: &Workspace) -> BTreeMap<String, String> {
    let rows = workspace.sql("SELECT DISTINCT query_id, source_doc_id FROM graded");
    rows.iter()
        .map(|row| (text(row, "query_id"), text(row, "source_doc_id")))
        .collect()
}

fn check_beir(workspace: &Workspace, report: &Value) {
    let folder = workspace.path().join("beir");
    let queries: BTreeMap<String, String> = values(&folder.join("queries.jsonl"))
        .iter()
        .map(|query| (text(query, "_id"), text(query, "text")))
        .collect();
    let mut documents = BTreeSet::new();
    for document in values(&folder.join("corpus.jsonl")) {
        let keys: BTreeSet<&str> = document
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(keys, BTreeSet::from(["_id", "title", "text"]));
        assert!(!text(&document, "text").is_empty());
        assert!(documents.insert(text(&document, "_id")), "{document}");
    }
    let sources = sources(workspace);
    let (mut seen_queries, mut seen_documents) = (BTreeSet::new(), BTreeSet::new());
    let mut split_of_source: BTreeMap<String, &str> = BTreeMap::new();
    let mut split_of_words: BTreeMap<String, &str> = BTreeMap::new();
    for split in SPLITS {
        let rows = lines(&folder.join(format!("qrels/{split}.tsv")));
        assert!(rows.len() > GROUP, "{split} has no queries");
        assert_eq!(rows[0], "query-id\tcorpus-id\tscore");
        let mut groups: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for row in &rows[1..] {
            let [query, document, score] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{row}");
            };
            assert!(is_trainers_id(query) && is_trainers_id(document), "{row}");
            assert!(queries.contains_key(query), "{row}");
            assert!(documents.contains(document), "{row}");
            let group = groups.entry(query.to_owned()).or_default();
            let earlier = group.insert(document.to_owned(), score.parse().unwrap());
            assert!(earlier.is_none(), "{row} is there twice");
            seen_documents.insert(document.to_owned());
        }
        for (query, group) in groups {
            let grades: BTreeSet<i64> = group.values().copied().collect();
            assert_eq!(grades, BTreeSet::from([0, 1, 2, 3]), "{query}");
            assert_eq!(group.len(), GROUP, "{query}");
            // Neither a source document nor a text stands in two splits.
            let source = &sources[&query];
            let known = split_of_source.entry(source.clone()).or_insert(split);
            assert_eq!(*known, split, "{source}");
            let words = queries[&query].to_lowercase();
            let known = split_of_words.entry(words.clone()).or_insert(split);
            assert_eq!(*known, split, "{words}");
            assert!(
                seen_queries.insert(query.clone()),
                "{query} is in two splits"
            );
        }
    }
    assert_eq!(seen_queries, queries.keys().cloned().collect());
    assert_eq!(seen_documents, documents);
    let told: u64 = SPLITS
        .iter()
        .map(|split| number(&report["queries"], split))
        .sum();
    assert_eq!(told, queries.len() as u64);
    // Incomplete ones are left out, and counted.
    let n_ok = workspace.sql(
        "SELECT count(DISTINCT query_id) AS n, (SELECT count(*) FROM (SELECT query_id, count(*) AS \
         n FROM graded WHERE status = 'ok' GROUP BY query_id) WHERE n < 4) AS incomplete FROM \
         graded WHERE status = 'ok'",
    );
    let n_incomplete = number(&n_ok[0], "incomplete");
    assert_eq!(told + n_incomplete, number(&n_ok[0], "n"));
    assert_eq!(
        report["left_out"]["incomplete"].as_u64().unwrap_or(0),
        n_incomplete
    );
}

#[test]
fn training_sets_load_with_whole_groups_and_no_leak_between_splits() {
    let server = Server::answering();
    let workspace = workspace(24, &job(&server.url(), "", BOTH));
    let _ = workspace.run(&[]).expect(0);
    check_beir(&workspace, &exported(&workspace, "beir"));
    let n_queries = |report: &Value| -> u64 {
        SPLITS
            .iter()
            .map(|split| number(&report["queries"], split))
            .sum()
    };
    // Each of the others has a line of a fixed form for each query, or for each document of it.
    let formats: [(&str, &[&str], u64); 5] = [
        (
            "tevatron",
            &[
                "negative_passages",
                "positive_passages",
                "query",
                "query_id",
            ],
            1,
        ),
        (
            "flag-embedding",
            &["neg", "neg_scores", "pos", "pos_scores", "query"],
            1,
        ),
        (
            "sentence-transformers-lists",
            &["docs", "labels", "query"],
            1,
        ),
        (
            "sentence-transformers-triplets",
            &[
                "anchor",
                "negative_1",
                "negative_2",
                "negative_3",
                "positive",
            ],
            1,
        ),
        (
            "sentence-transformers-pairs",
            &["score", "sentence1", "sentence2"],
            GROUP as u64,
        ),
    ];
    for (format, keys, per_query) in formats {
        let report = exported(&workspace, format);
        let mut n_lines = 0;
        for split in SPLITS {
            for value in values(&workspace.path().join(format!("{format}/{split}.jsonl"))) {
                let found = value.as_object().unwrap().keys();
                let found: BTreeSet<&str> = found.map(String::as_str).collect();
                assert_eq!(found, keys.iter().copied().collect(), "{format}");
                for list in ["docs", "labels"] {
                    if let Some(list) = value.get(list) {
                        assert_eq!(list.as_array().unwrap().len(), GROUP);
                    }
                }
                n_lines += 1;
            }
        }
        assert_eq!(n_lines, n_queries(&report) * per_query, "{format}");
        assert!(n_lines > 0, "{format}");
    }
    let report = exported(&workspace, "trec");
    let mut n_topics = 0;
    for split in SPLITS {
        let folder = workspace.path().join("trec");
        n_topics += lines(&folder.join(format!("topics.{split}.tsv"))).len() as u64;
        for row in lines(&folder.join(format!("qrels.{split}.txt"))) {
            let cells: Vec<&str> = row.split(' ').collect();
            assert_eq!((cells.len(), cells[1]), (4, "0"), "{row}");
        }
    }
    assert_eq!(n_topics, n_queries(&report));
    // Each tells of itself.
    for folder in ["beir", "trec", "tevatron"] {
        let all = files(&workspace.path().join(folder));
        let has_card = all.iter().any(|path| path.ends_with("README.md"));
        assert!(has_card, "{folder}: {all:?}");
    }
}

/// Answers with documents of all grades but the highest; with all of them for queries that have the
/// mark.
fn without_highest_grade() -> Script {
    Arc::new(move |request: &Request| {
        let asked = request.body.to_string();
        if asked.contains(MARK) || !asked.contains("passage_1") {
            return Play::Answer;
        }
        let passage = |place: usize, label: &str| {
            let number = request.number;
            format!(
                r#""passage_{place}": {{"label": "{label}", "passage": "Text {number} of {label}."}}"#
            )
        };
        let text = format!(
            "{{{}, {}, {}}}",
            passage(2, "highly_relevant"),
            passage(3, "related"),
            passage(4, "irrelevant")
        );
        Play::Text(text, "stop")
    })
}

#[test]
fn a_grade_that_most_queries_lack_makes_no_smaller_groups() {
    let server = Server::playing(without_highest_grade());
    let documents = with_marked(12);
    let workspace = workspace_of(&documents);
    // Checks of single texts are not what is tested.
    let stages = "
  queries: {kind: synthetic_queries, endpoint: llm, filter: {reject: []}}
  graded: {kind: graded_documents, input: queries, endpoint: llm, filter: {reject: []}}
";
    workspace.write("job.yaml", job(&server.url(), "", stages));
    let _ = workspace.run(&[]).expect(0);
    let usual = workspace.sql(
        "SELECT count(*) FILTER (WHERE n = 3) AS three, count(*) FILTER (WHERE n = 4) AS four FROM \
         (SELECT query_id, count(*) AS n FROM graded WHERE status = 'ok' GROUP BY query_id)",
    );
    let (three, four) = (number(&usual[0], "three"), number(&usual[0], "four"));
    assert!(three > four, "{usual:?}");
    let export = |to: &str, more: &[&str]| {
        let format = "sentence-transformers-pairs";
        let mut arguments = vec![
            "export", "out", "graded", "--format", format, "--to", to, "--json",
        ];
        arguments.extend(more);
        workspace.gleaner(&arguments)
    };
    let told = if four == 0 {
        export("strict", &[]).expect(2).stderr
    } else {
        let report = export("strict", &[]).expect(0).events().pop().unwrap();
        assert_eq!(number(&report["queries"], "train"), four);
        report["left_out"].to_string()
    };
    assert!(told.contains(&three.to_string()), "{told}");
    // Whoever wants them gets them, and a grade means what it meant.
    let report = export("lax", &["--group-size", "3"]).expect(0).events();
    assert_eq!(
        number(&report.last().unwrap()["queries"], "train"),
        three + four
    );
    let pairs = values(&workspace.path().join("lax/train.jsonl"));
    let best_of_three = pairs
        .iter()
        .filter(|pair| text(pair, "sentence2").ends_with("of highly_relevant."))
        .map(|pair| pair["score"].as_f64().unwrap())
        .fold(0.0, f64::max);
    assert!((best_of_three - 2.0 / 3.0).abs() < 1e-9, "{best_of_three}");
}

/// Writes queries that name the marker of their document.
fn naming_markers(n: usize) -> Script {
    let markers: Vec<String> = (0..n).map(marker).collect();
    Arc::new(move |request: &Request| {
        let asked = request.body.to_string();
        let found = markers.iter().find(|marker| asked.contains(*marker));
        let marker = found.map_or("nothing", String::as_str);
        let text = format!(
            r#"{{"query_1": {{"label": "relevant", "query": "who knows {marker} well"}}, "query_2": {{"label": "irrelevant", "query": "who never saw {marker} there"}}}}"#
        );
        Play::Text(text, "stop")
    })
}

fn marker(number: usize) -> String {
    format!("zz{number:03}zz")
}

#[test]
fn queries_go_with_their_own_documents_where_ids_are_not_unique() {
    const PAIRS: usize = 12;
    let mut documents = documents(2 * PAIRS);
    for (number, document) in documents.iter_mut().enumerate() {
        document.id = format!("doc-{}", number % PAIRS);
        document.text = format!("{} {}", marker(number), document.text);
    }
    let server = Server::playing(naming_markers(documents.len()));
    let workspace = workspace_of(&documents);
    let stages = format!(
        "
  weights: {{kind: importance_weights, target: target, min_tokens: 1}}
  chosen: {{kind: select, by: weights.log_weight, method: top_k, documents: {}, materialize: true}}
  queries: {{kind: synthetic_queries, input: chosen, endpoint: llm, grades: binary,
             filter: {{reject: []}}}}
",
        documents.len()
    );
    let with_target = job(&server.url(), "", &stages).replace(
        "endpoints:",
        "datasets: {target: {paths: [target.jsonl]}}\nendpoints:",
    );
    workspace.write("job.yaml", with_target);
    workspace.write(
        "target.jsonl",
        "{\"text\": \"what stands in the documents\"}\n",
    );
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql("SELECT count(*) AS n FROM queries WHERE status = 'ok'");
    assert_eq!(number(&rows[0], "n"), 4 * PAIRS as u64);
    let format = "sentence-transformers-pairs";
    let arguments = [
        "export", "out", "queries", "--format", format, "--to", "pairs",
    ];
    let _ = workspace.gleaner(&arguments).expect(0);
    let pairs = values(&workspace.path().join("pairs/train.jsonl"));
    // Queries of one document id, prompt and label have one id: the first of them stands for both.
    assert_eq!(pairs.len(), 2 * PAIRS);
    for pair in pairs {
        let (query, document) = (text(&pair, "sentence1"), text(&pair, "sentence2"));
        let marker = document.split(' ').next().unwrap();
        assert!(query.contains(marker), "{query}: {document}");
    }
}

const SHOWN: usize = 5;

/// Pairs of documents of the corpus, the last one by its text alone, and queries.
fn pairs_of(documents: &[gleaner_tests::corpus::Document]) -> String {
    let pair = |(number, document): (usize, &gleaner_tests::corpus::Document)| {
        let id = match number + 1 {
            SHOWN => "of another collection".to_owned(),
            _ => document.id.clone(),
        };
        let query = format!("what stands in example {number}");
        let line = json!({ "id": id, "text": document.text, "source": query });
        format!("{line}\n")
    };
    documents[..SHOWN].iter().enumerate().map(pair).collect()
}

#[test]
fn what_the_model_was_shown_is_not_tested() {
    let server = Server::answering();
    let documents = documents(30);
    let workspace = workspace_of(&documents);
    let stages = "
  queries: {kind: synthetic_queries, endpoint: llm, demonstrations: {dataset: pairs}, \
             filter: {reject: []}}
";
    let with_pairs = job(&server.url(), "", stages).replace(
        "endpoints:",
        "datasets: {pairs: {paths: [pairs.jsonl]}}\nendpoints:",
    );
    workspace.write("job.yaml", &with_pairs);
    workspace.write("pairs.jsonl", pairs_of(&documents));
    let _ = workspace.run(&[]).expect(0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    let table = workspace.sql("SELECT count(DISTINCT doc_id) AS n FROM queries_demonstrations");
    assert_eq!(number(&table[0], "n"), SHOWN as u64);
    let export = |to: &str, more: &[&str]| {
        let format = "sentence-transformers-pairs";
        let mut arguments = vec![
            "export", "out", "queries", "--format", format, "--to", to, "--json",
        ];
        arguments.extend(more);
        let mut events = workspace.gleaner(&arguments).expect(0).events();
        events.pop().unwrap()
    };
    // The split of each document and of each query's words.
    let splits = |to: &str, report: &Value| {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for split in report["queries"].as_object().unwrap().keys() {
            for pair in values(&workspace.path().join(format!("{to}/{split}.jsonl"))) {
                let words = text(&pair, "sentence1").trim().to_lowercase();
                for of in [words, text(&pair, "sentence2")] {
                    found.entry(of).or_default().insert(split.clone());
                }
            }
        }
        for (of, splits) in &found {
            assert_eq!(splits.len(), 1, "{of} stands in {splits:?}");
        }
        found
    };
    let shown = &documents[..SHOWN];
    let report = export("shares", &["--split", "train=0.2,test=0.8"]);
    let found = splits("shares", &report);
    for document in shown {
        assert!(found[&document.text].contains("train"), "{}", document.id);
    }
    let n_shown = number(&report, "n_shown");
    assert!(n_shown >= 4 * SHOWN as u64, "{report}");
    assert!(number(&report["queries"], "test") > 0, "{report}");
    // Every fold is tested.
    for kind in ["interpolation", "extrapolation"] {
        let report = export(kind, &["--folds", kind]);
        let found = splits(kind, &report);
        for document in shown {
            assert!(
                !found.contains_key(&document.text),
                "{kind} {}",
                document.id
            );
        }
        assert_eq!(number(&report["left_out"], "shown"), n_shown, "{report}");
        assert!(report["queries"].as_object().unwrap().len() > 1, "{report}");
    }
    // One split is not tested by another.
    let report = export("all", &[]);
    assert_eq!(number(&report, "n_shown"), 0);
}
