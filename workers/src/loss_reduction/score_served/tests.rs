mod scene;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::AsArray as _;
use arrow::datatypes::{Float32Type, UInt32Type};
use gleaner_endpoint::{FailureClass, LossDialect};
use gleaner_schemas::FailureKind;
use gleaner_scripted_endpoint::losses::{log_likelihoods, tokens};
use gleaner_scripted_endpoint::{Play, PromptLosses, Script, ServerOptions, always};
use serde_json::json;

use self::scene::{Scene, number, params, text};
use super::*;
use crate::generation::EndpointIdentity;
use crate::loss_reduction::model_param::{LogProbabilities, ServedModel};

/// Documents by text; those without one cannot be read.
const DOCUMENTS: [Option<&str>; 6] = [
    Some("Rivers carry silt to the sea, and bridges carry people over rivers."),
    Some(""),
    Some("word"),
    None,
    Some("Two words"),
    Some("A poison apple"),
];

/// Means of losses as the scripted server has them, of all tokens but the first `n_without`.
fn mean_loss(model: &str, text: &str, n_without: usize) -> f64 {
    let likelihoods = log_likelihoods(model, &tokens(text));
    let losses = &likelihoods[n_without..];
    -losses.iter().sum::<f64>() / losses.len() as f64
}

fn options(prompt_losses: PromptLosses) -> ServerOptions {
    ServerOptions {
        prompt_losses,
        ..ServerOptions::default()
    }
}

#[test]
fn rows_hold_the_losses_that_servers_tell() {
    let mut of_forms = Vec::new();
    for known in [PromptLosses::Both, PromptLosses::Echo] {
        let scene = Scene::of(always(Play::Answer), options(known));
        let rows = scene.run(&scene.pair(), &DOCUMENTS).unwrap();
        let long = DOCUMENTS[0].unwrap();
        let n_predicted = tokens(long).len() - 1;
        assert_eq!(number(&rows, "n_tokens", 0), n_predicted as f64);
        assert_eq!(number(&rows, "n_bytes", 0), long.len() as f64);
        let (prior, conditional) = (mean_loss("tiny", long, 1), mean_loss("tuned", long, 1));
        let close = |name: &str, expected: f64| {
            let found = number(&rows, name, 0);
            assert!(
                (found - expected).abs() < 1e-6,
                "{name}: {found} {expected}"
            );
        };
        close("prior_nll", prior);
        close("conditional_nll", conditional);
        close("loss_reduction", prior - conditional);
        close("perplexity", prior.exp());
        let lists = rows.column_by_name("token_nll_prior").unwrap();
        let losses = lists.as_list::<i32>().value(0);
        let losses = losses.as_primitive::<Float32Type>().values().to_vec();
        let expected: Vec<f32> = log_likelihoods("tiny", &tokens(long))[1..]
            .iter()
            .map(|it| -it as f32)
            .collect();
        assert_eq!(losses, expected);
        // In order, and with their ends: empty, one token, not readable.
        let column = |name: &str| -> Vec<String> {
            (0..DOCUMENTS.len())
                .map(|row| text(&rows, name, row))
                .collect()
        };
        assert_eq!(column("doc_id"), ["d0", "d1", "d2", "d3", "d4", "d5"]);
        assert_eq!(
            column("status"),
            ["ok", "ineligible", "ineligible", "rejected", "ok", "ok"]
        );
        assert_eq!(
            column("reason")[1..4],
            ["no token", "no token", "not UTF-8"]
        );
        of_forms.push(rows);
    }
    assert_eq!(of_forms[0], of_forms[1]);
}

#[test]
fn nothing_is_asked_for_twice() {
    let scene = Scene::of(always(Play::Answer), ServerOptions::default());
    let first = scene.run(&scene.pair(), &DOCUMENTS).unwrap();
    // A probe for each model, and each document with a token for each.
    assert_eq!(scene.n_requests(), 2 + 2 * 4);
    let second = scene.run(&scene.pair(), &DOCUMENTS).unwrap();
    assert_eq!(first, second);
    assert_eq!(scene.n_requests(), 2 + 2 * 4);
}

