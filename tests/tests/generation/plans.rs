//! What `gleaner plan` says that a run will ask, against what servers are then asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gleaner_scripted_endpoint::losses::tokens;
use gleaner_scripted_endpoint::{Play, Request, Script};
use gleaner_tests::corpus::{Document, jsonl, write_parquet};
use gleaner_tests::program::{Workspace, number, text};
use serde_json::{Value, json};

use super::{ROWS_PER_GROUP, Server, documents, job, workspace_of};

const PROMPT_PRICE: f64 = 10.0;
const REPLY_PRICE: f64 = 40.0;
/// An estimate of tokens may be off by this factor.
const TOKENS_OFF: f64 = 3.0;

/// Two servers, of which the second judges and rates, as the endpoints `llm` and `other`.
struct Servers {
    writer: Server,
    other: Server,
}

impl Servers {
    fn new() -> Self {
        let script: Script =
            std::sync::Arc::new(|request: &Request| match request.body["prompt"].as_str() {
                Some(prompt) => told_losses(prompt),
                None => Play::Answer,
            });
        Self {
            writer: Server::answering(),
            other: Server::playing(script),
        }
    }

    fn job(&self, stages: &str) -> String {
        let price = format!("price: {{input: {PROMPT_PRICE}, output: {REPLY_PRICE}}}");
        let other = format!(
            "datasets: {{pairs: {{paths: [pairs.jsonl]}}, mine: {{paths: [mine.jsonl]}}}}\n\
             endpoints:\n  other: {{url: \"{}\", model: any, {price}}}",
            self.other.url()
        );
        job(&self.writer.url(), &price, stages).replace("endpoints:", &other)
    }

    fn n_requests(&self) -> BTreeMap<&'static str, u64> {
        [("llm", &self.writer), ("other", &self.other)]
            .map(|(name, server)| (name, server.n_requests()))
            .into()
    }

    fn of(&self, name: &str) -> &Server {
        if name == "llm" {
            &self.writer
        } else {
            &self.other
        }
    }
}

/// Each token as likely as any other.
fn told_losses(prompt: &str) -> Play {
    let told = tokens(prompt).into_iter().enumerate();
    let told: Vec<Value> = told
        .map(|(idx, token)| match idx {
            0 => Value::Null,
            _ => json!({ "7": { "logprob": -1.5, "rank": 1, "decoded_token": token } }),
        })
        .collect();
    let usage = json!({ "prompt_tokens": told.len(), "completion_tokens": 1 });
    let choice = json!({ "text": " x", "finish_reason": "length", "prompt_logprobs": told });
    let body = json!({ "choices": [choice], "usage": usage });
    Play::Body(body.to_string().into_bytes())
}

/// A corpus with documents about which nothing is asked, pairs, and queries of the user.
fn workspace(servers: &Servers, stages: &str) -> Workspace {
    let mut corpus = documents(9);
    for (id, text) in [("blank", " \n"), ("empty", "")] {
        corpus.push(Document {
            id: id.to_owned(),
            text: text.to_owned(),
            source: "odd".to_owned(),
        });
    }
    corpus.push(Document {
        id: "long".to_owned(),
        text: "rivers and bridges of the north. ".repeat(200),
        source: "odd".to_owned(),
    });
    let workspace = workspace_of(&corpus);
    let mut pairs = String::new();
    for pair in 0..30 {
        let document = format!("Crossing {pair} has {} piers in water. ", pair + 2).repeat(8);
        let line = json!({ "id": format!("p{pair}"), "text": document,
                           "source": format!("which pier of crossing {pair} stands in water") });
        let _ = writeln!(pairs, "{line}");
    }
    workspace.write("pairs.jsonl", pairs);
    let queries = (0..5).map(|idx| Document {
        id: format!("mine{idx}"),
        text: format!("what holds bridge {idx} up"),
        source: "mine".to_owned(),
    });
    workspace.write("mine.jsonl", jsonl(&queries.collect::<Vec<_>>()));
    workspace.write("job.yaml", servers.job(stages));
    workspace
}

/// What the plan says by endpoint, over all stages.
fn planned(workspace: &Workspace) -> BTreeMap<String, Value> {
    let plan = workspace.gleaner(&["plan", "job.yaml", "--json"]).expect(0);
    let plan = plan.events().remove(0);
    let mut sums: BTreeMap<String, Value> = BTreeMap::new();
    for stage in plan["stages"].as_array().unwrap() {
        for asked in stage["requests"].as_array().unwrap() {
            let sum = sums.entry(text(asked, "endpoint")).or_insert(json!({}));
            for key in ["calls", "prompt_tokens", "completion_tokens"] {
                sum[key] = json!(sum[key].as_u64().unwrap_or(0) + number(asked, key));
            }
            let money = sum["money"].as_f64().unwrap_or(0.0) + asked["money"].as_f64().unwrap();
            sum["money"] = json!(money);
        }
    }
    sums
}

