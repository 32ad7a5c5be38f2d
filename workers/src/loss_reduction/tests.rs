use std::collections::BTreeMap;

use gleaner_models::Tokenizer;
use gleaner_models::train::{Size, TrainedTokenizer};
use gleaner_schemas::job::Job;
use serde_json::json;

use super::*;
use crate::forecast::ExpectedWorkers;
use crate::language_model::InspectedModel;
use crate::testing::{job, job_with_endpoint};

fn implied(job: &Job) -> Vec<(String, Value)> {
    let stages = LossReductionKind.implied(job, "l").unwrap();
    let plain = stages
        .into_iter()
        .map(|stage| (stage.name, json!(stage.spec.params)));
    plain.collect()
}

fn message(stages: &str) -> String {
    let job = job(stages);
    let implied = LossReductionKind.implied(&job, "l").map(drop);
    let checked = LossReductionKind.check(&job, "l").map(drop);
    implied.and(checked).unwrap_err().message
}

#[test]
fn models_to_be_trained_become_stages_in_the_order_of_their_needs() {
    let two = "  l:\n    kind: loss_reduction\n    prior: train(5m)\n    conditional: \
               continue(prior, one)\n    models:\n      other: continue(conditional, two)\n";
    assert_eq!(
        implied(&job(two)),
        [
            (
                "l_prior".to_owned(),
                json!({"size": "5m", "input": "corpus"})
            ),
            (
                "l_conditional".to_owned(),
                json!({"from": "l_prior", "dataset": "one"})
            ),
            (
                "l_other".to_owned(),
                json!({"from": "l_conditional", "dataset": "two"})
            ),
        ]
    );
    let from_directory =
        "  l: {kind: loss_reduction, prior: models/a, conditional: 'continue(prior, one)'}\n";
    assert_eq!(
        implied(&job(from_directory)),
        [(
            "l_conditional".to_owned(),
            json!({"from": "models/a", "dataset": "one"})
        )]
    );
    let chain = "  l:\n    kind: loss_reduction\n    prior: train(5m)\n    conditional: \
                 continue(mid, one)\n    models:\n      mid: continue(prior, two)\n";
    let names: Vec<String> = implied(&job(chain)).into_iter().map(|it| it.0).collect();
    assert_eq!(names, ["l_prior", "l_mid", "l_conditional"]);
    let brought = "  l: {kind: loss_reduction, prior: models/a, conditional: models/b}\n";
    assert_eq!(implied(&job(brought)), []);
}

#[test]
fn what_cannot_be_is_said() {
    let check = |params: &str, expected: &str| {
        let found = message(&format!("  l: {{kind: loss_reduction, {params}}}\n"));
        assert!(found.contains(expected), "{params}: {found}");
    };
    check("unit: document", "there is no model");
    check("conditional: a", "there is no `prior`");
    check("prior: 'continue(other, one)'", "`other` is no other model");
    check("prior: 'continue(prior, one)'", "`prior` is no other model");
    check(
        "prior: a, conditional: 'continue(prior, x)'",
        "there is no dataset `x`",
    );
    check(
        "prior: 'continue(conditional, one)', conditional: 'continue(prior, one)'",
        "start from each other",
    );
    check("prior: a, models: {Bad: b}", "cannot be the name");
    check("prior: a, models: {prior: b}", "cannot be the name");
    check("prior: a, context: 1", "predicts nothing");
    check("prior: a, max_tokens: 0", "no token would be left");
    check("prior: a, input: x", "there is no stage `x`");
    let other = "  w: {kind: select, by: w.x, method: top_k, documents: 1}\n  l: {kind: \
                 loss_reduction, prior: w}\n";
    let found = message(other);
    assert!(
        found.contains("stage `w` trains no language model"),
        "{found}"
    );
    let selection = "  w: {kind: select, by: w.x, method: top_k, documents: 1}\n  l: {kind: \
                     loss_reduction, input: w, prior: a}\n";
    let found = message(selection);
    assert!(found.contains("does not hold documents"), "{found}");
    let taken = "  l_prior: {kind: select, by: w.x, method: top_k, documents: 1}\n  l: {kind: \
                 loss_reduction, prior: train(1m)}\n";
    let found = message(taken);
    assert!(found.contains("has a stage of this name"), "{found}");
}

