//! YAML to JSON values, with the place of every value and key.
//!
//! Typed reading happens on the JSON values; the places let every error, also those found much
//! later, point into the file that the user wrote.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as Marks};
use serde_json::{Map, Number, Value};

use super::error::{JobError, Span};

/// Nesting that nobody writes by hand; a bound on recursion.
const DEPTH_MAX: usize = 64;
/// Values in a job file, aliases expanded; a bound on files that blow up.
const VALUES_MAX: usize = 100_000;

/// A document and where its parts stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    /// The document as JSON.
    pub(crate) value: Value,
    /// Places by dotted path (`stages.weights.ngrams`, `corpus.paths.0`).
    pub(crate) places: BTreeMap<String, Places>,
    /// Keys of `stages` in the order of the file, which JSON maps do not keep.
    pub(crate) stage_order: Vec<String>,
}

/// Where a value stands, and its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) key: Option<Span>,
    pub(crate) value: Span,
}

/// Reads the only document of a YAML text.
pub(crate) fn parse(text: &str) -> Result<Document, JobError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        offsets: text
            .char_indices()
            .map(|(offset, _)| offset)
            .chain([text.len()])
            .collect(),
        document: Document::default(),
        anchors: BTreeMap::new(),
        n_values: 0,
    };
    loop {
        match reader.next()? {
            (Event::StreamEnd, marks) => {
                return Err(reader.error(marks, "the job file is empty"));
            }
            (Event::DocumentStart(_), _) => break,
            _ => {}
        }
    }
    let (event, marks) = reader.next()?;
    reader.document.value = reader.value(event, marks, "", None, 0)?;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(reader.document),
            (Event::DocumentStart(_), marks) => {
                return Err(reader.error(marks, "the job file holds more than one document"));
            }
            _ => {}
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// Byte offset of each character; the parser counts characters.
    offsets: Vec<usize>,
    document: Document,
    anchors: BTreeMap<usize, Value>,
    n_values: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Marks), JobError> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let mark = *error.marker();
                let span = self.span(Marks::empty(mark));
                Err(JobError::new(format!("this is not YAML: {}", error.info()))
                    .with_span(span)
                    .with_help("indent with spaces; quote texts that hold `: `, `#` or quotes"))
            }
            None => Ok((
                Event::StreamEnd,
                Marks::empty(saphyr_parser::Marker::new(0, 1, 0)),
            )),
        }
    }

    fn span(&self, marks: Marks) -> Span {
        let offset_of = |index: usize| {
            let last = self.offsets.last().copied().unwrap_or_default();
            self.offsets.get(index).copied().unwrap_or(last)
        };
        let offset = offset_of(marks.start.index());
        Span {
            offset,
            length: offset_of(marks.end.index()).saturating_sub(offset),
            line: marks.start.line(),
            column: marks.start.col() + 1,
        }
    }

    fn error(&self, marks: Marks, message: &str) -> JobError {
        JobError::new(message).with_span(self.span(marks))
    }

    fn value(
        &mut self,
        event: Event<'a>,
        marks: Marks,
        path: &str,
        key: Option<Span>,
        depth: usize,
    ) -> Result<Value, JobError> {
        self.n_values += 1;
        if depth > DEPTH_MAX || self.n_values > VALUES_MAX {
            return Err(self.error(marks, "the job file is nested too deeply or too large"));
        }
        let span = self.span(marks);
        let places = Places { key, value: span };
        self.document.places.insert(path.to_owned(), places);
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = scalar(&text, style);
                self.remember(anchor, &value);
                Ok(value)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, marks) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let item_path = join(path, &items.len().to_string());
                    items.push(self.value(event, marks, &item_path, None, depth + 1)?);
                }
                let value = Value::Array(items);
                self.remember(anchor, &value);
                Ok(value)
            }
            Event::MappingStart(anchor, _) => {
                let value = Value::Object(self.mapping(path, depth)?);
                self.remember(anchor, &value);
                Ok(value)
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                let value = value.ok_or_else(|| self.error(marks, "this alias is not defined"))?;
                self.n_values += count(&value);
                Ok(value)
            }
            _ => Err(self.error(marks, "a value is missing here")),
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Map<String, Value>, JobError> {
        let mut entries = Map::new();
        loop {
            let (event, marks) = self.next()?;
            let name = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(name, ..) => name.into_owned(),
                _ => return Err(self.error(marks, "a key must be a plain text")),
            };
            if entries.contains_key(&name) {
                return Err(self.error(marks, &format!("the key `{name}` stands here twice")));
            }
            let key = self.span(marks);
            let (event, marks) = self.next()?;
            let entry_path = join(path, &name);
            let value = self.value(event, marks, &entry_path, Some(key), depth + 1)?;
            if path == "stages" {
                self.document.stage_order.push(name.clone());
            }
            entries.insert(name, value);
        }
    }

    fn remember(&mut self, anchor: usize, value: &Value) {
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(entries) => 1 + entries.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// A scalar by the core schema of YAML 1.2. Numbers that JSON cannot hold stay texts.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::from(text);
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let with_radix = |prefix: &str, radix| {
        text.strip_prefix(prefix)
            .and_then(|digits| u64::from_str_radix(digits, radix).ok())
    };
    let number = text
        .parse::<u64>()
        .ok()
        .or_else(|| with_radix("0x", 16))
        .or_else(|| with_radix("0o", 8))
        .map(Number::from)
        .or_else(|| text.parse::<i64>().ok().map(Number::from))
        .or_else(|| {
            let is_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
                && text.contains(|c: char| c.is_ascii_digit())
                && !text.ends_with(|c: char| c.is_ascii_alphabetic());
            let number = is_number.then(|| text.parse::<f64>().ok()).flatten()?;
            Number::from_f64(number)
        });
    number.map_or_else(|| Value::from(text), Value::Number)
}
