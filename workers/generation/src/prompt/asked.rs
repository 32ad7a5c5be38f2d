//! What a request asks for: the JSON schema of its reply, the same in words for servers without
//! schemas, and what [`crate::reply`] checks the reply against.
//!
//! A reply is an object with one entry for each text, `query_1`, `query_2`, .., whose `label` can
//! have one value only. A server that enforces the schema thereby enforces that each grade comes
//! once, and the order: keys sort as they are numbered, so the most relevant text is written first
//! and the others can relate to it, whatever the server does with the order of keys.

use serde_json::{Map, Value, json};

use crate::scale::{Grade, Scale};

/// Texts that a reply must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedTexts {
    pub(crate) scale: Scale,
    /// One for each text, in the order asked for.
    pub(crate) slots: Vec<Grade>,
    pub(crate) per_label: u16,
    pub(crate) kind: TextKind,
    /// Most characters of a text.
    pub(crate) chars_max: usize,
}

/// What the texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextKind {
    Query,
    Passage,
}

impl TextKind {
    /// Name of the member that holds the text, and beginning of the keys.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Passage => "passage",
        }
    }

    /// Other names that models give it.
    pub(crate) fn other_keys(self) -> &'static [&'static str] {
        match self {
            Self::Query => &["text", "question"],
            Self::Passage => &["text", "document", "content"],
        }
    }
}

/// Key of entry `index` of `n`: numbered from 1, with as many digits for all, so that they sort.
pub(crate) fn entry_key(prefix: &str, index: usize, n: usize) -> String {
    let width = n.to_string().len();
    format!("{prefix}_{:0width$}", index + 1)
}

impl AskedTexts {
    pub(crate) fn new(
        scale: &Scale,
        grades: &[&Grade],
        per_label: u16,
        kind: TextKind,
        chars_max: usize,
    ) -> Self {
        let slots = grades
            .iter()
            .flat_map(|&grade| std::iter::repeat_n(grade.clone(), usize::from(per_label)))
            .collect();
        Self {
            scale: scale.clone(),
            slots,
            per_label,
            kind,
            chars_max,
        }
    }

    /// The grades asked for, each once, most relevant first.
    pub fn grades(&self) -> impl Iterator<Item = &Grade> {
        self.slots
            .iter()
            .step_by(usize::from(self.per_label.max(1)))
    }

    /// How many texts are asked for.
    #[must_use]
    pub fn n_texts(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn entry_key(&self, index: usize) -> String {
        entry_key(self.kind.key(), index, self.slots.len())
    }

    pub(crate) fn schema(&self) -> Value {
        object((0..).zip(&self.slots).map(|(index, grade)| {
            let entry = object([
                (
                    "label".to_owned(),
                    json!({ "type": "string", "enum": [grade.label] }),
                ),
                (
                    self.kind.key().to_owned(),
                    json!({ "type": "string", "maxLength": self.chars_max }),
                ),
            ]);
            (self.entry_key(index), entry)
        }))
    }

    pub(crate) fn layout(&self) -> String {
        let entries = (0..).zip(&self.slots).map(|(index, grade)| {
            format!(
                "  {}: {{\"label\": {}, \"{}\": \"...\"}}",
                Value::from(self.entry_key(index)),
                Value::from(grade.label.as_str()),
                self.kind.key(),
            )
        });
        in_braces(entries)
    }
}

/// Grades that a judge's reply must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedJudgements {
    pub(crate) scale: Scale,
    /// Which of the caller's pairs stands at each place of the prompt.
    pub(crate) order: Vec<usize>,
}

/// Beginning of the keys of judgements.
pub(crate) const PAIR: &str = "pair";