#[test]
fn what_servers_cannot_do_is_said() {
    let check = |params: &str, expected: &str| {
        let job = job_with_endpoint(&format!("  l: {{kind: loss_reduction, {params}}}\n"));
        let implied = LossReductionKind.implied(&job, "l").map(drop);
        let checked = LossReductionKind.check(&job, "l").map(drop);
        let found = match implied.and(checked) {
            Ok(()) => "fine".to_owned(),
            Err(error) => error.message,
        };
        assert!(found.contains(expected), "{params}: {found}");
    };
    let pair = "prior: {endpoint: llm}, conditional: {endpoint: llm, model: tuned}";
    check(pair, "fine");
    check("prior: {endpoint: llm, log_probabilities: echo}", "fine");
    check(
        "prior: {endpoint: llm, log_probabilities: x}",
        "`x` is not possible here",
    );
    check("prior: {endpoint: x}", "there is no endpoint `x`");
    check(
        "prior: a, models: {b: {endpoint: x}}",
        "there is no endpoint `x`",
    );
    check("prior: {endpont: llm}", "there is no key `endpont` here");
    check("prior: 3", "a stage, a directory");
    check(&format!("{pair}, unit: sequence"), "without its tokenizer");
    check(
        &format!("{pair}, device: cpu"),
        "`device` is about models that compute here",
    );
    check(
        &format!("{pair}, dtype: f32"),
        "`dtype` is about models that compute here",
    );
    check("prior: a, conditional: {endpoint: llm}, dtype: f32", "fine");
    check(
        "prior: {endpoint: llm}, conditional: 'continue(prior, one)'",
        "`prior` is a server's",
    );
}

#[test]
fn tasks_of_servers_wait_on_the_network_and_depend_on_url_and_model() {
    let stage = |endpoint: &str, params: &str| {
        let stages = format!("  l: {{kind: loss_reduction, {params}}}\n");
        let mut job = job_with_endpoint(&stages);
        let text = job.source.text.replace("model: tiny", endpoint);
        let name = job.source.name.clone();
        job = Job::parse(gleaner_schemas::job::JobSource { name, text }).unwrap();
        LossReductionKind.check(&job, "l").unwrap()
    };
    let score = |endpoint: &str, params: &str| {
        let step = stage(endpoint, params).next(&Completed {
            maps: &BTreeMap::new(),
            reduces: &BTreeMap::new(),
            published: None,
            others: &BTreeMap::new(),
            stages: &BTreeMap::new(),
            models: &BTreeMap::new(),
            corpus_schema: &Arc::new(arrow::datatypes::Schema::empty()),
        });
        match step.unwrap() {
            Step::Map(phase) => phase.params,
            other => panic!("{other:?}"),
        }
    };
    let plain = "prior: {endpoint: llm}";
    let served = stage("model: tiny", plain);
    assert_eq!(served.resource(), Resource::Network);
    assert_eq!(served.task_bytes_max(SCORE), Some(SERVED_TASK_BYTES));
    assert_eq!(served.needs(), [Need::Corpus]);
    let here = stage("model: tiny", "prior: a");
    assert_eq!(here.resource(), Resource::Cpu);
    assert_eq!(here.task_bytes_max(SCORE), None);
    let mixed = "prior: a, conditional: {endpoint: llm}, device: cuda:0";
    assert_eq!(
        stage("model: tiny", mixed).resource(),
        Resource::Accelerator
    );

    let known = score("model: tiny", plain);
    assert_eq!(score("model: tiny, concurrency: 3", plain), known);
    assert_eq!(score("model: tiny, api_key_env: KEY", plain), known);
    // The endpoint's own model by another name for it.
    assert_eq!(
        score("model: tiny", "prior: {endpoint: llm, model: tiny}"),
        known
    );
    assert_ne!(score("model: large", plain), known);
    assert_ne!(
        score("model: tiny", "prior: {endpoint: llm, model: large}"),
        known
    );
}

