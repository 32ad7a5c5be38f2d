use proptest::prelude::*;

use super::*;

/// What a body tells, in short: id, text and log-likelihood of each token.
fn told(dialect: LossDialect, body: &str, prompt: &str) -> String {
    match dialect.decode(body.as_bytes(), prompt) {
        Ok(tokens) => {
            let shown = tokens.iter().map(|token| {
                let id = token.id.map_or_else(String::new, |id| format!("{id}="));
                let text = token.text.as_deref().unwrap_or("?");
                let value = token.log_likelihood;
                let value = value.map_or_else(|| "-".to_owned(), |value| value.to_string());
                format!("{id}{text}:{value}")
            });
            shown.collect::<Vec<_>>().join("|")
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_asked_for() {
    let check = |dialect: LossDialect, expected: serde_json::Value| {
        let request = dialect.request("a b".to_owned(), Some("other".to_owned()));
        let body = crate::body::body(&request, "tiny", crate::Dialect::Auto);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body, expected, "{dialect}");
        assert_eq!(crate::body::path(&request), "completions");
    };
    check(
        LossDialect::Echo,
        json!({"model": "other", "prompt": "a b", "max_tokens": 1, "temperature": 0.0, "echo": true,
               "logprobs": 1}),
    );
    check(
        LossDialect::PromptLogprobs,
        json!({"model": "other", "prompt": "a b", "max_tokens": 1, "temperature": 0.0,
               "prompt_logprobs": 0}),
    );
}

#[test]
fn prompt_logprobs_of_vllm() {
    let check = |places: &str, expected: &str| {
        let body = format!(
            r#"{{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{{
            "index":0,"text":" x","logprobs":null,"finish_reason":"length","stop_reason":null,
            "prompt_logprobs":{places}}}],
            "usage":{{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1}}}}"#
        );
        let found = told(LossDialect::PromptLogprobs, &body, "The cat sat");
        assert_eq!(found, expected, "{places}");
    };
    check(
        r#"[null,{"3797":{"logprob":-9.5,"rank":2042,"decoded_token":" cat"}},
        {"3332":{"logprob":-2.25,"rank":3,"decoded_token":" sat"}}]"#,
        "?:-|3797= cat:-9.5|3332= sat:-2.25",
    );
    // The likeliest beside the one that stands there; the same one; none; a likelihood of zero.
    check(
        r#"[null,{"11":{"logprob":-1.0,"rank":1,"decoded_token":","},
        "3797":{"logprob":-9.5,"rank":2042,"decoded_token":" cat"}},
        {"3332":{"logprob":-0.25,"rank":1,"decoded_token":" sat"}},
        {"7":{"logprob":-9999.0,"rank":50000,"decoded_token":"!"}}]"#,
        "?:-|3797= cat:-9.5|3332= sat:-0.25|7=!:-inf",
    );
    check(
        r#"[null,null]"#,
        "token 1 of the prompt has no log-probability",
    );
    check(
        r#"[null,{"1":{"logprob":-1.0},"2":{"logprob":-1.0},"3":{"logprob":-1.0}}]"#,
        "token 1 of the prompt has 3 candidates, and none that is told to stand there",
    );
    check(
        r#"[null,{"1":{"logprob":0.5}}]"#,
        "token 1 of the prompt has a log-probability of 0.5, above zero",
    );
    // A server that ignores what it was asked for.
    let ignored = "the answer does not tell log-probabilities of the prompt: ";
    check("null", &format!("{ignored}it has no `prompt_logprobs`"));
    check("[]", &format!("{ignored}it has no token of it"));
}

