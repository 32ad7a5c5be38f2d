//! Several versions of an output: asked, attached to each other, compared.

use std::collections::BTreeSet;
use std::fs;

use gleaner_tests::corpus::{Document, jsonl, sample_documents, write_parquet};
use gleaner_tests::program::{Workspace, number, text};
use gleaner_tests::small::{self, CHOSEN, FILES, PER_FILE};
use serde_json::{Value, json};

/// Two versions: of the second, one file is new, one changed, one gone, and the selection larger.
fn refreshed() -> (Workspace, Vec<Document>) {
    let (workspace, documents) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    fs::remove_file(workspace.path().join("corpus/part-0.parquet")).unwrap();
    let mut changed = documents[PER_FILE..2 * PER_FILE].to_vec();
    for document in changed.iter_mut().take(5) {
        document
            .text
            .push_str(" The patient was treated for diabetes and asthma.");
    }
    write_parquet(
        &workspace.path().join("corpus/part-1.parquet"),
        &changed,
        PER_FILE,
    );
    let all = sample_documents((FILES + 2) * PER_FILE);
    let known: BTreeSet<&str> = documents.iter().map(|it| it.id.as_str()).collect();
    let added: Vec<Document> = all
        .into_iter()
        .filter(|it| !known.contains(it.id.as_str()))
        .take(PER_FILE)
        .collect();
    write_parquet(
        &workspace.path().join("corpus/part-9.parquet"),
        &added,
        PER_FILE,
    );
    let _ = workspace
        .run(&["--set", "stages.chosen.documents=30"])
        .expect(0);
    (workspace, documents)
}

fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| text(row, "doc_id")).collect()
}

#[test]
fn an_older_version_is_asked_as_the_newest_is() {
    let (workspace, _) = refreshed();
    let count = |arguments: &[&str]| {
        let query = "SELECT count(*) AS n FROM chosen";
        let all = [&["sql", "out", query, "--format", "json"], arguments].concat();
        number(&workspace.gleaner(&all).expect(0).events()[0], "n")
    };
    assert_eq!(count(&[]), 30);
    assert_eq!(count(&["--version", "2"]), 30);
    assert_eq!(count(&["--version", "1"]), CHOSEN as u64);
    let _ = workspace
        .gleaner(&["sql", "out", "SELECT 1", "--version", "3"])
        .expect(2)
        .says("has no version 3")
        .says("it has 1, 2");
    // `--version` of the program itself is still there.
    let _ = workspace.gleaner(&["--version"]).expect(0);
}

#[test]
fn outputs_are_attached_by_name() {
    let (workspace, _) = refreshed();
    let came = |attach: &str| {
        let query =
            "SELECT doc_id FROM chosen EXCEPT SELECT doc_id FROM before.chosen ORDER BY doc_id";
        let arguments = ["sql", "out", query, "--format", "json", "--attach", attach];
        ids(&workspace.gleaner(&arguments).expect(0).events())
    };
    assert_eq!(came("before=out"), Vec::<String>::new());
    assert!(came("before=out@1").len() >= 5);
    let query =
        "SELECT (SELECT count(*) FROM other.corpus) AS theirs, count(*) AS ours FROM corpus";
    let _ = workspace.run(&["--output", "elsewhere"]).expect(0);
    let arguments = [
        "sql",
        "out",
        query,
        "--format",
        "json",
        "--attach",
        "other=elsewhere",
    ];
    let rows = workspace.gleaner(&arguments).expect(0).events();
    assert_eq!(rows[0]["theirs"], rows[0]["ours"]);
    for (attach, query, expected) in [
        ("before=nowhere", "SELECT 1", "no published version"),
        ("before=out@9", "SELECT 1", "has no version 9"),
        ("public=out", "SELECT 1", "cannot name another output"),
        ("before", "SELECT 1", "name=OUTPUT"),
        (
            "before=out",
            "SELECT * FROM before.choosen",
            "did you mean before.chosen",
        ),
        ("before=out", "SELECT * FROM gone.chosen", "gone.chosen"),
    ] {
        let _ = workspace
            .gleaner(&["sql", "out", query, "--attach", attach])
            .expect(2)
            .says(expected);
    }
    let twice = ["--attach", "a=out", "--attach", "a=out@1"];
    let _ = workspace
        .gleaner(&[&["sql", "out", "SELECT 1"][..], &twice].concat())
        .expect(2)
        .says("two outputs are attached as a");
}

