//! A model of a few thousand parameters, asked as a client does.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use gleaner_models::LoadOptions;
use gleaner_serving::{
    Completion, FinishReason, Form, Message, ModelServer, Sampling, ServedModel, ServingError,
};
use serde_json::{Value, json};

fn model() -> ServedModel {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/color");
    let directory = tempfile::tempdir().unwrap();
    let to = |name: &str| directory.path().join(name);
    for name in ["config.json", "model.safetensors"] {
        fs::copy(data.join("llama_prior").join(name), to(name)).unwrap();
    }
    let name = "tokenizer_config.json";
    fs::copy(data.join(name), to(name)).unwrap();
    let tokenizer = fs::File::open(data.join("tokenizer.json.zst")).unwrap();
    fs::write(to("tokenizer.json"), zstd::decode_all(tokenizer).unwrap()).unwrap();
    ServedModel::load(directory.path(), &LoadOptions::default()).unwrap()
}

fn sampling(seed: u64, max_tokens: usize) -> Sampling {
    Sampling {
        temperature: 1.0,
        top_p: 1.0,
        max_tokens,
        seed,
        stop: Vec::new(),
    }
}

fn complete(
    model: &ServedModel,
    prompt: &str,
    sampling: &Sampling,
    form: Option<&Form>,
) -> Result<Completion, ServingError> {
    let ids = model.encode_text(prompt).unwrap();
    model.complete(&ids, sampling, form, &AtomicBool::new(false))
}

fn schema() -> Value {
    let entry = |label: &str| {
        json!({
            "type": "object",
            "properties": {
                "label": { "type": "string", "enum": [label] },
                "query": { "type": "string", "maxLength": 20 },
            },
            "required": ["label", "query"],
            "additionalProperties": false,
        })
    };
    json!({
        "type": "object",
        "properties": {
            "best": { "type": "string", "enum": ["good", "bad", "unknown"] },
            "marks": { "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 3 },
                       "minItems": 1, "maxItems": 3 },
            "query_1": entry("relevant"),
            "query_2": entry("irrelevant"),
            "sure": { "type": "boolean" },
            "year": { "type": "integer" },
        },
    })
}

/// A model without any sense writes JSON of the schema all the same.
#[test]
fn answers_to_a_schema_always_fit_it() {
    let model = model();
    let form = Form::of(&schema()).unwrap();
    let mut texts = std::collections::BTreeSet::new();
    let mut n_values = [0; 3];
    for seed in 0..40 {
        let written = complete(&model, "The cells", &sampling(seed, 230), Some(&form)).unwrap();
        assert_eq!(written.finish_reason, FinishReason::Stop);
        let value: Value = serde_json::from_str(&written.text)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}: {}", written.text));
        let best = value["best"].as_str().unwrap();
        let place = ["good", "bad", "unknown"].iter().position(|it| *it == best);
        n_values[place.unwrap()] += 1;
        for (key, label) in [("query_1", "relevant"), ("query_2", "irrelevant")] {
            assert_eq!(value[key]["label"], label);
            let query = value[key]["query"].as_str().unwrap();
            assert!(query.chars().count() <= 20, "{query:?}");
            texts.insert(query.to_owned());
        }
        let marks = value["marks"].as_array().unwrap();
        assert!((1..=3).contains(&marks.len()));
        assert!(
            marks
                .iter()
                .all(|it| (0..=3).contains(&it.as_i64().unwrap()))
        );
        assert!(value["sure"].is_boolean() && value["year"].is_i64());
    }
    assert!(texts.len() > 20, "words are the model's: {texts:?}");
    assert!(
        n_values.iter().filter(|n| **n > 0).count() > 1,
        "{n_values:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let model = model();
    let form = Form::of(&schema()).unwrap();
    for form in [None, Some(&form)] {
        let answer = |seed| complete(&model, "The cells", &sampling(seed, 60), form).unwrap();
        assert_eq!(answer(3), answer(3));
        assert_ne!(answer(3).text, answer(4).text);
    }
}

