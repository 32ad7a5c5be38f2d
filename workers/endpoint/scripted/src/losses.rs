//! The losses of a prompt, as servers tell them that know them: a function of the model's name and
//! the prompt's words, in the forms of vLLM and of OpenAI's legacy completions.
//!
//! A token is a word with the white space before it. How likely it is depends on the model, on
//! itself and on the one before it.

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

/// Log-likelihoods lie between zero and this many thousandths below it.
const THOUSANDTHS: u64 = 8000;

/// How the losses of prompts can be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PromptLosses {
    /// In both ways.
    #[default]
    Both,
    /// By `prompt_logprobs` alone; `echo` is ignored.
    PromptLogprobs,
    /// By `echo` with `logprobs` alone; `prompt_logprobs` is ignored.
    Echo,
    /// Both are ignored.
    Ignored,
}

/// A form in which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    PromptLogprobs,
    Echo,
}

/// What is told of a prompt.
#[derive(Debug)]
pub(crate) struct Losses {
    form: Form,
    prompt: String,
    tokens: Vec<String>,
    likelihoods: Vec<f64>,
}

/// What a request asks for that the server knows, if anything.
pub(crate) fn asked(body: &Value, known: PromptLosses) -> Option<Losses> {
    let prompt = body.get("prompt")?.as_str()?;
    let asks = |key: &str| body.get(key).is_some_and(|it| !it.is_null());
    let is_echo = body.get("echo") == Some(&json!(true)) && asks("logprobs");
    let form = match known {
        PromptLosses::Both | PromptLosses::PromptLogprobs if asks("prompt_logprobs") => {
            Form::PromptLogprobs
        }
        PromptLosses::Both | PromptLosses::Echo if is_echo => Form::Echo,
        _ => return None,
    };
    let model = body.get("model").and_then(Value::as_str).unwrap_or("");
    let tokens = tokens(prompt);
    Some(Losses {
        form,
        prompt: prompt.to_owned(),
        likelihoods: log_likelihoods(model, &tokens),
        tokens,
    })
}

/// The tokens of a text.
#[must_use]
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut is_in_word = true;
    for c in text.chars() {
        let is_space = c.is_whitespace();
        match tokens.last_mut() {
            Some(last) if !(is_space && is_in_word) => last.push(c),
            _ => tokens.push(c.to_string()),
        }
        is_in_word = !is_space;
    }
    tokens
}

/// The log-likelihood of each token after the one before it under a model; of the first one, what
/// it would be after nothing.
#[must_use]
pub fn log_likelihoods(model: &str, tokens: &[String]) -> Vec<f64> {
    let mut previous = "";
    let mut likelihoods = Vec::new();
    for token in tokens {
        let key = [model, token, previous].join("\n");
        let thousandths = xxh3_64(key.as_bytes()) % THOUSANDTHS;
        likelihoods.push(-(thousandths as f64) / 1000.0);
        previous = token;
    }
    likelihoods
}

impl Losses {
    /// Tokens of the prompt.
    pub(crate) fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// What a server says of a prompt that does not fit.
    pub(crate) fn too_long(&self, context: usize) -> String {
        format!(
            "This model's maximum context length is {context} tokens. However, your prompt has {} \
             tokens.",
            self.tokens.len()
        )
    }

    /// The completion: one token, behind the prompt where that is echoed.
    pub(crate) fn text(&self) -> String {
        match self.form {
            Form::PromptLogprobs => GENERATED.to_owned(),
            Form::Echo => format!("{}{GENERATED}", self.prompt),
        }
    }

    /// Adds what is asked for to a choice.
    pub(crate) fn add_to(&self, choice: &mut Value) {
        match self.form {
            Form::PromptLogprobs => choice["prompt_logprobs"] = self.by_id(),
            Form::Echo => choice["logprobs"] = self.listed(),
        }
    }

    fn by_id(&self) -> Value {
        let places = self.tokens.iter().zip(&self.likelihoods);
        let places = places.enumerate().map(|(idx, (token, likelihood))| {
            if idx == 0 {
                return Value::Null;
            }
            let id = xxh3_64(token.as_bytes()) % 100_000;
            let candidate =
                json!({ "logprob": likelihood, "rank": idx + 1, "decoded_token": token });
            Value::Object(Map::from_iter([(id.to_string(), candidate)]))
        });
        places.collect()
    }

    fn listed(&self) -> Value {
        let mut offsets = Vec::new();
        let mut offset = 0;
        for token in self.tokens.iter().map(String::as_str).chain([GENERATED]) {
            offsets.push(offset);
            offset += token.chars().count();
        }
        let tokens = self.tokens.iter().map(String::as_str);
        let tokens: Vec<&str> = tokens.chain([GENERATED]).collect();
        let likelihoods = self.likelihoods.iter().enumerate();
        let likelihoods = likelihoods.map(|(idx, it)| (idx > 0).then_some(*it));
        json!({
            "tokens": tokens,
            "token_logprobs": likelihoods.chain([Some(-1.0)]).collect::<Vec<_>>(),
            "top_logprobs": null,
            "text_offset": offsets,
        })
    }
}

/// The token that is generated.
const GENERATED: &str = " amber";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_words_with_the_space_before_them() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(tokens(text), expected, "{text:?}");
            assert_eq!(tokens(text).concat(), text);
        };
        check("", &[]);
        check("a", &["a"]);
        check(" a  b\n c ", &[" a", "  b", "\n c", " "]);
    }

    #[test]
    fn what_is_asked_and_known_is_told() {
        let check = |known: PromptLosses, request: Value, expected: Option<Form>| {
            let mut body = request.clone();
            body["prompt"] = json!("a b c");
            body["model"] = json!("m");
            let found = asked(&body, known).map(|losses| losses.form);
            assert_eq!(found, expected, "{known:?} {request}");
        };
        let echo = || json!({ "echo": true, "logprobs": 1 });
        let by_id = || json!({ "prompt_logprobs": 0 });
        check(PromptLosses::Both, echo(), Some(Form::Echo));
        check(PromptLosses::Both, by_id(), Some(Form::PromptLogprobs));
        check(PromptLosses::Both, json!({ "logprobs": 1 }), None);
        check(PromptLosses::Both, json!({ "echo": true }), None);
        check(PromptLosses::Echo, by_id(), None);
        check(PromptLosses::PromptLogprobs, echo(), None);
        check(PromptLosses::Ignored, echo(), None);
        check(PromptLosses::Ignored, by_id(), None);
    }

    #[test]
    fn losses_depend_on_model_token_and_the_one_before() {
        let of = |model: &str, text: &str| log_likelihoods(model, &tokens(text));
        let first = of("m", "a b c");
        assert!(first.iter().all(|it| (-8.0..=0.0).contains(it)));
        assert_eq!(of("m", "a b d")[..2], first[..2]);
        assert_ne!(of("m", "x b c")[1], first[1]);
        assert_ne!(of("other", "a b c"), first);
    }
}