#[test]
fn a_server_that_does_not_tell_ends_the_run() {
    let check = |script: Script, known: PromptLosses, log_probabilities, words: &[&str]| {
        let scene = Scene::of(script, options(known));
        let mut served = scene.served("llm", None);
        served.log_probabilities = log_probabilities;
        let failure = scene
            .run(&params(vec![("prior", served)]), &DOCUMENTS)
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Endpoint, "{failure:?}");
        for words in words {
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    };
    check(
        always(Play::Answer),
        PromptLosses::Ignored,
        LogProbabilities::Auto,
        &[
            "endpoint llm, model tiny: the server does not tell log-probabilities of prompts",
            "asked with `prompt_logprobs`",
            "asked with `echo` and `logprobs`",
        ],
    );
    // It knows another way than the one that the job asks for.
    check(
        always(Play::Answer),
        PromptLosses::Echo,
        LogProbabilities::PromptLogprobs,
        &["does not tell log-probabilities"],
    );
    let no_key = Play::Status(401, Vec::new(), "{\"error\": \"no key\"}".to_owned());
    let class = FailureClass::Authentication;
    check(
        always(no_key),
        PromptLosses::Both,
        LogProbabilities::Auto,
        &[class.as_str()],
    );
}

#[test]
fn a_server_that_was_mended_is_believed() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let script: Script = Arc::new(move |_| match mended.load(Ordering::Relaxed) {
        true => Play::Answer,
        false => Play::Body(br#"{"choices": [{"text": "a", "finish_reason": "stop"}]}"#.to_vec()),
    });
    let scene = Scene::of(script, ServerOptions::default());
    let mut served = scene.served("llm", None);
    let refused = |scene: &Scene, served: &ServedModel| {
        let params = params(vec![("prior", served.clone())]);
        scene.run(&params, &DOCUMENTS).unwrap_err().message
    };
    let n_forms = LossDialect::ALL.len();
    for n_runs in 1..=3 {
        let message = refused(&scene, &served);
        assert!(message.contains("does not tell"), "{message}");
        // Each run asks it once in each form: what it said before is no answer.
        assert_eq!(scene.n_requests(), n_runs * n_forms);
    }
    served.log_probabilities = LogProbabilities::Echo;
    refused(&scene, &served);
    assert_eq!(scene.n_requests(), 3 * n_forms + 1);
    is_mended.store(true, Ordering::Relaxed);
    served.log_probabilities = LogProbabilities::Auto;
    let rows = scene.run(&params(vec![("prior", served.clone())]), &DOCUMENTS);
    assert_eq!(text(&rows.unwrap(), "status", 0), "ok");
    // What it tells now is stored, and never asked for again.
    let n_requests = scene.n_requests();
    scene
        .run(&params(vec![("prior", served)]), &DOCUMENTS)
        .unwrap();
    assert_eq!(scene.n_requests(), n_requests);
}

#[test]
fn a_server_that_has_learnt_the_token_in_front_is_believed() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let script: Script = Arc::new(move |request| {
        let prompt = request.body["prompt"].as_str().unwrap_or_default();
        match prompt.starts_with("<end> ") && !mended.load(Ordering::Relaxed) {
            true => Play::Body(br#"{"choices": [{"text": "a"}]}"#.to_vec()),
            false => Play::Answer,
        }
    });
    let scene = Scene::of(script, ServerOptions::default());
    let mut params = params(vec![("prior", scene.served("llm", None))]);
    params.eos = Some("<end> ".to_owned());
    for _ in 0..2 {
        let message = scene.run(&params, &DOCUMENTS).unwrap_err().message;
        assert!(message.contains("in front of a text"), "{message}");
    }
    is_mended.store(true, Ordering::Relaxed);
    let rows = scene.run(&params, &DOCUMENTS).unwrap();
    assert_eq!(text(&rows, "status", 0), "ok");
}