impl AskedJudgements {
    /// How many pairs are judged.
    #[must_use]
    pub fn n_pairs(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn entry_key(&self, place: usize) -> String {
        entry_key(PAIR, place, self.order.len())
    }

    pub(crate) fn schema(&self) -> Value {
        let labels: Vec<&str> = self
            .scale
            .grades()
            .iter()
            .map(|grade| grade.label.as_str())
            .collect();
        object((0..self.order.len()).map(|place| {
            let label = json!({ "type": "string", "enum": labels });
            (self.entry_key(place), object([("label".to_owned(), label)]))
        }))
    }

    pub(crate) fn layout(&self) -> String {
        let entries = (0..self.order.len())
            .map(|place| format!("  \"{}\": {{\"label\": \"...\"}}", self.entry_key(place)));
        in_braces(entries)
    }
}

fn in_braces(entries: impl Iterator<Item = String>) -> String {
    format!("{{\n{}\n}}", entries.collect::<Vec<_>>().join(",\n"))
}

/// Schema of an object with exactly these members.
fn object(properties: impl IntoIterator<Item = (String, Value)>) -> Value {
    let properties: Map<String, Value> = properties.into_iter().collect();
    let required: Vec<&String> = properties.keys().collect();
    json!({
        "type": "object",
        "required": required,
        "additionalProperties": false,
        "properties": properties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(scale: &Scale, per_label: u16) -> AskedTexts {
        let grades: Vec<&Grade> = scale.grades().iter().collect();
        AskedTexts::new(scale, &grades, per_label, TextKind::Query, 400)
    }

    #[test]
    fn the_schema_fixes_label_and_order_of_each_text() {
        let schema = asked(&Scale::esci(), 1).schema();
        let text = serde_json::to_string(&schema).unwrap();
        let places: Vec<usize> = ["exact", "substitute", "complement", "irrelevant"]
            .map(|label| text.find(&format!("[\"{label}\"]")).unwrap())
            .to_vec();
        assert!(places.is_sorted(), "{text}");
        assert_eq!(
            schema["required"],
            json!(["query_1", "query_2", "query_3", "query_4"])
        );
        assert_eq!(
            schema["properties"]["query_1"]["properties"]["query"]["maxLength"],
            400
        );
    }

    #[test]
    fn keys_sort_as_they_are_numbered_with_ten_texts_and_more() {
        let asked = asked(&Scale::trec(), 3);
        assert_eq!(asked.n_texts(), 12);
        assert_eq!(
            (asked.entry_key(0), asked.entry_key(9)),
            ("query_01".into(), "query_10".into())
        );
        let labels: Vec<&str> = asked.grades().map(|grade| grade.label.as_str()).collect();
        assert_eq!(
            labels,
            [
                "perfectly_relevant",
                "highly_relevant",
                "related",
                "irrelevant"
            ]
        );
    }

    /// The rules of OpenAI's strict mode: each object closed and all of its members required.
    #[test]
    fn strict_mode_takes_the_schemas() {
        fn check(schema: &Value) {
            if schema["type"] == "object" {
                assert_eq!(schema["additionalProperties"], false);
                let properties = schema["properties"].as_object().unwrap();
                let keys: Vec<&String> = properties.keys().collect();
                assert_eq!(schema["required"], json!(keys));
                properties.values().for_each(check);
            } else {
                assert_eq!(schema["type"], "string");
            }
        }
        check(&asked(&Scale::trec(), 8).schema());
        let judged = AskedJudgements {
            scale: Scale::wands(),
            order: vec![1, 0],
        };
        check(&judged.schema());
        let labels = &judged.schema()["properties"]["pair_2"]["properties"]["label"]["enum"];
        assert_eq!(labels, &json!(["exact", "partial", "irrelevant"]));
    }

    #[test]
    fn layouts_are_the_schema_in_words() {
        let layout = asked(&Scale::binary(), 1).layout();
        let reply: Value = serde_json::from_str(&layout).unwrap();
        assert_eq!(
            reply["query_2"],
            json!({ "label": "irrelevant", "query": "..." })
        );
        let judged = AskedJudgements {
            scale: Scale::binary(),
            order: vec![0],
        };
        let reply: Value = serde_json::from_str(&judged.layout()).unwrap();
        assert_eq!(reply, json!({ "pair_1": { "label": "..." } }));
    }
}
