//! Column names that more than one stage uses, and the schema of a batch of documents.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};

/// Id of a document.
pub const DOC_ID: &str = "doc_id";
/// Id of a sequence of tokens that was packed from documents.
pub const SEQUENCE_ID: &str = "sequence_id";
/// Documents that a sequence holds parts of.
pub const SPANS: &str = "spans";
/// Text of a document.
pub const TEXT: &str = "text";
/// Where the document comes from, as the corpus says.
pub const SOURCE: &str = "source";
/// File that a row comes from, as the job names it.
pub const INPUT_FILE: &str = "input_file";
/// Row within that file, from 0.
pub const INPUT_ROW: &str = "input_row";
/// Lane of a row: `ok`, `ineligible`, `rejected` or `failed`.
pub const STATUS: &str = "status";
/// Lane of the input row that a row was made from, where an input row gives several.
pub const LANE: &str = "lane";
/// Why a row is not `ok`.
pub const REASON: &str = "reason";
/// Number of tokens of a document.
pub const N_TOKENS: &str = "n_tokens";
/// Bytes of UTF-8 text of a document.
pub const N_BYTES: &str = "n_bytes";

/// Key under which the id of a field is kept in its metadata; Parquet writes it as the field id.
pub const FIELD_ID: &str = "PARQUET:field_id";

/// Schema of the batches in which stages are given documents:
///
/// | column | type | |
/// |---|---|---|
/// | `doc_id` | utf8 | from the id column or derived as `<file>#<row>` |
/// | `text` | utf8_view, nullable | null only where `reason` is set |
/// | `source` | utf8, nullable | |
/// | `input_file` | utf8 | |
/// | `input_row` | u64 | |
/// | `reason` | utf8, nullable | why the row is rejected; its text must not be used |
#[must_use]
pub fn document_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(DOC_ID, DataType::Utf8, false),
        Field::new(TEXT, DataType::Utf8View, true),
        Field::new(SOURCE, DataType::Utf8, true),
        Field::new(INPUT_FILE, DataType::Utf8, false),
        Field::new(INPUT_ROW, DataType::UInt64, false),
        Field::new(REASON, DataType::Utf8, true),
    ]))
}

/// The schema with field ids from 1 in order, as every table of an output has them.
#[must_use]
pub fn with_field_ids(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| {
            let mut metadata = field.metadata().clone();
            metadata.insert(FIELD_ID.to_owned(), (i + 1).to_string());
            Arc::new(field.as_ref().clone().with_metadata(metadata))
        })
        .collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}