#[test]
fn parameters_stand_for_values() {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    let rows = |query: &str, parameters: &[&str]| {
        let mut arguments = vec!["sql", "out", query, "--format", "json"];
        for parameter in parameters {
            arguments.extend(["--param", parameter]);
        }
        workspace.gleaner(&arguments).expect(0).events()
    };
    let found = rows(
        "SELECT doc_id FROM weights WHERE doc_id = $id",
        &["id=it's \"short\", really"],
    );
    assert_eq!(found, [json!({"doc_id": small::SHORT})]);
    let least =
        &workspace.sql("SELECT n_tokens FROM weights ORDER BY n_tokens LIMIT 1 OFFSET 60")[0];
    let least = number(least, "n_tokens");
    let query = "SELECT count(*) AS n FROM weights WHERE n_tokens >= $least AND eligible = $is";
    let found = rows(query, &[&format!("least={least}"), "is=true"]);
    let plain = workspace.sql(&format!(
        "SELECT count(*) AS n FROM weights WHERE n_tokens >= {least} AND eligible"
    ));
    assert_eq!(found, plain);
    let found = rows(
        "SELECT $a AS a, $b + 1 AS b, $c AS c",
        &["a='1'", "b=1.5", "c=x=y"],
    );
    assert_eq!(found, [json!({"a": "1", "b": 2.5, "c": "x=y"})]);
    assert_eq!(
        rows("SELECT doc_id FROM chosen LIMIT $n", &["n=3"]).len(),
        3
    );

    for (query, parameter, expected) in [
        ("SELECT $least", "laest=1", "did you mean $laest"),
        ("SELECT $x", "y=1", "the parameter $x has no value"),
        ("SELECT 1", "x", "name=value"),
    ] {
        let _ = workspace
            .gleaner(&["sql", "out", query, "--param", parameter])
            .expect(2)
            .says(expected);
    }
    let _ = workspace
        .gleaner(&["sql", "out", "SELECT $x"])
        .expect(2)
        .says("--param x=value");
}

#[test]
fn plans_of_queries_are_shown() {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    for explain in ["EXPLAIN", "EXPLAIN ANALYZE"] {
        let query = format!("{explain} SELECT count(*) FROM weights WHERE n_tokens > 3");
        let rows = workspace.sql(&query);
        let plan = Value::from(rows).to_string();
        assert!(plan.contains("DataSourceExec"), "{explain}: {plan}");
    }
    let _ = workspace
        .gleaner(&["sql", "out", "EXPLAIN DROP TABLE weights"])
        .expect(2);
}

fn diff(workspace: &Workspace, a: &str, b: &str) -> Value {
    let arguments = ["diff", "out", a, b, "--json"];
    workspace.gleaner(&arguments).expect(0).events().remove(0)
}

fn stage<'a>(diff: &'a Value, name: &str) -> &'a Value {
    let stages = diff["stages"].as_array().unwrap();
    stages.iter().find(|it| it["stage"] == name).unwrap()
}

fn chosen_in(workspace: &Workspace, version: &str) -> BTreeSet<String> {
    let query = "SELECT doc_id FROM chosen";
    let arguments = [
        "sql",
        "out",
        query,
        "--format",
        "json",
        "--version",
        version,
    ];
    let rows = workspace.gleaner(&arguments).expect(0).events();
    ids(&rows).into_iter().collect()
}

