//! Documents of jsonl files: one JSON object per line, plain or compressed.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, RecordBatch, StringArray, StringBuilder, StringViewBuilder, UInt64Array,
};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use gleaner_schemas::{DocumentColumns, Failure, FailureKind, Place, Slice, SourceFile};
use serde_json::Value;

use crate::blocking::{BlockingIo, RangeReader};
use crate::documents::{
    BATCH_ROWS_MAX, BatchLimits, PredicateCompiler, RawDocuments, RowPredicate,
};
use crate::footer::{decompress, infer_schema};
use crate::read_error::ReadError;

/// Bytes of a file from which its columns are inferred, for a predicate.
const HEAD_BYTES: u64 = 4 << 20;

/// Lines of a file that are not blank, numbered from 0.
pub(crate) struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    file: RangeReader,
    source: SourceFile,
    line_bytes_max: u64,
    next_row: u64,
    n_lines: u64,
}

/// A line, or how long it was if it was too long to keep.
pub(crate) enum Line {
    Bytes(Vec<u8>),
    TooLong(u64),
}

impl Lines {
    pub(crate) fn open(
        io: &BlockingIo,
        source: &SourceFile,
        line_bytes_max: u64,
    ) -> Result<Self, ReadError> {
        let file = RangeReader::open(io, source)?;
        file.expect(std::iter::once(0..source.bytes));
        let reader =
            decompress(source.format, file.read_from(0)).map_err(|error| ReadError::Contents {
                name: source.name.clone(),
                format: "jsonl",
                message: error.to_string(),
            })?;
        Ok(Self {
            reader: BufReader::with_capacity(256 << 10, reader),
            file,
            source: source.clone(),
            line_bytes_max,
            next_row: 0,
            n_lines: 0,
        })
    }

    /// The number of the line that came last among all lines, counted from 1.
    pub(crate) fn line_number(&self) -> u64 {
        self.n_lines
    }

    /// The next line with its number among the lines that are not blank.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Line)>, ReadError> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.reader)
                .take(self.line_bytes_max + 1)
                .read_until(b'\n', &mut bytes);
            let n_read = read.map_err(|error| self.failed(&error))?;
            if n_read == 0 {
                self.file.check_unchanged()?;
                return Ok(None);
            }
            self.n_lines += 1;
            let mut line = Line::Bytes(Vec::new());
            if n_read as u64 > self.line_bytes_max && bytes.last() != Some(&b'\n') {
                line = Line::TooLong(n_read as u64 + self.skip_line()?);
            }
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if matches!(line, Line::Bytes(_)) {
                line = Line::Bytes(bytes);
            }
            let row = self.next_row;
            self.next_row += 1;
            return Ok(Some((row, line)));
        }
    }

    fn skip_line(&mut self) -> Result<u64, ReadError> {
        let mut skipped = 0;
        loop {
            let (n_bytes, is_end) = match self.reader.fill_buf() {
                Ok([]) => return Ok(skipped),
                Ok(buffer) => match buffer.iter().position(|&byte| byte == b'\n') {
                    Some(at) => (at + 1, true),
                    None => (buffer.len(), false),
                },
                Err(error) => return Err(self.failed(&error)),
            };
            self.reader.consume(n_bytes);
            skipped += n_bytes as u64;
            if is_end {
                return Ok(skipped);
            }
        }
    }

    fn failed(&self, error: &std::io::Error) -> ReadError {
        self.file
            .take_cause()
            .unwrap_or_else(|| ReadError::Contents {
                name: self.source.name.clone(),
                format: "jsonl",
                message: format!("{error}; is it cut short?"),
            })
    }
}

pub(crate) struct JsonlDocuments {
    lines: Lines,
    file_name: String,
    columns: DocumentColumns,
    predicate: Option<(Arc<dyn RowPredicate>, SchemaRef)>,
    limits: BatchLimits,
    rows_excluded: u64,
    /// Of the rows of the last batch.
    line_numbers: Vec<u64>,
}

