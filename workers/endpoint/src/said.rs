//! What an answer says of a failure, told apart from what it repeats of the request.
//!
//! Servers repeat what they refuse (FastAPI's 422 holds the whole input), so a document that speaks of
//! quotas or of models that do not exist must not decide what becomes of a job.

use serde_json::Value;

use crate::request::{CompletionRequest, Prompt};

/// Longest part of a text that is looked at.
const MESSAGE_MAX: usize = 2 << 10;
/// What is longer is no code.
const CODE_MAX: usize = 80;
/// Errors that are looked at, and how deep they may stand in others.
const ERRORS_MAX: usize = 16;
const DEPTH_MAX: usize = 5;
/// What comes behind these, within a text, is the request.
const REPETITIONS: [&str; 4] = ["'input':", "\"input\":", "input_value=", "'ctx':"];

/// The codes and words of a failure, in small letters.
#[derive(Debug, Default)]
pub(crate) struct Said {
    codes: Vec<String>,
    /// Names of parameters that are at fault.
    parameters: Vec<String>,
    messages: Vec<String>,
    /// The texts of the request.
    sent: String,
}

impl Said {
    /// Of the body of an answer to a request.
    pub(crate) fn of(body: &[u8], request: Option<&CompletionRequest>) -> Self {
        let mut said = Self {
            sent: request.map(texts).unwrap_or_default(),
            ..Self::default()
        };
        match serde_json::from_slice(body) {
            Ok(value) => said.read(&value, 0),
            Err(_) => {
                let beginning = &body[..body.len().min(MESSAGE_MAX)];
                said.add_message(&String::from_utf8_lossy(beginning));
            }
        }
        said
    }

    fn read(&mut self, value: &Value, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        match value {
            Value::String(text) => self.add_message(text),
            Value::Array(errors) => {
                for error in errors.iter().take(ERRORS_MAX) {
                    self.read(error, depth + 1);
                }
            }
            Value::Object(error) => {
                for (key, value) in error {
                    match key.as_str() {
                        "code" | "type" | "status" | "reason" => {
                            self.codes.extend(code(value));
                        }
                        "param" => self.parameters.extend(code(value)),
                        // Where in the request: a path of names and numbers.
                        "loc" => {
                            let path = value.as_array().into_iter().flatten();
                            self.parameters
                                .extend(path.take(ERRORS_MAX).filter_map(code));
                        }
                        "error" | "errors" | "message" | "msg" | "detail" | "details"
                        | "innererror" => self.read(value, depth + 1),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn add_message(&mut self, text: &str) {
        if self.messages.len() >= ERRORS_MAX {
            return;
        }
        let starts = REPETITIONS.iter().filter_map(|it| text.find(it));
        let text = &text[..starts.min().unwrap_or(text.len())];
        self.messages
            .push(simplified(text.chars().take(MESSAGE_MAX)));
    }

    /// Whether a code is one of these, or has one in it.
    pub(crate) fn has_code(&self, needles: &[&str]) -> bool {
        let mut codes = self.codes.iter();
        codes.any(|code| needles.iter().any(|needle| code.contains(needle)))
    }

    /// Whether a parameter of the request is told to be at fault.
    pub(crate) fn blames(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|it| it == parameter)
    }

    /// Whether a code, the name of a parameter or a message has one of these. Words that stand in the
    /// request may be its own.
    pub(crate) fn says(&self, needles: &[&str]) -> bool {
        let mut names = self.codes.iter().chain(&self.parameters);
        names.any(|name| needles.iter().any(|needle| name.contains(needle)))
            || self.tells_of("", needles)
    }

    /// Whether a message about `subject` has one of these that does not stand in the request.
    pub(crate) fn tells_of(&self, subject: &str, needles: &[&str]) -> bool {
        let mut messages = self.messages.iter().filter(|it| it.contains(subject));
        messages.any(|message| {
            let mut needles = needles.iter();
            needles.any(|needle| message.contains(needle) && !self.sent.contains(needle))
        })
    }
}

fn code(value: &Value) -> Option<String> {
    let code = value.as_str().filter(|code| code.len() <= CODE_MAX)?;
    Some(code.to_lowercase())
}

fn texts(request: &CompletionRequest) -> String {
    match &request.prompt {
        Prompt::Text(text) => simplified(text.chars()),
        Prompt::Chat(messages) => {
            let contents = messages.iter().map(|it| simplified(it.content.chars()));
            contents.collect::<Vec<_>>().join("\n")
        }
    }
}

/// In small letters and one line.
fn simplified(text: impl Iterator<Item = char>) -> String {
    let text: String = text.flat_map(char::to_lowercase).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{ChatMessage, Parameters};

    fn request(content: &str) -> CompletionRequest {
        CompletionRequest {
            prompt: Prompt::Chat(vec![ChatMessage {
                role: "user".to_owned(),
                content: content.to_owned(),
            }]),
            parameters: Parameters::default(),
            schema: None,
            stage: "s".to_owned(),
            sample: 0,
            model: None,
        }
    }

    #[test]
    fn what_is_repeated_is_not_said() {
        let document = "Such a response_format  does not\nexist";
        let check = |body: &str, sent: &str, expected: bool| {
            let request = request(sent);
            let said = Said::of(body.as_bytes(), Some(&request));
            assert_eq!(said.says(&["does not exist"]), expected, "{body}");
        };
        let input = r#"{"detail": [{"type": "string_type", "loc": ["body", "messages", 0],
            "msg": "Input should be a string", "input": "it does not exist"}]}"#;
        check(input, "", false);
        let shown = r#"{"error": {"message": "1 validation error [type=missing, input_value={'messages': 'it does not exist'}]"}}"#;
        check(shown, "", false);
        let listed = r#"{"message": "[{'msg': 'no', 'input': 'it does not exist'}]"}"#;
        check(listed, "", false);
        let quoted =
            r#"{"error": {"message": "cannot tokenize: such a response_format does not exist"}}"#;
        check(quoted, document, false);
        check(quoted, "another document", true);
        check("the model DOES\n not exist", "", true);
        check(r#"{"error": "the model does not exist"}"#, "", true);
        check(
            r#"{"detail": [{"msg": "the model does not exist"}]}"#,
            "",
            true,
        );
    }

    #[test]
    fn codes_and_parameters() {
        let body = r#"{"error": {"code": "Content_Filter", "param": "model", "message": "no",
            "innererror": {"code": "ResponsibleAIPolicyViolation"}, "status": 400}}"#;
        let said = Said::of(body.as_bytes(), Some(&request("content_filter model")));
        assert!(said.has_code(&["content_filter"]) && said.has_code(&["responsibleai"]));
        assert!(said.blames("model") && !said.blames("messages"));
        assert!(said.says(&["content_filter"]) && !said.tells_of("", &["content_filter"]));
        assert!(!said.has_code(&["model"]));
    }
}
