//! The columns that the documentation shows are those of the tables.

use std::collections::BTreeMap;
use std::fs;

use gleaner_schemas::Version;
use gleaner_scripted_endpoint::{Play, ScriptedServer, ServerOptions, always};
use gleaner_tests::program::{Workspace, text};

use super::{project, read};

/// A column: its name, its type, whether it may be null.
type Column = (String, String, bool);

/// The tables under each heading, in order.
fn documented() -> BTreeMap<String, Vec<Vec<Column>>> {
    let document = read("formats.md");
    let mut sections: BTreeMap<String, Vec<Vec<Column>>> = BTreeMap::new();
    for section in document.split("\n### ").skip(1) {
        let (title, rest) = section.split_once('\n').unwrap();
        let rest = rest.split("\n## ").next().unwrap();
        let mut tables: Vec<Vec<Column>> = Vec::new();
        for line in rest.lines() {
            if line.starts_with("| column |") {
                tables.push(Vec::new());
            } else if let Some(row) = line.strip_prefix("| `") {
                let cells: Vec<&str> = row.split(" | ").collect();
                let name = cells[0].trim_end_matches('`').to_owned();
                let is_nullable = match cells[2] {
                    "yes" => true,
                    "no" => false,
                    other => panic!("{title}: {name}: {other}"),
                };
                let column = (name, cells[1].to_owned(), is_nullable);
                tables.last_mut().unwrap().push(column);
            }
        }
        sections.insert(title.to_owned(), tables);
    }
    sections
}

fn columns_of(version: &Version, table: &str) -> Vec<Column> {
    let fields = version.tables[table].schema.fields().iter();
    fields
        .map(|field| {
            let data_type = field.data_type().to_string();
            (field.name().clone(), data_type, field.is_nullable())
        })
        .collect()
}

/// Every kind of stage, each as it is at first and with whatever gives it further columns.
const JOB: &str = "
name: every-kind
output: out
corpus: {paths: [corpus.jsonl], columns: {id: id, text: text}}
datasets:
  biomedical: {paths: [target.jsonl]}
  other: {paths: [target.jsonl]}
  pairs: {paths: [pairs.jsonl]}
endpoints:
  llm: {url: 'URL', model: scripted}
stages:
  weights: {kind: importance_weights, target: biomedical, min_tokens: 5}
  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 4}
  best: {kind: select, by: weights.log_weight, method: top_k, documents: 4, materialize: true}
  prior: {kind: train_language_model, size: 1m, vocabulary: 300, tokens: 8192, held_out: 20%}
  losses: {kind: loss_reduction, prior: prior, conditional: prior, max_tokens: 32}
  queries: {kind: synthetic_queries, input: best, endpoint: llm, filter: {bm25_top_k: 10}}
  graded: {kind: graded_documents, input: queries, endpoint: llm, demonstrations: {dataset: pairs}}
  more_weights: {kind: importance_weights, target: [biomedical, other], targets: separate, min_tokens: 5, quality: true,
                 chunk_words: 20}
  more_losses: {kind: loss_reduction, prior: prior, conditional: prior, models: {third: prior}, max_tokens: 32,
                token_losses: true}
  sequences: {kind: loss_reduction, prior: prior, conditional: prior, unit: sequence, context: 32}
";

fn version(workspace: &Workspace) -> Version {
    let path = workspace.path().join("out/manifest.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_columns_of_every_table_are_documented_and_no_others() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = ScriptedServer::start(always(Play::Answer), ServerOptions::default());
    let server = runtime.block_on(server).unwrap();
    let workspace = project();
    // Short ones: few tokens to train on are of several documents then.
    let mut documents = gleaner_tests::corpus::sample_documents(60);
    for document in &mut documents {
        document.text = document.text.chars().take(300).collect();
    }
    workspace.write("corpus.jsonl", gleaner_tests::corpus::jsonl(&documents));
    let target = gleaner_tests::corpus::health_documents(10);
    workspace.write("target.jsonl", gleaner_tests::corpus::jsonl(&target));
    let pair = r#"{"id": "p", "text": "Bread is baked hot.", "source": "how hot to bake"}"#;
    workspace.write("pairs.jsonl", format!("{pair}\n"));
    workspace.write("job.yaml", JOB.replace("URL", &server.url()));
    let _ = workspace.run(&[]).expect(0);
    let version = version(&workspace);
    let documented = documented();
    for (section, table) in [
        ("importance_weights", "weights"),
        ("importance_weights_model", "weights_model"),
        ("select", "chosen"),
        ("train_language_model", "prior"),
        ("loss_reduction", "losses"),
        ("synthetic_queries", "queries"),
        ("graded_documents", "graded"),
        ("demonstrations", "graded_demonstrations"),
    ] {
        let expected = columns_of(&version, table);
        assert_eq!(documented[section][0], expected, "{section}");
    }
    // Further columns: each is documented, by itself or by a pattern, and none is missing.
    for (section, tables, names) in [
        (
            "importance_weights",
            &["more_weights"][..],
            &["biomedical", "other"][..],
        ),
        (
            "importance_weights_model",
            &["more_weights_model"],
            &["biomedical", "other"],
        ),
        (
            "loss_reduction",
            &["more_losses", "sequences"],
            &["prior", "conditional", "third"],
        ),
    ] {
        let usual = &documented[section][0];
        let further = &documented[section][1];
        let mut seen = vec![false; further.len()];
        for column in tables.iter().flat_map(|table| columns_of(&version, table)) {
            if usual.contains(&column) {
                continue;
            }
            let is_it = |(pattern, data_type, is_nullable): &Column| {
                let name = ["<target>", "<model>"].iter().any(|place| {
                    let mut names = names.iter();
                    names.any(|name| pattern.replace(place, name) == column.0)
                });
                name && *data_type == column.1 && *is_nullable == column.2
            };
            let found = further.iter().position(is_it);
            seen[found.unwrap_or_else(|| panic!("{section}: {column:?} is not documented"))] = true;
        }
        let missing: Vec<_> = further
            .iter()
            .zip(&seen)
            .filter(|(_, seen)| !**seen)
            .collect();
        assert!(missing.is_empty(), "{section}: there is no {missing:?}");
    }
    // With `materialize` the columns of the corpus follow, its source among them.
    let materialized = columns_of(&version, "best");
    let mut own = documented["select"][0].clone();
    own.retain(|(name, ..)| name != "source");
    assert!(materialized.starts_with(&own), "{materialized:?}");
    assert!(materialized.iter().any(|(name, ..)| name == "source"));
    let columns = workspace.sql(
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
         WHERE table_schema = 'gleaner'",
    );
    for table in ["stages", "tasks", "files"] {
        let of_table = columns.iter().filter(|row| row["table_name"] == table);
        let found: Vec<Column> = of_table
            .map(|row| {
                let is_nullable = row["is_nullable"] == "YES";
                (
                    text(row, "column_name"),
                    text(row, "data_type"),
                    is_nullable,
                )
            })
            .collect();
        assert_eq!(documented[&format!("gleaner.{table}")][0], found, "{table}");
    }
}