/// A line with its places in the file.
struct Placed {
    row: u64,
    line_number: u64,
    line: Line,
}

/// A line as a document.
struct Parsed {
    row: u64,
    line_number: u64,
    /// Whether it has columns.
    is_object: bool,
    id: Option<String>,
    text: Option<String>,
    source: Option<String>,
    reason: Option<String>,
}

impl JsonlDocuments {
    pub(crate) fn open(
        io: &BlockingIo,
        slice: &Slice,
        columns: &DocumentColumns,
        predicate: Option<(&str, &dyn PredicateCompiler)>,
        limits: BatchLimits,
    ) -> Result<Self, Failure> {
        let place = || Place::file(&slice.file.name);
        let fail = |error: ReadError| error.into_failure(place());
        let predicate = match predicate {
            None => None,
            Some((sql, compiler)) => {
                let schema = Arc::new(schema_of(io, &slice.file).map_err(fail)?);
                // A file without columns has no row that the predicate could speak of.
                if schema.fields().is_empty() {
                    return Self::new(io, slice, columns, None, limits);
                }
                let predicate = compiler.compile(sql, &schema).map_err(|message| {
                    Failure::new(FailureKind::Permanent, format!("`where`: {message}")).at(place())
                })?;
                Some((predicate, schema))
            }
        };
        Self::new(io, slice, columns, predicate, limits)
    }

    fn new(
        io: &BlockingIo,
        slice: &Slice,
        columns: &DocumentColumns,
        predicate: Option<(Arc<dyn RowPredicate>, SchemaRef)>,
        limits: BatchLimits,
    ) -> Result<Self, Failure> {
        // JSON escapes may make a line longer than its text.
        let line_bytes_max = limits.document_bytes_max.saturating_mul(2);
        Ok(Self {
            lines: Lines::open(io, &slice.file, line_bytes_max)
                .map_err(|error| error.into_failure(Place::file(&slice.file.name)))?,
            file_name: slice.file.name.clone(),
            columns: columns.clone(),
            predicate,
            limits,
            rows_excluded: 0,
            line_numbers: Vec::new(),
        })
    }

    pub(crate) fn rows_excluded(&self) -> u64 {
        self.rows_excluded
    }

    /// The number of the line that the `idx`-th row of the last batch is, counted from 1.
    pub(crate) fn line_number(&self, idx: usize) -> Option<u64> {
        self.line_numbers.get(idx).copied()
    }

    pub(crate) fn next_documents(&mut self) -> Result<Option<RawDocuments>, Failure> {
        loop {
            let (lines, is_end) = self.next_lines()?;
            let documents = self.filter(lines)?;
            if !documents.is_empty() {
                let numbers = documents.iter().map(|document| document.line_number);
                self.line_numbers = numbers.collect();
                return Ok(Some(self.arrays(documents)));
            }
            if is_end {
                return Ok(None);
            }
        }
    }

