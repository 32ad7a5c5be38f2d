//! Messages to the text that a model was trained to go on with.

use std::fs;
use std::io;
use std::path::Path;

use gleaner_models::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as JinjaValue};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ServingError;

/// Templates come with models, which may be anybody's: they get no more steps than this.
const FUEL: u64 = 5_000_000;

/// Stand around the words of a message while it is rendered: private characters of Unicode.
const BEGIN: char = '\u{F0001}';
const END: char = '\u{F0002}';

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// How a model is shown messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// In Jinja; a model that was not trained on chats has none.
    source: Option<String>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja` or `tokenizer_config.json` of a directory.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or is not what it should be.
    pub fn read(directory: &Path) -> Result<Self, ServingError> {
        let path = directory.join("tokenizer_config.json");
        let wrong = |path: &Path, problem: String| ServingError::File {
            path: path.to_owned(),
            problem,
        };
        let settings: Value = match maybe(&path)? {
            None => Value::Null,
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| wrong(&path, error.to_string()))?
            }
        };
        let own_file = directory.join("chat_template.jinja");
        let source = match maybe(&own_file)? {
            Some(source) => Some(source),
            None => template_in(&settings["chat_template"]),
        };
        let template = Self {
            source,
            bos_token: token_in(&settings["bos_token"]),
            eos_token: token_in(&settings["eos_token"]),
        };
        if let Some(source) = &template.source {
            let mut environment = environment();
            environment
                .add_template("chat", source)
                .map_err(|error| wrong(&path, format!("chat_template: {error}")))?;
        }
        Ok(template)
    }

    /// Whether the directory has one.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.source.is_some()
    }

    /// Name of the token that ends a turn, if the directory tells it.
    pub(crate) fn eos_token(&self) -> &str {
        &self.eos_token
    }

    /// The ids of messages, up to where the model's answer begins. Words of messages are text, also
    /// those that look like tokens of control.
    ///
    /// # Errors
    ///
    /// If the template does not take them, or the tokenizer not their text.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
    ) -> Result<Vec<u32>, ServingError> {
        let rendered = match &self.source {
            Some(source) => self.render(source, messages)?,
            None => plain(messages),
        };
        let mut ids = Vec::new();
        let mut append = |text: &str, is_control: bool| -> Result<(), ServingError> {
            if text.is_empty() {
                return Ok(());
            }
            ids.extend(match is_control {
                true => tokenizer.encode_with_control_tokens(text)?,
                false => tokenizer.encode(text)?,
            });
            Ok(())
        };
        let said = |message: &Message| tokenizer.has_control_token(&message.content);
        if messages.iter().any(said) {
            let mut rest = rendered.as_str();
            while let Some((before, after)) = rest.split_once(BEGIN) {
                append(before, true)?;
                let (words, after) = after.split_once(END).unwrap_or((after, ""));
                append(words, false)?;
                rest = after;
            }
            append(rest, true)?;
        } else {
            // In one piece, since tokens may reach over the edges of a message.
            append(&rendered.replace([BEGIN, END], ""), true)?;
        }
        Ok(ids)
    }

    fn render(&self, source: &str, messages: &[Message]) -> Result<String, ServingError> {
        let refused = |error: minijinja::Error| ServingError::Template(error.to_string());
        let mut environment = environment();
        environment.add_template("chat", source).map_err(refused)?;
        let template = environment.get_template("chat").map_err(refused)?;
        let marked: Vec<Message> = messages
            .iter()
            .map(|message| Message {
                role: message.role.clone(),
                content: format!(
                    "{BEGIN}{}{END}",
                    message.content.trim().replace([BEGIN, END], "")
                ),
            })
            .collect();
        let rendered = template.render(context! {
            messages => JinjaValue::from(Serde(&marked)),
            add_generation_prompt => true,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        });
        rendered.map_err(refused)
    }
}

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    // As the library that these templates are written for has it.
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    // The markers of the default syntax do not clash.
    if let Ok(syntax) = syntax {
        environment.set_syntax(syntax);
    }
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| {
        Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    // Dates would give another prompt every day.
    environment.add_function("strftime_now", |_: String| String::new());
    environment
}

/// For models that were trained on texts alone: what is said, one message after another.
fn plain(messages: &[Message]) -> String {
    let mut text = String::new();
    for message in messages {
        text.push(BEGIN);
        text.push_str(message.content.trim_end());
        text.push(END);
        text.push_str("\n\n");
    }
    text
}

fn template_in(value: &Value) -> Option<String> {
    if let Some(source) = value.as_str() {
        return Some(source.to_owned());
    }
    let named = value.as_array()?;
    let default = named.iter().find(|entry| entry["name"] == "default");
    let entry = default.or(named.first())?;
    entry["template"].as_str().map(str::to_owned)
}

fn token_in(value: &Value) -> String {
    let token = value.as_str().or(value["content"].as_str());
    token.unwrap_or_default().to_owned()
}

fn maybe(path: &Path) -> Result<Option<String>, ServingError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ServingError::File {
            path: path.to_owned(),
            problem: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<ChatTemplate, ServingError> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        ChatTemplate::read(directory.path())
    }

    fn messages() -> Vec<Message> {
        let message = |role: &str, content: &str| Message {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        vec![
            message("system", "Be brief."),
            message("user", " What is it? "),
        ]
    }

    fn rendered(template: &ChatTemplate) -> String {
        let source = template.source.as_deref().unwrap();
        let text = template.render(source, &messages()).unwrap();
        text.replace([BEGIN, END], "|")
    }

    const TEMPLATE: &str = "{% for message in messages %}\n<|im_start|>{{ message['role'] }}\n\
        {{ message['content'].strip() }}<|im_end|>\n{% endfor %}\n\
        {%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ bos_token }}";

    #[test]
    fn templates_are_found_where_models_have_them() {
        let expected = "<|im_start|>system\n|Be brief.|<|im_end|>\n<|im_start|>user\n\
                        |What is it?|<|im_end|>\n<|im_start|>assistant\n<s>";
        let settings = |template: Value| {
            serde_json::json!({
                "bos_token": { "content": "<s>" },
                "eos_token": "</s>",
                "chat_template": template,
            })
            .to_string()
        };
        let one = read(&[("tokenizer_config.json", &settings(TEMPLATE.into()))]).unwrap();
        assert_eq!(rendered(&one), expected);
        assert_eq!(one.eos_token(), "</s>");
        let named = serde_json::json!([
            { "name": "tools", "template": "no" },
            { "name": "default", "template": TEMPLATE },
        ]);
        let named = read(&[("tokenizer_config.json", &settings(named))]).unwrap();
        assert_eq!(named, one);
        let own = read(&[
            ("tokenizer_config.json", &settings("no".into())),
            ("chat_template.jinja", TEMPLATE),
        ]);
        assert_eq!(own.unwrap(), one);
        assert_eq!(read(&[]).unwrap().source, None);
    }

    #[test]
    fn bad_templates_are_told() {
        let error = read(&[("tokenizer_config.json", "{")]).unwrap_err();
        assert!(error.to_string().contains("tokenizer_config.json: EOF"));
        let settings = r#"{"chat_template": "{% if %}"}"#;
        let error = read(&[("tokenizer_config.json", settings)]).unwrap_err();
        assert!(error.to_string().contains("chat_template: "), "{error}");
        let refuses = r#"{"chat_template": "{{ raise_exception('no system') }}"}"#;
        let template = read(&[("tokenizer_config.json", refuses)]).unwrap();
        let source = template.source.clone().unwrap();
        let error = template.render(&source, &messages()).unwrap_err();
        assert!(error.to_string().contains("no system"), "{error}");
        let endless = r#"{"chat_template": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"}"#;
        let template = read(&[("tokenizer_config.json", endless)]).unwrap();
        let source = template.source.clone().unwrap();
        let error = template.render(&source, &messages()).unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
    }
}