/// A model of a directory: what it computes, and the texts that its tokenizer was trained on.
fn inspected(context: usize, words: &str, has_eos: bool) -> InspectedModel {
    let texts = [words.repeat(50)];
    let trained = TrainedTokenizer::from_texts(texts.iter().map(String::as_str), 300).unwrap();
    let path = std::path::Path::new("tokenizer.json");
    let tokenizer = Tokenizer::from_bytes(trained.json(), path).unwrap();
    let mut architecture = Size::M1.architecture(tokenizer.n_ids()).unwrap();
    architecture.max_positions = context;
    let eos_id = has_eos.then_some(0);
    InspectedModel {
        facts: ModelFacts::new(Vec::new(), &architecture, &tokenizer, eos_id),
        architecture,
        tokenizer,
    }
}

/// What a whole job's stages foresee, in the order of their needs.
fn forecasts(
    stages: &str,
    models: &BTreeMap<String, InspectedModel>,
    workers: ExpectedWorkers,
) -> Result<BTreeMap<String, Forecast>, JobError> {
    let mut job = job(stages);
    for stage in LossReductionKind.implied(&job, "l").unwrap() {
        job.insert_implied("l", stage.name, stage.spec, stage.asked_at);
    }
    let mut known = BTreeMap::new();
    let names: Vec<String> = job.file.stages.iter().map(|it| it.0.to_owned()).collect();
    for name in names {
        let stage = crate::testing::check(&job, &name)?;
        let forecast = stage.forecast(&BeforeRun {
            job: &job,
            models,
            stages: &known,
            corpus_bytes: 1 << 40,
            dataset_bytes: &BTreeMap::from([("one".to_owned(), 1 << 20)]),
            workers,
        })?;
        known.insert(name, forecast);
    }
    Ok(known)
}

const HERE: ExpectedWorkers = ExpectedWorkers::Here {
    n_slots: 2,
    n_threads: 2,
};

#[test]
fn models_must_fit_each_other_and_what_is_asked_of_them() {
    let models = BTreeMap::from([
        ("a".to_owned(), inspected(128, "some words ", true)),
        ("b".to_owned(), inspected(64, "some words ", true)),
        ("other".to_owned(), inspected(128, "quite different ", true)),
        ("endless".to_owned(), inspected(128, "some words ", false)),
    ]);
    let ask = |params: &str| {
        let stage = format!("  l: {{kind: loss_reduction, {params}}}\n");
        forecasts(&stage, &models, HERE)
    };
    // The place is that of the value which asks for it.
    let check = |params: &str, place: &str, expected: &str| {
        let error = ask(params).unwrap_err();
        assert!(
            error.message.contains(expected),
            "{params}: {}",
            error.message
        );
        let stage = format!("  l: {{kind: loss_reduction, {params}}}\n");
        let text = job(&stage).source.text;
        let span = error.span.unwrap_or_else(|| panic!("{params}: no place"));
        assert_eq!(
            &text[span.offset..span.offset + span.length],
            place,
            "{params}"
        );
    };
    assert!(ask("prior: a, conditional: b").is_ok());
    assert!(ask("prior: a, conditional: b, context: 64").is_ok());
    check(
        "prior: a, conditional: b, context: 100",
        "100",
        "longer than the 64 that the model conditional",
    );
    check(
        "prior: train(1m), context: 500",
        "500",
        "longer than the 128",
    );
    check(
        "prior: a, conditional: other",
        "other",
        "different tokenizers",
    );
    check(
        "prior: a, conditional: train(1m)",
        "train(1m)",
        "different tokenizers",
    );
    let of_two_inputs = "prior: train(1m), conditional: train(5m)";
    check(of_two_inputs, "train(5m)", "different tokenizers");
    assert!(ask("prior: train(1m), conditional: train(1m)").is_ok());
    assert!(ask("prior: a, conditional: 'continue(prior, one)'").is_ok());
    check("prior: endless", "endless", "which token ends a document");
    assert!(ask("prior: endless, eos: <|endoftext|>").is_ok());
    check(
        "prior: endless, eos: <end>",
        "<end>",
        "is no token of the model prior",
    );
    check(
        "prior: endless, conditional: 'continue(prior, one)'",
        "'continue(prior, one)'",
        "which token ends a document",
    );
    assert!(ask("prior: endless, conditional: 'continue(prior, one)', eos: <|endoftext|>").is_ok());
    check("prior: a, device: cuda:0", "cuda:0", "cuda:0");
    let frozen = |n_layers: u32| {
        let stage = format!(
            "  t: {{kind: train_language_model, from: a, dataset: one, frozen_layers: {n_layers}}}\n"
        );
        forecasts(&stage, &models, HERE)
    };
    assert!(frozen(2).is_ok());
    let error = frozen(3).unwrap_err();
    assert!(error.message.contains("has 3 layers"), "{}", error.message);
    let elsewhere = "  l: {kind: loss_reduction, prior: a, device: cuda:0}\n";
    assert!(forecasts(elsewhere, &models, ExpectedWorkers::Elsewhere).is_ok());
}