#[test]
fn versions_are_compared_document_by_document() {
    let (workspace, _) = refreshed();
    let found = diff(&workspace, "1", "2");
    assert_eq!(
        found["corpus"],
        json!({
            "added": ["corpus/part-9.parquet"],
            "removed": ["corpus/part-0.parquet"],
            "changed": ["corpus/part-1.parquet"],
            "n_same": FILES - 2,
        })
    );

    let weights = stage(&found, "weights");
    let rows = (FILES * PER_FILE + 2) as u64;
    assert_eq!(
        weights["rows"],
        json!([rows, rows]),
        "a file went, a file came"
    );
    assert_eq!(weights["n_files_same"], FILES - 2);
    assert_eq!(
        (&weights["n_files_added"], &weights["n_files_removed"]),
        (&json!(2), &json!(2))
    );
    // The model stays, so of the file that was written anew only changed texts have other scores.
    let scores = &weights["scores"][0];
    assert_eq!(scores["column"], "log_weight");
    let query = "SELECT count(*) AS n, count(*) FILTER (WHERE a.log_weight <> b.log_weight) AS changed, \
                 avg(a.log_weight - b.log_weight) AS mean FROM weights a JOIN before.weights b USING \
                 (doc_id) WHERE a.input_file = 'corpus/part-1.parquet' AND a.eligible AND b.eligible";
    let arguments = [
        "sql",
        "out",
        query,
        "--format",
        "json",
        "--attach",
        "before=out@1",
    ];
    let expected = workspace.gleaner(&arguments).expect(0).events().remove(0);
    assert_eq!(scores["n_scored_again"], expected["n"]);
    assert_eq!(scores["n_changed"], 5);
    assert_eq!(scores["n_changed"], expected["changed"]);
    let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9;
    assert!(near(&scores["mean_change"], &expected["mean"]));

    let (before, after) = (chosen_in(&workspace, "1"), chosen_in(&workspace, "2"));
    let chosen = stage(&found, "chosen");
    let selection = &chosen["selection"];
    assert_eq!(selection["n_came"], after.difference(&before).count());
    assert_eq!(selection["n_went"], before.difference(&after).count());
    assert_eq!(selection["n_stayed"], before.intersection(&after).count());
    assert!(number(selection, "n_came") > 0 && number(selection, "n_went") > 0);
    assert_eq!(chosen["params"], json!({"documents": [CHOSEN, 30]}));
    let by_source = selection["by_source"].as_array().unwrap();
    let sum = |key: &str| by_source.iter().map(|it| number(it, key)).sum::<u64>();
    assert_eq!(sum("n_came"), number(selection, "n_came"));
    assert_eq!(sum("n_went"), number(selection, "n_went"));
    for (key, from, not_in) in [("came", &after, &before), ("went", &before, &after)] {
        for document in selection[key].as_array().unwrap() {
            let id = text(document, "id");
            assert!(from.contains(&id) && !not_in.contains(&id), "{key}: {id}");
        }
    }

    // The other way round it is the mirror image; a version is as it is itself.
    let back = diff(&workspace, "2", "1");
    let mirrored = &stage(&back, "chosen")["selection"];
    assert_eq!(mirrored["n_came"], selection["n_went"]);
    assert_eq!(mirrored["went"], selection["came"]);
    let same = diff(&workspace, "2", "2");
    let selection = &stage(&same, "chosen")["selection"];
    assert_eq!(
        (&selection["n_came"], &selection["n_went"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(selection["n_stayed"], 30);

    let shown = workspace
        .gleaner(&["diff", "out", "1", "2"])
        .expect(0)
        .stdout;
    for expected in [
        "version 1 (",
        "1 files added, 1 removed, 1 changed",
        "+ corpus/part-9.parquet",
        "~ corpus/part-1.parquet",
        "documents: 25 -> 30",
        "5 of them otherwise",
    ] {
        assert!(shown.contains(expected), "{expected}\n{shown}");
    }
    let _ = workspace
        .gleaner(&["diff", "out", "1", "5"])
        .expect(2)
        .says("has no version 5");
    let _ = workspace
        .gleaner(&["diff", "nowhere", "1", "2"])
        .expect(2)
        .says("no published version");
}

/// An id that was chosen twice and now is chosen once went once.
#[test]
fn ids_that_occur_more_than_once_are_counted() {
    let (workspace, documents) = small::workspace();
    let twice = &documents[..10];
    workspace.write("corpus/twice.jsonl", jsonl(twice));
    let all = ["--set", "stages.chosen.documents=200"];
    let _ = workspace.run(&all).expect(0);
    workspace.write("corpus/twice.jsonl", jsonl(&twice[..4]));
    let _ = workspace.run(&all).expect(0);
    let found = diff(&workspace, "1", "2");
    let selection = &stage(&found, "chosen")["selection"];
    let n = |version: &str| {
        let query = "SELECT count(*) AS n FROM chosen";
        let arguments = [
            "sql",
            "out",
            query,
            "--format",
            "json",
            "--version",
            version,
        ];
        number(&workspace.gleaner(&arguments).expect(0).events()[0], "n")
    };
    let (before, after) = (n("1"), n("2"));
    assert!(before > after);
    assert_eq!(number(selection, "n_came"), 0);
    assert_eq!(number(selection, "n_went"), before - after);
    assert_eq!(number(selection, "n_stayed"), after);
}

/// A stage that only one of the versions has is told of, and not compared.
#[test]
fn stages_come_and_go() {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let without: String = job
        .lines()
        .filter(|it| !it.contains("counts"))
        .map(|it| format!("{it}\n"))
        .collect();
    let with =
        without + "  few: {kind: select, by: weights.log_weight, method: top_k, documents: 3}\n";
    workspace.write("job.yaml", with);
    let _ = workspace.run(&[]).expect(0);
    let found = diff(&workspace, "1", "2");
    assert_eq!(stage(&found, "counts")["rows"][1], Value::Null);
    assert_eq!(stage(&found, "few")["rows"], json!([null, 3]));
    assert!(stage(&found, "few")["selection"].is_null());
    let shown = workspace
        .gleaner(&["diff", "out", "1", "2"])
        .expect(0)
        .stdout;
    assert!(shown.contains("few (select): new, 3 rows"), "{shown}");
    assert!(shown.contains("counts (query): gone"), "{shown}");
}
