//! Few-shot examples: chosen by the losses of held-out queries, and seen where they leak.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use gleaner_scripted_endpoint::losses::tokens;
use gleaner_scripted_endpoint::{Play, Request, Script};
use serde_json::json;

use super::{Server, count, job, workspace};
use crate::reports::{embedded, html_of, section};

const DOCUMENTS: usize = 5;
const PAIRS: usize = 12;
const SETS: usize = 3;
const HELD_OUT: usize = 4;
const COUNT: usize = 2;

fn query(pair: usize) -> String {
    format!(
        "which pier of crossing {pair} stands in water {}",
        pair * 31
    )
}

fn pairs() -> String {
    let mut lines = String::new();
    for pair in 0..PAIRS {
        let text = format!(
            "Crossing {pair} has {} piers, of which some stand in water.",
            pair + 2
        );
        let line = json!({ "id": format!("p{pair}"), "text": text, "source": query(pair) });
        let _ = writeln!(lines, "{line}");
    }
    lines
}

/// Losses of a prompt under a model that likes some examples better than others: each token has the
/// same, which depends on what stands before the last document.
fn losses(prompt: &str) -> Play {
    let loss = loss_behind(prompt.rsplit_once("Document: ").map_or("", |(set, _)| set));
    let told = tokens(prompt)
        .into_iter()
        .enumerate()
        .map(|(idx, token)| match idx {
            0 => json!(null),
            _ => json!({ "7": { "logprob": -loss, "rank": 1, "decoded_token": token } }),
        });
    let told: Vec<_> = told.collect();
    let choice = json!({ "text": " x", "finish_reason": "length", "prompt_logprobs": told });
    let usage = json!({ "prompt_tokens": told.len(), "completion_tokens": 1 });
    Play::Body(
        json!({ "choices": [choice], "usage": usage })
            .to_string()
            .into_bytes(),
    )
}

fn loss_behind(set: &str) -> f64 {
    let sum: u64 = set
        .bytes()
        .enumerate()
        .map(|(idx, byte)| (idx as u64 + 1) * u64::from(byte))
        .sum();
    1.0 + (sum % 997) as f64 / 500.0
}

/// Prompts that losses were asked for, and those that queries were asked for with.
#[derive(Default)]
struct Prompts {
    rated: BTreeSet<String>,
    written: Vec<String>,
}

#[test]
fn the_set_is_shown_under_which_held_out_queries_are_likeliest() {
    let prompts = Arc::new(Mutex::new(Prompts::default()));
    let seen = Arc::clone(&prompts);
    let script: Script = Arc::new(move |request: &Request| {
        let mut seen = seen.lock().unwrap();
        match request.body["prompt"].as_str() {
            Some(prompt) => {
                seen.rated.insert(prompt.to_owned());
                losses(prompt)
            }
            None => {
                seen.written.push(request.body["messages"].to_string());
                Play::Answer
            }
        }
    });
    let server = Server::playing(script);
    let stages = format!(
        "
  queries: {{kind: synthetic_queries, endpoint: llm, demonstrations: {{dataset: pairs, count: {COUNT}, \
         select: {{sets: {SETS}, held_out: {HELD_OUT}}}}}}}
"
    );
    let text = job(&server.url(), "", &stages).replace(
        "endpoints:",
        "datasets: {pairs: {paths: [pairs.jsonl]}}\nendpoints:",
    );
    let workspace = workspace(DOCUMENTS, &text);
    workspace.write("pairs.jsonl", pairs());
    let ended = workspace.run(&[]).expect(0);
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        shown.contains(&format!("of {SETS} sets of examples")),
        "{shown}"
    );

    let prompts = prompts.lock().unwrap();
    // The queries that were rated behind each set of examples.
    let mut sets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for whole in &prompts.rated {
        let Some((before, rated)) = whole.rsplit_once("\nQuery: ") else {
            continue;
        };
        let Some((set, _)) = before.rsplit_once("Document: ") else {
            continue;
        };
        // What ends with the document of a query begins what ends with the query.
        if prompts.rated.contains(&format!("{before}\nQuery:")) {
            sets.entry(set).or_default().insert(rated);
        }
    }
    assert_eq!(sets.len(), SETS);
    let held_out = sets.values().next().unwrap();
    assert_eq!(held_out.len(), HELD_OUT);
    assert!(sets.values().all(|rated| rated == held_out));
    let best = sets
        .keys()
        .min_by(|a, b| loss_behind(a).total_cmp(&loss_behind(b)));
    let best = best.unwrap();
    let in_best: Vec<usize> = (0..PAIRS)
        .filter(|pair| best.contains(&query(*pair)))
        .collect();
    assert_eq!(in_best.len(), COUNT);
    assert_eq!(prompts.written.len(), DOCUMENTS);
    for written in &prompts.written {
        for pair in 0..PAIRS {
            let is_shown = written.contains(&query(pair));
            assert_eq!(is_shown, in_best.contains(&pair), "{pair} {written}");
        }
    }
    // Held-out queries are in no set.
    assert!(held_out.iter().all(|query| !best.contains(query)));
}

/// A text that repeats an example is flagged, left out, and counted.
#[test]
fn examples_that_leak_into_texts_are_seen() {
    let script: Script = Arc::new(|request: &Request| {
        let messages = request.body["messages"].to_string();
        let text = gleaner_scripted_endpoint::answer::completion(&request.body, Default::default());
        let shown = (0..PAIRS).map(query).find(|query| messages.contains(query));
        let Some(shown) = shown.filter(|_| request.number == 0) else {
            return Play::Answer;
        };
        // The first query is an example, in other words than it has.
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let entries = value.as_object_mut().unwrap();
        let first = entries.values_mut().next().unwrap();
        first["query"] = json!(shown.to_uppercase());
        Play::Text(value.to_string(), "stop")
    });
    let server = Server::playing(script);
    let stages = "
  queries: {kind: synthetic_queries, endpoint: llm, demonstrations: {dataset: pairs}}
";
    let text = job(&server.url(), "concurrency: 1", stages).replace(
        "endpoints:",
        "datasets: {pairs: {paths: [pairs.jsonl]}}\nendpoints:",
    );
    let workspace = workspace(DOCUMENTS, &text);
    workspace.write("pairs.jsonl", pairs());
    let _ = workspace.run(&[]).expect(0);
    let leaked = "queries WHERE array_has(flags, 'few_shot_leak') AND status = 'rejected'";
    assert_eq!(count(&workspace, leaked), 1);
    let report = embedded(&html_of(&workspace, &[]));
    let flags = &section(&report, "generation", Some("queries"))["operation"]["flags"];
    let flags = flags.as_array().unwrap();
    let leak = flags.iter().find(|it| it["flag"] == "few_shot_leak");
    assert_eq!(leak.unwrap_or_else(|| panic!("{flags:?}"))["rows"], 1);
}
