//! Answers made of a prompt's words: JSON of the schema that is asked for, a plain text otherwise.
//!
//! What is written depends on the request alone. Where an object of the schema has a label or a
//! grade, its text takes more of the prompt's longest part the higher that is, so that lexical
//! measures see what a real model's answers would show.

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

/// Longest text that is written, in words.
const WORDS_MAX: usize = 60;
/// Words that stand in no document.
const FILLERS: [&str; 16] = [
    "amber", "basin", "cobalt", "dune", "ember", "fjord", "garnet", "harbor", "indigo", "jasper",
    "kelp", "lagoon", "mosaic", "nectar", "opal", "prairie",
];

/// How texts are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// Of words of the prompt.
    #[default]
    Related,
    /// Of words that have nothing to do with it.
    Random,
}

struct Writer<'a> {
    words: Vec<&'a str>,
    seed: u64,
    n_drawn: u64,
    style: Style,
}

impl Writer<'_> {
    fn draw(&mut self, n: usize) -> usize {
        self.n_drawn += 1;
        let bytes = [self.seed.to_le_bytes(), self.n_drawn.to_le_bytes()].concat();
        (xxh3_64(&bytes) % n.max(1) as u64) as usize
    }

    /// A text whose share of the prompt's words is `relevance`, from 0 to 1.
    fn text(&mut self, n_words: usize, relevance: f64) -> String {
        let mut text: Vec<String> = Vec::new();
        for _ in 0..n_words {
            let is_related = (self.draw(1000) as f64) < relevance * 1000.0;
            let word = if is_related && self.style == Style::Related && !self.words.is_empty() {
                let idx = self.draw(self.words.len());
                self.words[idx].to_owned()
            } else {
                let (idx, suffix) = (self.draw(FILLERS.len()), self.draw(1000));
                format!("{}{suffix}", FILLERS[idx])
            };
            text.push(word);
        }
        text.join(" ")
    }

    fn value(&mut self, schema: &Value, name: &str, relevance: f64) -> Value {
        if let Some(options) = schema.get("enum").and_then(Value::as_array) {
            let idx = self.draw(options.len());
            return options.get(idx).cloned().unwrap_or_default();
        }
        if let Some(known) = schema.get("const") {
            return known.clone();
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => self.object(schema, relevance),
            Some("array") => self.array(schema, name, relevance),
            Some("integer") => json!(self.draw(4)),
            Some("number") => json!(self.draw(100) as f64 / 100.0),
            Some("boolean") => json!(true),
            Some("null") => Value::Null,
            _ => {
                let most = schema
                    .get("maxLength")
                    .and_then(Value::as_u64)
                    .unwrap_or(u64::MAX);
                let n_words = if most < 1000 { 6 } else { WORDS_MAX };
                let text = self.text(n_words, relevance);
                let fits = text
                    .chars()
                    .take(usize::try_from(most).unwrap_or(usize::MAX));
                json!(fits.collect::<String>().trim_end())
            }
        }
    }

    fn object(&mut self, schema: &Value, relevance: f64) -> Value {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return json!({});
        };
        let mut object = Map::new();
        let n_properties = properties.len();
        for (idx, (name, property)) in properties.iter().enumerate() {
            // One entry per grade: the first keys, by their names, are the most relevant.
            let is_entry = property.get("type").and_then(Value::as_str) == Some("object");
            let by_place = 1.0 - idx as f64 / n_properties.max(2) as f64;
            let relevance = if n_properties > 1 && is_entry {
                by_place
            } else {
                relevance
            };
            object.insert(name.clone(), self.value(property, name, relevance));
        }
        Value::Object(object)
    }

    /// Items that have an enumerated label get each label once, in its order.
    fn array(&mut self, schema: &Value, name: &str, relevance: f64) -> Value {
        let item = schema
            .get("items")
            .cloned()
            .unwrap_or_else(|| json!({ "type": "string" }));
        let properties = item.get("properties").and_then(Value::as_object);
        let labelled = properties.and_then(|properties| {
            properties.iter().find_map(|(name, property)| {
                Some((name.clone(), property.get("enum")?.as_array()?.clone()))
            })
        });
        let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
        let Some((label, options)) = labelled else {
            let n_items = bound("minItems").unwrap_or(1).max(1);
            let items = (0..n_items).map(|_| self.value(&item, name, relevance));
            return items.collect();
        };
        let n_options = options.len().max(1);
        let n_items = bound("minItems").map_or(n_options, |n| n as usize).max(1);
        let mut items = Vec::new();
        for idx in 0..n_items {
            let option = idx * n_options / n_items;
            let relevance = 1.0 - option as f64 / n_options as f64;
            let mut value = self.value(&item, name, relevance);
            if let Some(object) = value.as_object_mut() {
                for (name, property) in item["properties"].as_object().into_iter().flatten() {
                    if name != &label && property.get("enum").is_none() {
                        object.insert(name.clone(), self.value(property, name, relevance));
                    }
                }
                object.insert(label.clone(), options[option].clone());
            }
            items.push(value);
        }
        Value::Array(items)
    }
}

