//! `gleaner report`: one file, whose numbers are those of SQL.

use std::fs;

use gleaner_tests::corpus::{Document, example_documents, jsonl, write_parquet};
use gleaner_tests::program::{Workspace, number, text};
use gleaner_tests::small::{self, CHOSEN, SHORT};
use serde_json::{Value, json};

/// Two methods over the same documents, by models that are trained within seconds.
const BOTH: &str = "
name: both
output: out
corpus: {paths: [corpus/*.parquet]}
datasets: {target: {paths: [target.jsonl]}}
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 20}
  prior: {kind: train_language_model, size: 1m, vocabulary: 300, tokens: 16384, held_out: 10%}
  conditional: {kind: train_language_model, from: prior, dataset: target, tokens: 8192, held_out: 10%}
  losses: {kind: loss_reduction, prior: prior, conditional: conditional, max_tokens: 60}
  best: {kind: select, by: losses.loss_reduction, method: top_k, documents: 20}
  drawn: {kind: select, by: weights.log_weight, method: resample, documents: 30, seed: 3, materialize: true}
";

/// The numbers that stand in a page.
pub(crate) fn embedded(html: &str) -> Value {
    let start = "<script type=\"application/json\" id=numbers>";
    let (_, rest) = html.split_once(start).unwrap();
    let (numbers, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(numbers).unwrap()
}

pub(crate) fn section<'a>(report: &'a Value, name: &str, stage: Option<&str>) -> &'a Value {
    let sections = report["sections"].as_array().unwrap();
    let found = sections
        .iter()
        .find(|it| it["section"] == name && (stage.is_none() || it["stage"].as_str() == stage));
    &found.unwrap_or_else(|| panic!("no {name} of {stage:?}"))["numbers"]
}

fn names(report: &Value) -> Vec<&str> {
    let sections = report["sections"].as_array().unwrap();
    sections
        .iter()
        .map(|it| it["section"].as_str().unwrap())
        .collect()
}

pub(crate) fn html_of(workspace: &Workspace, arguments: &[&str]) -> String {
    let _ = workspace
        .gleaner(&[&["report", "out"], arguments].concat())
        .expect(0);
    fs::read_to_string(workspace.path().join("report.html")).unwrap()
}

#[track_caller]
fn assert_near(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    let allowed = 1e-9 * expected.abs().max(1.0);
    assert!(
        (found - expected).abs() <= allowed,
        "{found} is not {expected}"
    );
}

/// The page is HTML whose elements are closed in order, that loads nothing and runs nothing.
fn check_page(html: &str) {
    const VOID: [&str; 2] = ["meta", "!doctype"];
    assert!(html.contains("default-src 'none'"));
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    let mut n_scripts = 0;
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').unwrap();
        let name = tag.split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "</{tag}> after {open:?}"),
            None if tag.ends_with('/') || VOID.contains(&name) => {}
            None => open.push(name),
        }
        let loads = [
            "link", "img", "iframe", "object", "embed", "base", "image", "use",
        ];
        assert!(!loads.contains(&name), "<{tag}>");
        for attribute in [
            " src=",
            " style=",
            " onload=",
            " onerror=",
            " href=\"h",
            "NaN",
            "inf",
        ] {
            let is_text = ["aria-label", "content="].iter().any(|it| tag.contains(it));
            assert!(is_text || !tag.contains(attribute), "<{tag}>");
        }
        n_scripts += usize::from(name == "script");
        // What stands in style and script is no markup.
        rest = match name {
            "style" | "script" => &after[after.find("</").unwrap()..],
            _ => after,
        };
    }
    assert_eq!(open, Vec::<&str>::new());
    assert_eq!(n_scripts, 1, "the numbers only");
    let (_, style) = html.split_once("<style>").unwrap();
    let (style, _) = style.split_once("</style>").unwrap();
    assert!(!style.contains("url(") && !style.contains("@import"));
}

#[test]
fn numbers_are_those_of_sql() {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    let html = html_of(&workspace, &[]);
    check_page(&html);
    let report = embedded(&html);
    let printed = workspace.gleaner(&["report", "out", "--json"]).expect(0);
    assert_eq!(
        printed.events(),
        std::slice::from_ref(&report),
        "one report, twice"
    );
    assert_eq!(html_of(&workspace, &[]), html, "and byte by byte");
    assert_eq!(
        names(&report),
        ["overview", "lanes", "selection", "weights", "tasks"],
        "a stage that does not exist has no section"
    );

    let all = section(&report, "lanes", None).as_array().unwrap();
    assert!(all.iter().map(|it| &it["stage"]).eq(["weights", "chosen"]));
    let lanes = &all[0];
    let sql =
        "SELECT rows_in, ok, ineligible, rejected FROM gleaner.stages WHERE stage = 'weights'";
    let expected = &workspace.sql(sql)[0];
    for lane in ["rows_in", "ok", "ineligible", "rejected"] {
        assert_eq!(lanes[lane], expected[lane], "{lane}");
    }
    let sql = "SELECT status, reason, count(*) AS rows FROM weights WHERE status <> 'ok' GROUP BY 1, \
               2 ORDER BY rows DESC, 1, 2";
    assert_eq!(lanes["reasons"], Value::from(workspace.sql(sql)));

    let weights = section(&report, "weights", Some("weights"));
    let sql = "SELECT count(*) AS n, avg(log_weight) AS mean, min(log_weight) AS min, \
               max(log_weight) AS max, stddev(log_weight) AS deviation, \
               avg(log_weight / n_tokens) AS per_token FROM weights WHERE eligible";
    let expected = &workspace.sql(sql)[0];
    let spread = &weights["weights"]["spread"];
    assert_eq!(spread["n"], expected["n"]);
    for figure in ["mean", "min", "max", "deviation"] {
        assert_near(&spread[figure], &expected[figure]);
    }
    assert_near(
        &weights["per_token"]["spread"]["mean"],
        &expected["per_token"],
    );
    let sql = "SELECT power(sum(exp(log_weight)), 2) / sum(exp(2 * log_weight)) AS ess FROM (SELECT \
               log_weight - (SELECT max(log_weight) FROM weights WHERE eligible) AS log_weight FROM \
               weights WHERE eligible)";
    assert_near(
        &weights["effective_sample_size"],
        &workspace.sql(sql)[0]["ess"],
    );

    // Quantiles are values of rows, so many of which lie at or below.
    let n = number(spread, "n");
    for quantile in spread["quantiles"].as_array().unwrap() {
        let (share, value) = (&quantile[0], &quantile[1]);
        let sql = format!(
            "SELECT count(*) FILTER (WHERE log_weight <= {value}) AS at_most, count(*) FILTER (WHERE \
             log_weight < {value}) AS below FROM weights WHERE eligible"
        );
        let counts = &workspace.sql(&sql)[0];
        let rank = share.as_f64().unwrap() * n as f64;
        assert!(
            number(counts, "at_most") as f64 >= rank - 1e-6,
            "{quantile}"
        );
        assert!(
            (number(counts, "below") as f64) < rank.max(1.0),
            "{quantile}"
        );
    }

    // Bins are half-open, and every row is in one or beside them.
    let histogram = &weights["weights"]["histogram"];
    let bins = &histogram["bins"];
    let (width, first) = (
        bins["width"].as_f64().unwrap(),
        bins["first"].as_i64().unwrap(),
    );
    let counts = histogram["counts"].as_array().unwrap();
    for (idx, count) in counts.iter().enumerate() {
        let low = (first + idx as i64) as f64 * width;
        let sql = format!(
            "SELECT count(*) AS n FROM weights WHERE eligible AND log_weight >= {low} AND log_weight \
             < {}",
            low + width
        );
        assert_eq!(workspace.sql(&sql)[0]["n"], *count, "from {low}");
    }
    let total: u64 = counts.iter().map(|it| it.as_u64().unwrap()).sum();
    assert_eq!(
        total + number(histogram, "n_below") + number(histogram, "n_above"),
        n
    );

    let sql = "SELECT source, count(*) AS n, avg(log_weight / n_tokens) AS mean FROM weights WHERE \
               eligible GROUP BY source ORDER BY n DESC, source LIMIT 16";
    let expected = workspace.sql(sql);
    let sources = weights["by_source"]["sources"].as_array().unwrap();
    assert_eq!(sources.len(), expected.len());
    for (source, expected) in sources.iter().zip(&expected) {
        assert_eq!(
            (&source["source"], &source["n"]),
            (&expected["source"], &expected["n"])
        );
        assert_near(&source["mean"], &expected["mean"]);
    }

    let selection = section(&report, "selection", Some("chosen"));
    assert_eq!(selection["n_chosen"], CHOSEN);
    assert_eq!(selection["n_eligible"], n);
    let sql = "SELECT source, count(*) AS n FROM chosen GROUP BY source";
    for expected in workspace.sql(sql) {
        let by_source = selection["by_source"].as_array().unwrap();
        let found = by_source
            .iter()
            .find(|it| it["source"] == expected["source"]);
        assert_eq!(found.unwrap()["n_chosen"], expected["n"], "{expected}");
    }
    let chosen = &selection["chosen"]["spread"];
    let lowest = &workspace.sql("SELECT min(score) AS x FROM chosen")[0]["x"];
    assert_near(&chosen["min"], lowest);

    let tasks = section(&report, "tasks", None)["stages"]
        .as_array()
        .unwrap();
    let sql = "SELECT count(*) AS n, sum(seconds) AS seconds, sum(bytes_in) AS bytes FROM \
               gleaner.tasks WHERE stage = 'weights'";
    let expected = &workspace.sql(sql)[0];
    let of_weights = tasks.iter().find(|it| it["stage"] == "weights").unwrap();
    assert_eq!(of_weights["tasks"], expected["n"]);
    assert_eq!(of_weights["bytes_in"], expected["bytes"]);
    assert_near(&of_weights["seconds"], &expected["seconds"]);
}

/// Examples are of the tenth that they are shown in, with the text that they have, and texts are
/// texts, whatever is in them.
#[test]
fn examples_are_shown_by_tenths_and_texts_are_no_markup() {
    let (workspace, documents) = small::workspace();
    let mut lines = fs::read_to_string(workspace.path().join("corpus/rest.jsonl")).unwrap();
    let evil = Document {
        id: "<b>\"evil\"</b>".to_owned(),
        text: format!(
            "</script><script>alert(1)</script>\u{1b}[31m {}",
            "word ".repeat(60)
        ),
        source: "<i>&amp;".to_owned(),
    };
    lines += &jsonl(std::slice::from_ref(&evil));
    workspace.write("corpus/rest.jsonl", lines);
    let _ = workspace.run(&[]).expect(0);

    let html = html_of(&workspace, &["--examples", "100"]);
    check_page(&html);
    assert!(
        html.contains("&lt;b&gt;&quot;evil&quot;&lt;/b&gt;"),
        "its id"
    );
    let report = embedded(&html);
    let tenths = section(&report, "weights", Some("weights"))["tenths"]
        .as_array()
        .unwrap();
    assert_eq!(tenths.len(), 10);
    let mut n_shown = 0;
    for tenth in tenths {
        let high = tenth["high"].as_f64().unwrap();
        for document in tenth["documents"].as_array().unwrap() {
            n_shown += 1;
            assert!(document["score"].as_f64().unwrap() <= high, "{document}");
            let id = text(document, "id");
            let known = documents
                .iter()
                .chain([&evil])
                .find(|it| it.id == id)
                .unwrap();
            let words: Vec<&str> = known.text.split_whitespace().collect();
            let excerpt = text(document, "excerpt");
            assert!(
                !excerpt.is_empty() && words.join(" ").starts_with(&excerpt),
                "{id}"
            );
        }
    }
    let eligible = &workspace.sql("SELECT count(*) AS n FROM weights WHERE eligible")[0];
    assert_eq!(n_shown, number(eligible, "n"), "of few documents every one");
    assert!(!html.contains(SHORT), "what was not scored is no example");

    let html = html_of(&workspace, &["--examples", "2"]);
    let report = embedded(&html);
    let tenths = section(&report, "weights", Some("weights"))["tenths"]
        .as_array()
        .unwrap();
    assert!(
        tenths
            .iter()
            .all(|it| it["documents"].as_array().unwrap().len() == 2)
    );
    let html = html_of(&workspace, &["--examples", "0"]);
    assert!(!html.contains("evil"), "a report to give away has no texts");
}

#[test]
fn two_methods_are_compared() {
    let workspace = Workspace::new();
    let documents = example_documents();
    let corpus: Vec<Document> = documents.iter().step_by(40).cloned().collect();
    write_parquet(&workspace.path().join("corpus/a.parquet"), &corpus, 50);
    let target = documents.iter().filter(|it| it.source == "health_medquad");
    let target: Vec<Document> = target.take(60).cloned().collect();
    workspace.write("target.jsonl", jsonl(&target));
    workspace.write("job.yaml", BOTH);
    let _ = workspace.run(&[]).expect(0);
    let html = html_of(&workspace, &[]);
    check_page(&html);
    let report = embedded(&html);
    assert_eq!(
        names(&report),
        [
            "overview",
            "lanes",
            "selection",
            "selection",
            "weights",
            "losses",
            "agreement",
            "training",
            "training",
            "tasks"
        ]
    );

    let losses = section(&report, "losses", Some("losses"));
    let sql = "SELECT count(*) AS n, avg(loss_reduction) AS reduction, avg(prior_nll) AS prior, \
               avg(conditional_nll) AS conditional, avg(win_fraction) AS wins FROM losses WHERE \
               eligible";
    let expected = &workspace.sql(sql)[0];
    assert_eq!(losses["reduction"]["spread"]["n"], expected["n"]);
    assert_near(
        &losses["reduction"]["spread"]["mean"],
        &expected["reduction"],
    );
    assert_near(&losses["losses"][0]["spread"]["mean"], &expected["prior"]);
    assert_near(
        &losses["losses"][1]["spread"]["mean"],
        &expected["conditional"],
    );
    assert_near(&losses["mean_win_fraction"], &expected["wins"]);

    let agreement = section(&report, "agreement", None);
    let sql = "SELECT count(*) AS n, corr(CAST(a AS DOUBLE), CAST(b AS DOUBLE)) AS rho FROM (SELECT \
               rank() OVER (ORDER BY log_weight / w.n_tokens) AS a, rank() OVER (ORDER BY \
               loss_reduction) AS b FROM weights w JOIN losses l ON l.doc_id = w.doc_id WHERE w.eligible \
               AND l.eligible)";
    let expected = &workspace.sql(sql)[0];
    assert_eq!(agreement["n"], expected["n"]);
    assert_near(&agreement["rank_correlation"], &expected["rho"]);
    for overlap in agreement["overlaps"].as_array().unwrap() {
        let k = number(overlap, "k");
        let highest = |score: &str| {
            format!(
                "(SELECT w.doc_id FROM weights w JOIN losses l ON l.doc_id = w.doc_id WHERE \
                 w.eligible AND l.eligible ORDER BY {score} DESC LIMIT {k})"
            )
        };
        let sql = format!(
            "SELECT count(*) AS n FROM {} AS a JOIN {} AS b ON a.doc_id = b.doc_id",
            highest("log_weight / w.n_tokens"),
            highest("loss_reduction")
        );
        assert_eq!(workspace.sql(&sql)[0]["n"], overlap["common"], "{overlap}");
    }
    let points = agreement["points"].as_array().unwrap();
    assert_eq!(
        points.len() as u64,
        number(agreement, "n"),
        "of few documents every one"
    );

    let training = section(&report, "training", Some("conditional"));
    let sql = "SELECT count(held_out_loss) AS n FROM conditional";
    let expected = &workspace.sql(sql)[0];
    let held_out = training["held_out_loss"].as_array().unwrap();
    assert_eq!(held_out.len() as u64, number(expected, "n"));
}

/// Stages that servers write are told of by what their tables hold, whoever wrote them.
#[test]
fn what_servers_wrote_is_counted() {
    let (workspace, _) = small::workspace();
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let queries = "  queries: {kind: query, sql: \"SELECT doc_id, concat('q-', doc_id) AS query_id, \
                   left(text, 40) AS query, CASE WHEN n_tokens % 2 = 0 THEN 'relevant' ELSE 'partly' \
                   END AS label, CAST(n_tokens % 2 AS TINYINT) AS grade, CASE WHEN n_tokens % 3 = 0 \
                   THEN 'rejected' ELSE 'ok' END AS status, CASE WHEN n_tokens % 3 = 0 THEN 'too \
                   short' END AS reason, n_tokens AS prompt_tokens FROM chosen\"}\n";
    workspace.write("job.yaml", job + queries);
    let _ = workspace.run(&[]).expect(0);
    // The stage's kind is all that tells it from another query.
    let path = workspace.path().join("out/_gleaner/versions/1.json");
    let version: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut version = version;
    version["stages"]["queries"]["kind"] = json!("synthetic_queries");
    fs::write(&path, version.to_string()).unwrap();

    let html = html_of(&workspace, &[]);
    check_page(&html);
    let report = embedded(&html);
    let generated = section(&report, "generation", Some("queries"));
    let sql = "SELECT label, status, count(*) AS rows FROM queries GROUP BY 1, 2 ORDER BY label, \
               rows DESC, status";
    assert_eq!(generated["by_label"], Value::from(workspace.sql(sql)));
    let sql =
        "SELECT status, reason, count(*) AS rows FROM queries WHERE status <> 'ok' GROUP BY 1, 2";
    assert_eq!(generated["failures"], Value::from(workspace.sql(sql)));
    let sql = "SELECT CAST(grade AS VARCHAR) AS grade, count(*) AS rows, max(length(query)) AS longest \
               FROM queries WHERE status = 'ok' GROUP BY 1 ORDER BY 1 DESC";
    let lengths = generated["lengths"].as_array().unwrap();
    for (found, expected) in lengths.iter().zip(workspace.sql(sql)) {
        for key in ["grade", "rows", "longest"] {
            assert_eq!(found[key], expected[key], "{key}");
        }
    }
    let sum = &workspace.sql("SELECT sum(prompt_tokens) AS n FROM queries")[0];
    assert_near(&generated["costs"][0][1], &sum["n"]);
}

#[test]
fn a_report_is_of_a_version_and_goes_where_it_is_told() {
    let (workspace, _) = small::workspace();
    let _ = workspace
        .gleaner(&["report", "out"])
        .expect(2)
        .says("no published version");
    let _ = workspace.run(&[]).expect(0);
    fs::remove_file(workspace.path().join("corpus/part-0.parquet")).unwrap();
    let _ = workspace
        .run(&["--set", "allow.rejected_rows=5%"])
        .expect(0);
    let _ = workspace
        .gleaner(&["report", "out", "--version", "7"])
        .expect(2)
        .says("has no version 7")
        .says("it has 1, 2");
    let told = workspace
        .gleaner(&["report", "out", "--version", "1", "--to", "new/one.html"])
        .expect(0);
    assert!(told.stdout.contains("version 1"), "{}", told.stdout);
    let html = fs::read_to_string(workspace.path().join("new/one.html")).unwrap();
    let report = embedded(&html);
    assert_eq!(number(&report, "version"), 1);
    // The file is gone, so its texts cannot be shown; the numbers can.
    assert!(html.contains("not read"));
    let newest = embedded(&html_of(&workspace, &[]));
    assert_eq!(number(&newest, "version"), 2);
    let rows = |report: &Value| number(&section(report, "lanes", None)[0], "rows_in");
    assert!(rows(&report) > rows(&newest));
    // The models are those of the first version.
    let notes = section(&newest, "notes", None).to_string();
    assert!(notes.contains("weights_model is as version 1"), "{notes}");

    let _ = workspace
        .gleaner(&["report", "out", "--to", "new/"])
        .expect(2)
        .says("name a file");
    let json = workspace
        .gleaner(&["report", "out", "--json", "--to", "also.html"])
        .expect(0);
    assert_eq!(json.events(), [newest]);
    assert!(workspace.path().join("also.html").is_file());
}

/// A job of nothing but a query has a report without distributions.
#[test]
fn a_report_without_stages_of_scores_is_short() {
    let (workspace, _) = small::workspace();
    workspace.write(
        "job.yaml",
        "name: only-a-query\noutput: out\ncorpus: {paths: ['corpus/*']}\nstages:\n  counts: \
         {kind: query, sql: 'SELECT source, count(*) AS n FROM corpus GROUP BY source'}\n",
    );
    let _ = workspace.run(&[]).expect(0);
    let html = html_of(&workspace, &[]);
    check_page(&html);
    assert_eq!(names(&embedded(&html)), ["overview", "tasks"]);
    assert!(!html.contains("<figure"));
}