    fn next_lines(&mut self) -> Result<(Vec<Placed>, bool), Failure> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while lines.len() < BATCH_ROWS_MAX && bytes < self.limits.batch_bytes {
            let next = self
                .lines
                .next()
                .map_err(|error| error.into_failure(Place::file(&self.file_name)))?;
            let Some((row, line)) = next else {
                return Ok((lines, true));
            };
            if let Line::Bytes(line) = &line {
                bytes += line.len() as u64;
            }
            lines.push(Placed {
                row,
                line_number: self.lines.line_number(),
                line,
            });
        }
        Ok((lines, false))
    }

    /// Parses lines, without those that the predicate excludes. A line that is no JSON object, or
    /// whose values are not of the columns' types, has nothing to exclude it by: it is rejected.
    fn filter(&mut self, lines: Vec<Placed>) -> Result<Vec<Parsed>, Failure> {
        let mut documents = Vec::with_capacity(lines.len());
        let mut candidates = Vec::new();
        for placed in lines {
            let parsed = self.parse(&placed);
            if let (Some(_), Line::Bytes(bytes)) = (&self.predicate, placed.line)
                && parsed.is_object
            {
                candidates.push((documents.len(), bytes));
            }
            documents.push(Some(parsed));
        }
        if let Some((predicate, schema)) = &self.predicate {
            let text: Vec<u8> = candidates
                .iter()
                .flat_map(|(_, line)| line.iter().copied().chain([b'\n']))
                .collect();
            let evaluate = |text: &[u8], n| evaluate(predicate.as_ref(), schema, text, n);
            let keep: Vec<Result<bool, String>> = match evaluate(&text, candidates.len()) {
                Ok(keep) => keep.into_iter().map(Ok).collect(),
                // One line can spoil a batch; which one does, each by itself tells.
                Err(_) => candidates
                    .iter()
                    .map(|(_, line)| Ok(evaluate(line, 1)?.first() == Some(&true)))
                    .collect(),
            };
            for ((idx, _), keep) in candidates.iter().zip(keep) {
                match keep {
                    Ok(true) => {}
                    Ok(false) => {
                        documents[*idx] = None;
                        self.rows_excluded += 1;
                    }
                    Err(message) => {
                        if let Some(document) = &mut documents[*idx] {
                            document.text = None;
                            document.reason = Some(format!("`where`: {message}"));
                        }
                    }
                }
            }
        }
        Ok(documents.into_iter().flatten().collect())
    }

    fn parse(&self, placed: &Placed) -> Parsed {
        let Placed {
            row,
            line_number,
            line,
        } = placed;
        let (row, line_number) = (*row, *line_number);
        let rejected = |reason: String| Parsed {
            row,
            line_number,
            is_object: false,
            id: None,
            text: None,
            source: None,
            reason: Some(reason),
        };
        let bytes = match line {
            Line::Bytes(bytes) => bytes,
            Line::TooLong(n_bytes) => {
                return rejected(format!(
                    "the line has {n_bytes} bytes, more than a slot's memory allows; raise \
                     `memory` in the job file"
                ));
            }
        };
        let mut object = match serde_json::from_slice(bytes) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return rejected("the line is not a JSON object".to_owned()),
            Err(error) => return rejected(format!("the line is not JSON: {error}")),
        };
        let name = |column: &Option<String>| match object.get(column.as_ref()?)? {
            Value::String(name) => Some(name.clone()),
            Value::Number(name) => Some(name.to_string()),
            _ => None,
        };
        let (id, source) = (name(&self.columns.id), name(&self.columns.source));
        let (text, reason) = match object.remove(&self.columns.text) {
            Some(Value::String(text)) => (Some(text), None),
            None | Some(Value::Null) => (None, None),
            Some(_) => (
                None,
                Some(format!(
                    "the value of \"{}\" is not a text",
                    self.columns.text
                )),
            ),
        };
        Parsed {
            row,
            line_number,
            is_object: true,
            id,
            text,
            source,
            reason,
        }
    }

    fn arrays(&self, documents: Vec<Parsed>) -> RawDocuments {
        let mut texts = StringViewBuilder::with_capacity(documents.len());
        let (mut ids, mut sources) = (StringBuilder::new(), StringBuilder::new());
        for document in &documents {
            texts.append_option(document.text.as_deref());
            ids.append_option(document.id.as_deref());
            sources.append_option(document.source.as_deref());
        }
        let is_clean = documents.iter().all(|document| document.reason.is_none());
        RawDocuments {
            ids: Some(Arc::new(ids.finish()) as ArrayRef),
            texts: texts.finish(),
            sources: Some(Arc::new(sources.finish())),
            rows: UInt64Array::from_iter_values(documents.iter().map(|document| document.row)),
            reasons: (!is_clean).then(|| {
                let reasons = documents.iter().map(|document| document.reason.as_deref());
                reasons.collect::<StringArray>()
            }),
        }
    }
}