#[test]
fn an_answer_has_no_more_tokens_than_there_is_room() {
    let model = model();
    let form = Form::of(&schema()).unwrap();
    for form in [None, Some(&form)] {
        let written = complete(&model, "The cells", &sampling(1, 5), form).unwrap();
        assert_eq!(written.finish_reason, FinishReason::Length);
        assert!(written.completion_tokens <= 5);
    }
    let long = "word ".repeat(2 * model.context());
    let error = complete(&model, &long, &sampling(1, 5), None).unwrap_err();
    assert!(
        matches!(error, ServingError::ContextLength { .. }),
        "{error}"
    );
}

#[test]
fn a_text_to_stop_at_ends_the_answer_before_it() {
    let model = model();
    let whole = complete(&model, "The cells", &sampling(5, 60), None).unwrap();
    let middle = whole.text.char_indices().nth(10).unwrap().0;
    let stop: String = whole.text[middle..].chars().take(3).collect();
    let at = whole.text.find(&stop).unwrap();
    let stopping = Sampling {
        stop: vec![stop],
        ..sampling(5, 60)
    };
    let written = complete(&model, "The cells", &stopping, None).unwrap();
    assert_eq!(written.finish_reason, FinishReason::Stop);
    assert_eq!(written.text, whole.text[..at]);
}

#[test]
fn whoever_goes_away_costs_nothing_more() {
    let model = model();
    let ids = model.encode_text("The cells").unwrap();
    let cancelled = AtomicBool::new(true);
    let error = model.complete(&ids, &sampling(1, 50), None, &cancelled);
    assert!(matches!(error, Err(ServingError::Cancelled)));
}

#[test]
fn chats_without_a_template_are_shown_as_texts() {
    let model = model();
    let message = |content: &str| Message {
        role: "user".to_owned(),
        content: content.to_owned(),
    };
    let chat = model.encode_chat(&[message("The cells"), message("divide")]);
    assert_eq!(
        chat.unwrap(),
        model.encode_text("The cells\n\ndivide\n\n").unwrap()
    );
}

#[tokio::test]
async fn a_client_is_answered_as_by_any_server() {
    let server = ModelServer::start(model(), "tiny".to_owned(), 2)
        .await
        .unwrap();
    let client = reqwest::Client::new();
    let post = async |path: &str, body: Value| -> (u16, Value) {
        let request = client.post(format!("{}/{path}", server.url()));
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.unwrap();
        let status = answer.status().as_u16();
        (
            status,
            serde_json::from_str(&answer.text().await.unwrap()).unwrap(),
        )
    };
    let models = client.get(format!("{}/models", server.url())).send().await;
    let models: Value = serde_json::from_str(&models.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(models["data"][0]["id"], "tiny");

    let chat = json!({
        "model": "tiny",
        "messages": [{ "role": "user", "content": "The cells" }],
        "max_tokens": 230,
        "seed": 3,
        "response_format": {
            "type": "json_schema",
            "json_schema": { "name": "a", "strict": true, "schema": schema() },
        },
        "something_new": 1,
    });
    let (status, answer) = post("chat/completions", chat.clone()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(content).unwrap()["query_1"].is_object());
    let usage = &answer["usage"];
    let sum =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);

    let text = json!({ "model": "tiny", "prompt": "The cells", "max_tokens": 7, "temperature": 0 });
    let (status, answer) = post("completions", text).await;
    assert_eq!(
        (status, &answer["choices"][0]["finish_reason"]),
        (200, &json!("length"))
    );

    let changed = |key: &str, value: Value| {
        let mut chat = chat.clone();
        chat[key] = value;
        chat
    };
    for (body, expected, part) in [
        (changed("model", json!("other")), 404, "model_not_found"),
        (
            changed("stream", json!(true)),
            400,
            "`stream` is not supported",
        ),
        (changed("n", json!(2)), 400, "`n` is not supported"),
        (changed("messages", json!(7)), 400, "messages"),
        (
            changed("response_format", json!({ "type": "grammar" })),
            400,
            "response_format",
        ),
        (
            changed(
                "messages",
                json!([{ "role": "user", "content": "word ".repeat(9000) }]),
            ),
            400,
            "context_length_exceeded",
        ),
    ] {
        let (status, answer) = post("chat/completions", body).await;
        assert_eq!(status, expected, "{answer}");
        assert!(answer["error"].to_string().contains(part), "{answer}");
    }
    let url = server.url();
    drop(server);
    let mut n_tries = 0;
    while client.get(format!("{url}/models")).send().await.is_ok() {
        n_tries += 1;
        assert!(n_tries < 1000, "it still answers");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