/// As llama-cpp-python answers for a model without a token before a text: the generated token is
/// counted, not listed, and all likelihoods are one place off.
#[test]
fn tokens_out_of_step_are_no_losses() {
    let script: Script = Arc::new(|request| {
        if request.body.get("echo").is_none() {
            return Play::Answer;
        }
        let texts = tokens(request.body["prompt"].as_str().unwrap_or_default());
        let mut likelihoods = vec![json!(-1.0); texts.len()];
        likelihoods[0] = json!(null);
        let body = json!({
            "choices": [{ "logprobs": { "tokens": texts, "token_logprobs": likelihoods } }],
            "usage": { "prompt_tokens": texts.len(), "completion_tokens": 1 },
        });
        Play::Body(body.to_string().into_bytes())
    });
    let scene = Scene::of(script, options(PromptLosses::Ignored));
    let failure = scene.run(&scene.pair(), &DOCUMENTS).unwrap_err();
    let expected = "it lists other tokens than those of the prompt";
    assert!(failure.message.contains(expected), "{}", failure.message);
}

#[test]
fn what_is_wrong_with_one_document_rejects_it_alone() {
    let script: Script = Arc::new(|request| {
        let prompt = request.body["prompt"].as_str().unwrap_or_default();
        match prompt.contains("poison") {
            true => Play::Status(400, Vec::new(), "{\"error\": \"it is poison\"}".to_owned()),
            false => Play::Answer,
        }
    });
    let scene = Scene::of(script, ServerOptions::default());
    let rows = scene.run(&scene.pair(), &DOCUMENTS).unwrap();
    assert_eq!(text(&rows, "status", 4), "ok");
    assert_eq!(text(&rows, "status", 5), "rejected");
    let reason = text(&rows, "reason", 5);
    assert!(reason.contains("it is poison"), "{reason}");
}

#[test]
fn models_that_see_other_tokens_are_not_compared() {
    let other = json!({
        "choices": [{ "prompt_logprobs": [
            null,
            { "7": { "logprob": -1.0, "decoded_token": " words" } },
            { "8": { "logprob": -1.0, "decoded_token": "!" } },
        ] }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 1 },
    });
    let other = Play::Body(other.to_string().into_bytes());
    let other: Script = Arc::new(move |request| {
        let prompt = request.body["prompt"].as_str().unwrap_or_default();
        // What is asked first finds out what the server knows.
        match prompt.contains("words") {
            true => other.clone(),
            false => Play::Answer,
        }
    });
    let scene = Scene::new(vec![
        ("one", always(Play::Answer), ServerOptions::default()),
        ("other", other, ServerOptions::default()),
    ]);
    let params = params(vec![
        ("prior", scene.served("one", None)),
        ("conditional", scene.served("other", None)),
    ]);
    let check = |document: &str, expected: &str| {
        let rows = scene.run(&params, &[Some(document)]).unwrap();
        assert_eq!(text(&rows, "status", 0), "rejected");
        let reason = text(&rows, "reason", 0);
        assert!(reason.contains(expected), "{reason}");
    };
    check(
        "Two words",
        "the model prior counts 1 predicted tokens and conditional counts 2",
    );
    check("Now three words", "predicted token 0 is \" three\"");
}