/// Plans, runs, and compares; the requests of the run by endpoint.
#[track_caller]
fn check(servers: &Servers, workspace: &Workspace, stages: &str) -> BTreeMap<&'static str, u64> {
    let planned = planned(workspace);
    let before = servers.n_requests();
    let tokens_before = BTreeMap::from(["llm", "other"].map(|it| (it, servers.of(it).n_tokens())));
    let _ = workspace.run(&[]).expect(0);
    let mut asked = servers.n_requests();
    for (name, n) in &mut asked {
        *n -= before[name];
        let of_plan = planned
            .get(*name)
            .cloned()
            .unwrap_or_else(|| json!({"calls": 0}));
        assert_eq!(
            number(&of_plan, "calls"),
            *n,
            "{name} {stages}: {planned:?}"
        );
        if *n == 0 {
            continue;
        }
        let tokens = (servers.of(name).n_tokens() - tokens_before[name]) as f64;
        let (prompt, reply) = (
            number(&of_plan, "prompt_tokens") as f64,
            number(&of_plan, "completion_tokens") as f64,
        );
        let ratio = (prompt + reply) / tokens;
        assert!(
            (1.0 / TOKENS_OFF..TOKENS_OFF).contains(&ratio),
            "{name} {stages}: {tokens} tokens, {of_plan}"
        );
        let money = (prompt * PROMPT_PRICE + reply * REPLY_PRICE) / 1e6;
        assert!((of_plan["money"].as_f64().unwrap() - money).abs() < 1e-9);
    }
    asked
}

#[track_caller]
fn check_new(stages: &str, expected: [u64; 2]) {
    let servers = Servers::new();
    let workspace = workspace(&servers, stages);
    let asked = check(&servers, &workspace, stages);
    let expected = BTreeMap::from([("llm", expected[0]), ("other", expected[1])]);
    assert_eq!(asked, expected, "{stages}");
    // Nothing is left to ask.
    assert_eq!(planned(&workspace), BTreeMap::new(), "{stages}");
}

const JUDGE: &str = "judge: {endpoint: other, keep: all}";
const SELECT: &str = "demonstrations: {dataset: pairs, count: 2, select: {endpoint: other, sets: 3, \
                      held_out: 4}}";

/// Ten documents have a text.
#[test]
fn every_request_of_queries_is_planned() {
    let queries =
        |more: &str| format!("\n  queries: {{kind: synthetic_queries, endpoint: llm, {more}}}\n");
    check_new(&queries(""), [10, 0]);
    check_new(&queries("per_document: 3"), [30, 0]);
    check_new(
        &queries("strategy: separate, grades: esci, per_document: 2"),
        [80, 0],
    );
    check_new(
        &queries("document_bytes: 3000, long_documents: reject"),
        [9, 0],
    );
    check_new(&queries(JUDGE), [10, 10]);
    // A judge is shown 32 queries at a time, and their document once.
    check_new(&queries(&format!("per_document: 9, {JUDGE}")), [90, 20]);
    check_new(&queries("demonstrations: {dataset: pairs}"), [10, 0]);
    // What stands before each held-out query behind each set, the same with the query, and what is
    // asked first to find out what the server can.
    check_new(&queries(SELECT), [10, 2 * 3 * 4 + 1]);
    check_new(
        &queries(&format!("{SELECT}, {JUDGE}")),
        [10, 2 * 3 * 4 + 1 + 10],
    );
}

#[test]
fn every_request_of_graded_documents_is_planned() {
    let graded = |more: &str| {
        format!("\n  graded: {{kind: graded_documents, queries: mine, endpoint: llm, {more}}}\n")
    };
    check_new(&graded(""), [5, 0]);
    check_new(&graded("per_query: 2, grades: binary"), [10, 0]);
    check_new(&graded(JUDGE), [5, 5]);
    // Of queries that are not there yet, all are thought to stay.
    let both = format!(
        "
  queries: {{kind: synthetic_queries, endpoint: llm, filter: {{reject: []}}}}
  graded: {{kind: graded_documents, input: queries, endpoint: llm, {JUDGE}}}
"
    );
    check_new(&both, [10 + 40, 40]);
}

#[test]
fn every_request_for_losses_is_planned() {
    let losses = |more: &str| {
        format!(
            "\n  losses: {{kind: loss_reduction, prior: {{endpoint: other}}, conditional: {{endpoint: \
             other, model: tuned}}{more}}}\n"
        )
    };
    // The document of blanks has tokens.
    check_new(&losses(""), [0, 2 * 11 + 2]);
}

/// What is there is not planned again: queries of another run, and everything that other filters
/// decide anew.
#[test]
fn what_is_left_is_planned() {
    let servers = Servers::new();
    let with = |top_k: u32| {
        format!(
            "\n  queries: {{kind: synthetic_queries, endpoint: llm, filter: {{bm25_top_k: {top_k}}}}}\n"
        )
    };
    let stages = with(12);
    let workspace = workspace(&servers, &stages);
    let _ = check(&servers, &workspace, &stages);

    // Other filters ask nothing.
    let strict = with(1);
    workspace.write("job.yaml", servers.job(&strict));
    assert_eq!(check(&servers, &workspace, &strict)["llm"], 0);

    // Only queries that stay get documents.
    let both =
        format!("{strict}  graded: {{kind: graded_documents, input: queries, endpoint: llm}}\n");
    workspace.write("job.yaml", servers.job(&both));
    let n_ok = super::count(&workspace, "queries WHERE status = 'ok'");
    let n_rows = super::count(&workspace, "queries");
    assert!(n_ok < n_rows, "{n_ok} of {n_rows}");
    assert_eq!(check(&servers, &workspace, &both)["llm"], n_ok);

    // Other documents, whatever tasks they are put into: what was answered is found by its request,
    // and a plan does not look for each.
    workspace.write("job.yaml", servers.job(&stages));
    let path = workspace.path().join("corpus/part-1.parquet");
    write_parquet(&path, &documents(20)[15..], ROWS_PER_GROUP);
    let planned = number(&planned(&workspace)["llm"], "calls");
    let before = servers.n_requests()["llm"];
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(servers.n_requests()["llm"] - before, 5);
    assert!((5..=15).contains(&planned), "{planned}");
}