#[test]
fn what_does_not_fit_into_memory_is_told_with_its_figures() {
    let models = BTreeMap::new();
    let ask = |params: &str, workers| {
        let stage = format!("  l: {{kind: loss_reduction, {params}}}\n");
        forecasts(&stage, &models, workers)
    };
    let error = ask("prior: train(125m)", HERE).unwrap_err();
    for expected in [
        "training this model takes 1",
        "GiB",
        "a slot has 2GiB",
        "a checkpoint",
    ] {
        assert!(error.message.contains(expected), "{}", error.message);
    }
    let help = error.help.unwrap();
    assert!(
        help.contains("raise `memory` to ") && help.contains("GiB"),
        "{help}"
    );
    let small = ask(
        "prior: train(1m), conditional: 'continue(prior, one)'",
        HERE,
    )
    .unwrap();
    let memory = small["l"].memory.clone().unwrap();
    assert!((512 << 20..600 << 20).contains(&memory.bytes), "{memory}");
    // The models' weights, twice 1.2 million parameters of four bytes.
    assert!((8 << 20..12 << 20).contains(&memory.parts[0].1), "{memory}");
    // Weights that leave no room for documents.
    let large = inspected(128, "some words ", true);
    let large = InspectedModel {
        architecture: Size::M125.architecture(1 << 19).unwrap(),
        ..large
    };
    let models = BTreeMap::from([("a".to_owned(), large)]);
    let error = forecasts("  l: {kind: loss_reduction, prior: a}\n", &models, HERE).unwrap_err();
    assert!(
        error.message.contains("weights 1.9 GiB"),
        "{}",
        error.message
    );
    let halves = "  l: {kind: loss_reduction, prior: a, dtype: bf16}\n";
    assert!(forecasts(halves, &models, HERE).is_ok());
}

#[test]
fn tasks_of_large_models_are_cut_smaller() {
    let models = BTreeMap::from([("a".to_owned(), inspected(128, "some words ", true))]);
    let ask = |params: &str| {
        let stage = format!("  l: {{kind: loss_reduction, {params}}}\n");
        let forecast = forecasts(&stage, &models, HERE)
            .unwrap()
            .remove("l")
            .unwrap();
        (forecast.task_bytes_max.unwrap(), forecast.speed.unwrap())
    };
    let (one, speed) = ask("prior: a");
    let (two, _) = ask("prior: a, models: {again: a}");
    assert!(two < one && two.is_power_of_two(), "{two} {one}");
    let (on_gpu, _) = forecasts(
        "  l: {kind: loss_reduction, prior: a, device: cuda:1}\n",
        &models,
        ExpectedWorkers::Elsewhere,
    )
    .map(|mut it| it.remove("l").map(|it| (it.task_bytes_max.unwrap(), ())))
    .unwrap()
    .unwrap();
    assert!(on_gpu > one);
    // Half the time of a task, and what is cut of documents takes none.
    let shard = |bytes, n_rows| gleaner_schemas::Shard {
        slices: vec![gleaner_schemas::Slice {
            file: Arc::new(crate::testing::source_file()),
            row_groups: None,
            first_row: 0,
            n_rows: Some(n_rows),
            bytes,
            row_group_facts: Vec::new(),
        }],
        companions: Vec::new(),
        effect: None,
    };
    let seconds = speed.seconds(&shard(one, 10));
    assert!((300.0..=600.0).contains(&seconds), "{seconds}");
    let (_, cut) = ask("prior: a, max_tokens: 10");
    assert!(cut.seconds(&shard(one, 10)) < 1.0);
}