#[test]
fn long_documents_are_cut_for_all_models_alike() {
    let words: Vec<String> = (0..100).map(|idx| format!("w{idx}")).collect();
    let long = words.join(" ");
    let of_context = |context: Option<usize>, change: fn(&mut ScoreParams)| {
        let options = ServerOptions {
            context,
            ..ServerOptions::default()
        };
        let scene = Scene::of(always(Play::Answer), options);
        let mut params = scene.pair();
        change(&mut params);
        let rows = scene
            .run(&params, &[Some(&long), Some("Two words")])
            .unwrap();
        let n_tokens = rows.column_by_name("n_tokens").unwrap();
        let n_tokens = n_tokens.as_primitive::<UInt32Type>().values().to_vec();
        let truncated = rows.column_by_name("truncated").unwrap();
        let truncated: Vec<bool> = truncated.as_boolean().iter().flatten().collect();
        assert_eq!(text(&rows, "status", 0), "ok");
        (n_tokens, truncated)
    };
    assert_eq!(of_context(None, |_| ()), (vec![99, 1], vec![false, false]));
    // Halved once: 389 bytes, of which 194 are left.
    let n_left = tokens(&long[..long.len() / 2]).len() as u32;
    assert_eq!(
        of_context(Some(60), |_| ()),
        (vec![n_left - 1, 1], vec![true, false])
    );
    let ten = |params: &mut ScoreParams| params.max_tokens = Some(10);
    assert_eq!(of_context(None, ten), (vec![10, 1], vec![true, false]));
    // By bytes alone, before anything is sent.
    let context = |params: &mut ScoreParams| params.context = 10;
    let n_left = tokens(&long[..10 * TOKEN_BYTES_MAX]).len() as u32;
    assert_eq!(
        of_context(None, context),
        (vec![n_left - 1, 1], vec![true, false])
    );
}

#[test]
fn a_token_in_front_gives_the_first_one_a_loss() {
    let scene = Scene::of(always(Play::Answer), ServerOptions::default());
    let with_eos = |eos: &str| {
        let mut params = scene.pair();
        params.eos = Some(eos.to_owned());
        scene.run(&params, &[Some("Two words")])
    };
    // The server splits at white space.
    let rows = with_eos("<end> ").unwrap();
    assert_eq!(number(&rows, "n_tokens", 0), 2.0);
    let expected = mean_loss("tiny", "<end> Two words", 1);
    assert!((number(&rows, "prior_nll", 0) - expected).abs() < 1e-6);
    let failure = with_eos("<end>").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Endpoint);
    let expected = "does not take \"<end>\" as one token";
    assert!(failure.message.contains(expected), "{}", failure.message);
}

#[test]
fn losses_of_servers_and_of_models_here_stand_in_the_order_of_the_models() {
    let served = ServedModel {
        endpoint: EndpointIdentity {
            name: "llm".to_owned(),
            url: "http://127.0.0.1:1/v1".to_owned(),
            model: "tiny".to_owned(),
        },
        model: None,
        log_probabilities: LogProbabilities::Auto,
    };
    let mut params = params(vec![("conditional", served)]);
    params.models = vec!["prior".to_owned(), "conditional".to_owned()];
    let check = |served: &[f32], local: &[f32], expected: Result<(), &str>| {
        let scored = joined(&params, vec![served.to_vec()], vec![local.to_vec()]);
        match (scored, expected) {
            (Scored::Losses(losses), Ok(())) => assert_eq!(losses, [local, served]),
            (Scored::Rejected(reason), Err(expected)) => {
                assert!(reason.contains(expected), "{reason}");
            }
            (found, expected) => panic!("{found:?} {expected:?}"),
        }
    };
    check(&[1.0, 2.0], &[3.0, 4.0], Ok(()));
    check(
        &[1.0],
        &[3.0, 4.0],
        Err("prior counts 2 predicted tokens and conditional counts 1"),
    );
    check(
        &[f32::INFINITY],
        &[1.0],
        Err("under the model conditional is inf"),
    );
}

#[test]
fn texts_are_cut_between_characters() {
    let check = |text: &str, length: usize, expected: &str| {
        let mut found = text.to_owned();
        cut(&mut found, length);
        assert_eq!(found, expected, "{text} {length}");
    };
    check("abc", 2, "ab");
    check("abc", 9, "abc");
    check("a\u{e9}c", 2, "a");
    check("\u{20ac}", 2, "");
}