#[test]
fn echoes_of_many_servers() {
    let check = |body: &str, expected: &str| {
        assert_eq!(
            told(LossDialect::Echo, body, "The cat sat"),
            expected,
            "{body}"
        );
    };
    // OpenAI's legacy completions, and vLLM: the generated token is counted and listed.
    check(
        r#"{"choices":[{"text":"The cat sat on","index":0,"logprobs":{
        "tokens":["The"," cat"," sat"," on"],"token_logprobs":[null,-9.5,-2.25,-0.5],
        "top_logprobs":[null,{" cat":-9.5,",":-1.0},{" sat":-2.25},{" on":-0.5}],
        "text_offset":[0,3,7,11]},"finish_reason":"length"}],
        "usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#,
        "The:-|\u{20}cat:-9.5|\u{20}sat:-2.25",
    );
    // A server that puts a token in front: the text's first one is predicted.
    check(
        r#"{"choices":[{"text":"The cat on","logprobs":{"tokens":["<s>","The"," cat"," on"],
        "token_logprobs":[null,-5.0,-9.5,-0.5]}}],"usage":{"completion_tokens":1}}"#,
        "<s>:-|The:-5|\u{20}cat:-9.5",
    );
    // llama-cpp-python leaves that one out of the lists, but counts it in the prompt.
    check(
        r#"{"choices":[{"text":"The cat sat on","index":0,"logprobs":{"text_offset":[0,3,7,11],
        "token_logprobs":[null,-9.5,-2.25,-0.5],"tokens":["The"," cat"," sat"," on"],
        "top_logprobs":[null,{" cat":-9.5},{" sat":-2.25},{" on":-0.5}]},
        "finish_reason":"length"}],
        "usage":{"prompt_tokens":4,"completion_tokens":1,"total_tokens":5}}"#,
        "The:-|\u{20}cat:-9.5|\u{20}sat:-2.25",
    );
    // The same where the completion ended before its first token.
    check(
        r#"{"choices":[{"text":"The cat sat","logprobs":{"token_logprobs":[null,-9.5,-2.25],
        "tokens":["The"," cat"," sat"]},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":4,"completion_tokens":0,"total_tokens":4}}"#,
        "The:-|\u{20}cat:-9.5|\u{20}sat:-2.25",
    );
    // Nothing is counted.
    check(
        r#"{"choices":[{"logprobs":{"tokens":["The"," cat"," sat"," on"],
        "token_logprobs":[null,-9.5,-2.25,-0.5]}}]}"#,
        "The:-|\u{20}cat:-9.5|\u{20}sat:-2.25",
    );
    check(
        r#"{"choices":[{"logprobs":{"tokens":["The"," cat"," sat"],
        "token_logprobs":[null,-9.5,-2.25]}}]}"#,
        "The:-|\u{20}cat:-9.5|\u{20}sat:-2.25",
    );
    check(
        r#"{"choices":[{"logprobs":{"token_logprobs":[null,-1.0,-1.5]}}]}"#,
        "?:-|?:-1",
    );
    let ignored = "the answer does not tell log-probabilities of the prompt: ";
    check(
        r#"{"choices":[{"text":" on","logprobs":null}]}"#,
        &format!("{ignored}it has no `logprobs`"),
    );
    // The generated token alone, as servers give it that take `logprobs` and ignore `echo`.
    check(
        r#"{"choices":[{"text":" on","logprobs":{"tokens":[" on"],"token_logprobs":[-0.5]}}],
        "usage":{"completion_tokens":1}}"#,
        &format!("{ignored}it has no token of it"),
    );
    check(
        r#"{"choices":[{"text":" on","logprobs":{"content":[{"token":" on","logprob":-0.5}]}}]}"#,
        &format!("{ignored}it has no `token_logprobs`"),
    );
    check(r#"{"choices":[]}"#, &format!("{ignored}it has no choice"));
    check(
        r#"{"choices":[{"logprobs":{"tokens":["a"],"token_logprobs":[null,-1]}}]}"#,
        "the answer cannot be read: 1 tokens have 2 log-probabilities",
    );
    let broken = told(LossDialect::Echo, "<html>", "a");
    assert!(
        broken.starts_with("the answer cannot be read: expected"),
        "{broken}"
    );
}

proptest! {
    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), prompt in ".{0,20}") {
        for dialect in LossDialect::ALL {
            let _ = dialect.decode(&body, &prompt);
        }
    }

    /// Whatever tokens a server lists, those of the prompt come back in their order.
    #[test]
    fn tokens_come_back(values in prop::collection::vec(0..2000_u32, 1..20)) {
        let value = |sixty_fourths: &u32| Some(-f64::from(*sixty_fourths) / 64.0);
        let mut likelihoods: Vec<Option<f64>> = values.iter().map(value).collect();
        likelihoods[0] = None;
        let texts: Vec<String> = (0..values.len()).map(|idx| format!(" t{idx}")).collect();
        let with_last = |mut list: Vec<serde_json::Value>, last: serde_json::Value| {
            list.push(last);
            list
        };
        let body = json!({
            "choices": [{ "logprobs": {
                "tokens": with_last(texts.iter().map(|it| json!(it)).collect(), json!(" x")),
                "token_logprobs":
                    with_last(likelihoods.iter().map(|it| json!(it)).collect(), json!(-1.0)),
            } }],
            "usage": { "completion_tokens": 1 },
        });
        let tokens = LossDialect::Echo.decode(body.to_string().as_bytes(), &texts.concat());
        let tokens = tokens.expect("tokens");
        let found: Vec<Option<f64>> = tokens.iter().map(|it| it.log_likelihood).collect();
        prop_assert_eq!(found, likelihoods);
    }
}