/// The text of the prompt: the last message of the user, or the prompt itself.
fn prompt_text(body: &Value) -> String {
    let messages = body.get("messages").and_then(Value::as_array);
    let last = messages.and_then(|messages| {
        let mut users = messages
            .iter()
            .filter(|it| it.get("role") == Some(&json!("user")));
        users
            .next_back()?
            .get("content")?
            .as_str()
            .map(str::to_owned)
    });
    last.or_else(|| body.get("prompt")?.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The longest part of a prompt between lines of dashes, or the whole.
fn longest_part(text: &str) -> &str {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.len() >= 3 && trimmed.chars().all(|c| c == '-') {
            parts.push(&text[start..at]);
            start = at + line.len();
        }
        at += line.len();
    }
    parts.push(&text[start..]);
    parts
        .into_iter()
        .max_by_key(|part| part.len())
        .unwrap_or(text)
}

/// The schema of a request, in whatever dialect it is asked for.
fn schema_of(body: &Value) -> Option<&Value> {
    let format = body.get("response_format")?;
    format
        .pointer("/json_schema/schema")
        .or_else(|| format.get("schema"))
}

/// The completion of a request.
#[must_use]
pub fn completion(body: &Value, style: Style) -> String {
    let prompt = prompt_text(body);
    let part = longest_part(&prompt);
    let words: Vec<&str> = part
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().count() > 2)
        .collect();
    let mut seed_text = prompt.clone();
    if let Some(seed) = body.get("seed") {
        seed_text.push_str(&seed.to_string());
    }
    let mut writer = Writer {
        words,
        seed: xxh3_64(seed_text.as_bytes()),
        n_drawn: 0,
        style,
    };
    match schema_of(body) {
        Some(schema) => writer.value(schema, "", 1.0).to_string(),
        None => writer.text(WORDS_MAX, 0.8),
    }
}

/// Tokens as this server counts them: four for three words.
#[must_use]
pub fn n_tokens(text: &str) -> u64 {
    (text.split_whitespace().count() as u64 * 4).div_ceil(3)
}

/// Tokens of a request's prompt.
#[must_use]
pub fn prompt_tokens(body: &Value) -> u64 {
    let messages = body.get("messages").and_then(Value::as_array);
    match messages {
        Some(messages) => messages
            .iter()
            .filter_map(|message| message.get("content")?.as_str())
            .map(|content| n_tokens(content) + 4)
            .sum(),
        None => n_tokens(&prompt_text(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_schema_and_depends_on_the_prompt() {
        let body = |text: &str| {
            json!({
                "messages": [{ "role": "user", "content": text }],
                "response_format": { "type": "json_schema", "json_schema": { "schema": {
                    "type": "object",
                    "properties": { "items": { "type": "array", "items": {
                        "type": "object",
                        "properties": {
                            "label": { "enum": ["good", "bad"] },
                            "text": { "type": "string", "maxLength": 50 },
                        },
                    } } },
                } } },
            })
        };
        let text = "Write.\n-----\nzebras graze quietly near rivers every evening\n-----\nNow.";
        let answer = completion(&body(text), Style::Related);
        assert_eq!(answer, completion(&body(text), Style::Related));
        let value: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(value["items"][0]["label"], "good");
        assert_eq!(value["items"][1]["label"], "bad");
        let related = |item: usize| {
            let text = value["items"][item]["text"].as_str().unwrap_or_default();
            text.split(' ')
                .filter(|word| "zebras graze quietly near rivers every evening".contains(word))
                .count()
        };
        assert!(related(0) > related(1), "{answer}");
        assert!(
            value["items"][0]["text"]
                .as_str()
                .is_some_and(|text| text.len() <= 50)
        );
    }
}
