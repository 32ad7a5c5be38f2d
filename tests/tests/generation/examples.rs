//! Few-shot examples: chosen by the losses of held-out queries, and seen where they leak.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use gleaner_scripted_endpoint::losses::{log_likelihoods, tokens};
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
            }
            None => seen.written.push(request.body["messages"].to_string()),
        }
        Play::Answer
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
    let loss = |prompt: &str| -> f64 {
        let tokens = tokens(prompt);
        -log_likelihoods("any", &tokens).iter().skip(1).sum::<f64>()
    };
    // By the examples that stand before the document: the losses of queries, by the server's model.
    let mut sets: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut held_out = BTreeSet::new();
    for whole in &prompts.rated {
        let Some((before, rated)) = whole.rsplit_once("\nQuery: ") else {
            continue;
        };
        let Some((set, _)) = before.rsplit_once("Document: ") else {
            continue;
        };
        let before = format!("{before}\nQuery:");
        // What ends with the document of a query begins what ends with the query.
        if !prompts.rated.contains(&before) {
            continue;
        }
        held_out.insert(rated.to_owned());
        let n_tokens = tokens(whole).len() - tokens(&before).len();
        let loss = (loss(whole) - loss(&before)) / n_tokens as f64;
        sets.entry(set).or_default().push(loss);
    }
    assert_eq!(held_out.len(), HELD_OUT);
    assert_eq!(sets.len(), SETS);
    assert!(sets.values().all(|losses| losses.len() == HELD_OUT));
    let mean = |losses: &Vec<f64>| losses.iter().sum::<f64>() / losses.len() as f64;
    let best = sets.iter().min_by(|a, b| mean(a.1).total_cmp(&mean(b.1)));
    let (best, _) = best.unwrap();
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
    assert!(held_out.iter().all(|query| !best.contains(query.as_str())));
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