/// The columns of a file, as its plan inferred them.
fn schema_of(io: &BlockingIo, source: &SourceFile) -> Result<Schema, ReadError> {
    let file = RangeReader::open(io, source)?;
    let mut head = Vec::new();
    let read = file.read_from(0).take(HEAD_BYTES).read_to_end(&mut head);
    read.map_err(|error| {
        file.take_cause().unwrap_or_else(|| ReadError::Contents {
            name: source.name.clone(),
            format: "jsonl",
            message: error.to_string(),
        })
    })?;
    let is_whole = head.len() as u64 == source.bytes;
    infer_schema(&source.name, source.format, &head, is_whole)
}

fn evaluate(
    predicate: &dyn RowPredicate,
    schema: &SchemaRef,
    lines: &[u8],
    n_lines: usize,
) -> Result<Vec<bool>, String> {
    if n_lines == 0 {
        return Ok(Vec::new());
    }
    let batch = decode(schema, lines, n_lines)?;
    let indices: Result<Vec<usize>, _> = predicate
        .columns()
        .iter()
        .map(|name| schema.index_of(name))
        .collect();
    let batch = indices
        .and_then(|indices| batch.project(&indices))
        .map_err(|error| error.to_string())?;
    let keep = predicate.evaluate(&batch)?;
    Ok(keep.iter().map(|keep| keep == Some(true)).collect())
}

/// Lines as a batch of `schema`; fields that it does not have are left out.
pub(crate) fn decode(
    schema: &SchemaRef,
    lines: &[u8],
    n_lines: usize,
) -> Result<RecordBatch, String> {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(n_lines)
        .with_coerce_primitive(true)
        .build_decoder()
        .map_err(|error| error.to_string())?;
    let mut rest = lines;
    while !rest.is_empty() {
        let n_decoded = decoder.decode(rest).map_err(|error| error.to_string())?;
        if n_decoded == 0 {
            break;
        }
        rest = &rest[n_decoded..];
    }
    match decoder.flush().map_err(|error| error.to_string())? {
        Some(batch) if batch.num_rows() == n_lines => Ok(batch),
        _ => Err(format!(
            "{n_lines} lines do not fit the columns of the file's first lines"
        )),
    }
}

/// Lines as a batch of `schema`, a row for each, whatever they are: a line that is no JSON object
/// is a row of nulls, and so is a value that does not have its column's type.
///
/// # Errors
///
/// If there can be no such columns.
pub fn decode_lines(schema: &SchemaRef, lines: &[Vec<u8>]) -> Result<RecordBatch, String> {
    let text = |lines: &[Vec<u8>]| -> Vec<u8> {
        lines
            .iter()
            .flat_map(|line| line.iter().copied().chain([b'\n']))
            .collect()
    };
    if let Ok(batch) = decode(schema, &text(lines), lines.len()) {
        return Ok(batch);
    }
    // Which line spoils the batch, and which of its values, each by itself tells.
    let fitting: Result<Vec<Vec<u8>>, String> = lines
        .iter()
        .map(|line| match decode(schema, line, 1) {
            Ok(_) => Ok(line.clone()),
            Err(_) => fitting_part(schema, line),
        })
        .collect();
    decode(schema, &text(&fitting?), lines.len())
}

/// A line without the values that do not fit their columns.
fn fitting_part(schema: &SchemaRef, line: &[u8]) -> Result<Vec<u8>, String> {
    let Ok(Value::Object(object)) = serde_json::from_slice(line) else {
        return Ok(b"{}".to_vec());
    };
    let mut fitting = serde_json::Map::new();
    for field in schema.fields() {
        let Some(value) = object.get(field.name()) else {
            continue;
        };
        let alone = Arc::new(Schema::new(vec![Arc::clone(field)]));
        let single = serde_json::Map::from_iter([(field.name().clone(), value.clone())]);
        let text = serde_json::to_vec(&single).map_err(|error| error.to_string())?;
        if decode(&alone, &text, 1).is_ok() {
            fitting.extend(single);
        }
    }
    serde_json::to_vec(&fitting).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
