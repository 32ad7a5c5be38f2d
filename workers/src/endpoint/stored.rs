//! Requests and replies in the store: the note that a request is sent, and what came back.
//!
//! Both are created once. The note is created before anything is sent, so of several workers one
//! sends; the reply as the server gave it is stored before anybody looks into it, so that nothing
//! that was paid for is lost to a mistake of ours.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray as _, BinaryArray, BooleanArray, Int64Array, RecordBatch, StringArray,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type, UInt64Type};
use bytes::Bytes;
use gleaner_endpoint::Series;
use gleaner_schemas::columns::with_field_ids;
use gleaner_schemas::{Failure, FailureKind};
use gleaner_storage::{Created, Output, OutputError, layout};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};

use super::process::ProcessIdentity;
use super::spending::Amounts;

/// `_gleaner/requests/<xx>/<key>-<N>.json`: a request is sent for the N-th time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentRequest {
    /// Version of this format: [`SentRequest::FORMAT`].
    pub format: u32,
    /// Hash of everything that the answer depends on.
    pub request: String,
    /// For the how many-th time, from 0.
    pub number: u32,
    /// Number of the series of sendings that it is of, which the idempotency key ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<u32>,
    /// Hash of the endpoint's URL and model.
    pub endpoint: String,
    /// Name of the stage.
    pub stage: String,
    /// The lease that it counts on.
    pub lease: String,
    /// What it may cost at most.
    pub estimate: Amounts,
    /// When: milliseconds since 1970, about the store's.
    pub sent_ms: i64,
    /// When its sender will have given up waiting for the answer, by the same clock.
    pub until_ms: i64,
    /// Name of the worker, for people.
    pub worker: String,
    /// Its process.
    pub process: ProcessIdentity,
    /// Random: no two notes are the same bytes, so one of several senders knows that it is the one.
    pub nonce: u64,
}

impl SentRequest {
    /// The version of the format that this build writes and reads.
    pub const FORMAT: u32 = 1;

    /// Whether its sender has given up waiting for the answer, if the note was put at `put_ms` and it
    /// is `now_ms` by the store's clock. What the sender's clock said does not matter.
    #[must_use]
    pub fn is_over(&self, put_ms: i64, now_ms: i64) -> bool {
        let lasts_ms = self.until_ms.saturating_sub(self.sent_ms);
        now_ms.saturating_sub(put_ms) >= lasts_ms
    }

    /// The series that the next sending goes on with, if nobody waits for this one any more and those
    /// before it were of `series`.
    #[must_use]
    pub fn goes_on(&self, series: Series, is_withdrawn: bool) -> Series {
        match is_withdrawn {
            false => Series {
                number: self.series,
                may_be_at_work: true,
                ..Series::default()
            },
            true if series.may_be_at_work => series,
            // The server may have refused it, and would refuse the same again.
            true => Series {
                is_over: true,
                ..series
            },
        }
    }
}

/// `_gleaner/replies/<xx>/<key>.parquet`: one row, the reply to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReply {
    /// Hash of everything that the answer depends on.
    pub request: String,
    /// It answers the sending of this number.
    pub number: u32,
    /// The lease that it was booked on.
    pub lease: String,
    /// Hash of the endpoint's URL and model.
    pub endpoint: String,
    /// Name of the stage.
    pub stage: String,
    /// Name of the model, as it was asked for.
    pub model: String,
    /// What was sent, as JSON.
    pub sent: String,
    /// Whether the server was given a schema that it should keep to.
    pub asked_for_schema: bool,
    /// Status of the answer.
    pub status: u32,
    /// Its body.
    pub body: Bytes,
    /// What it cost.
    pub cost: Amounts,
    /// When it was sent: milliseconds since 1970.
    pub sent_ms: i64,
    /// Milliseconds until its last byte.
    pub latency_ms: u64,
    /// Name of the worker.
    pub worker: String,
}

/// The columns of a reply.
#[must_use]
pub fn reply_schema() -> SchemaRef {
    let text = |name, nullable| Field::new(name, DataType::Utf8, nullable);
    let number = |name| Field::new(name, DataType::UInt64, false);
    with_field_ids(&Schema::new(vec![
        text("request", false),
        Field::new("number", DataType::UInt32, false),
        text("lease", false),
        text("endpoint", false),
        text("stage", false),
        text("model", false),
        text("sent", false),
        Field::new("asked_for_schema", DataType::Boolean, false),
        Field::new("status", DataType::UInt32, false),
        text("body", true),
        // Only where the body is no text.
        Field::new("raw_body", DataType::Binary, true),
        number("cost_nanos"),
        number("cost_tokens"),
        Field::new("sent_ms", DataType::Int64, false),
        number("latency_ms"),
        text("worker", false),
    ]))
}

/// The schema of replies, and how they are written: the same for all, and made once.
static OBJECTS: LazyLock<(SchemaRef, ArrowWriterOptions)> = LazyLock::new(|| {
    let schema = reply_schema();
    // To set up a compressor, or statistics, takes more time than a column of one value is worth. So
    // only texts are compressed, and not by zstd, whose tables take longer to clear than a text of a
    // few kilobytes to write.
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_dictionary_enabled(false);
    for column in ["sent", "body"] {
        properties = properties.set_column_compression(column.into(), Compression::SNAPPY);
    }
    // The schema is that of the file: there is no type that Parquet has not.
    let options = ArrowWriterOptions::new()
        .with_properties(properties.build())
        .with_skip_arrow_metadata(true);
    // What cannot be converted here is told by whoever writes.
    let options = match ArrowSchemaConverter::new().convert(&schema) {
        Ok(converted) => options.with_parquet_schema(converted),
        Err(_) => options,
    };
    (schema, options)
});

impl StoredReply {
    /// As a Parquet object of one row.
    ///
    /// # Errors
    ///
    /// Never with values that fit into memory.
    pub fn encode(&self) -> Result<Bytes, Failure> {
        let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
        let number = |number: u64| -> ArrayRef { Arc::new(UInt64Array::from(vec![number])) };
        let small = |number: u32| -> ArrayRef { Arc::new(UInt32Array::from(vec![number])) };
        let time = |ms: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![ms])) };
        let body = std::str::from_utf8(&self.body).ok();
        let raw = body.is_none().then_some(self.body.as_ref());
        let columns = vec![
            text(&self.request),
            small(self.number),
            text(&self.lease),
            text(&self.endpoint),
            text(&self.stage),
            text(&self.model),
            text(&self.sent),
            Arc::new(BooleanArray::from(vec![self.asked_for_schema])),
            small(self.status),
            Arc::new(StringArray::from(vec![body])),
            Arc::new(BinaryArray::from(vec![raw])),
            number(self.cost.nanos),
            number(self.cost.tokens),
            time(self.sent_ms),
            number(self.latency_ms),
            text(&self.worker),
        ];
        let encode = || -> Result<Vec<u8>, parquet::errors::ParquetError> {
            let (schema, options) = &*OBJECTS;
            let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
            let (schema, options) = (Arc::clone(schema), options.clone());
            let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema, options)?;
            writer.write(&batch)?;
            writer.into_inner()
        };
        let encoded = encode().map_err(|error| {
            Failure::new(
                FailureKind::Permanent,
                format!(
                    "cannot encode the reply to request {}: {error}",
                    self.request
                ),
            )
        })?;
        Ok(encoded.into())
    }

    fn decode(bytes: Bytes) -> Option<Self> {
        let mut batches = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .ok()?
            .build()
            .ok()?;
        let batch = batches.next()?.ok()?;
        if batch.num_rows() != 1 {
            return None;
        }
        let text = |name: &str| {
            let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
            column.is_valid(0).then(|| column.value(0).to_owned())
        };
        let number = |name: &str| {
            Some(
                batch
                    .column_by_name(name)?
                    .as_primitive_opt::<UInt64Type>()?
                    .value(0),
            )
        };
        let small = |name: &str| {
            Some(
                batch
                    .column_by_name(name)?
                    .as_primitive_opt::<UInt32Type>()?
                    .value(0),
            )
        };
        let raw = batch.column_by_name("raw_body")?.as_binary_opt::<i32>()?;
        let body = match text("body") {
            Some(body) => Bytes::from(body),
            None if raw.is_valid(0) => Bytes::copy_from_slice(raw.value(0)),
            None => return None,
        };
        Some(Self {
            request: text("request")?,
            number: small("number")?,
            lease: text("lease")?,
            endpoint: text("endpoint")?,
            stage: text("stage")?,
            model: text("model")?,
            sent: text("sent")?,
            asked_for_schema: batch
                .column_by_name("asked_for_schema")?
                .as_boolean_opt()?
                .value(0),
            status: small("status")?,
            body,
            cost: Amounts {
                nanos: number("cost_nanos")?,
                tokens: number("cost_tokens")?,
                requests: 1,
            },
            sent_ms: batch
                .column_by_name("sent_ms")?
                .as_primitive_opt::<Int64Type>()?
                .value(0),
            latency_ms: number("latency_ms")?,
            worker: text("worker")?,
        })
    }
}

fn malformed(output: &Output, key: &str) -> OutputError {
    OutputError::Malformed {
        uri: output.uri_of(key),
        expected: "stored reply",
        message: "it was written by another version, or it is damaged".to_owned(),
    }
}

/// The reply to a request, if there is one.
///
/// # Errors
///
/// Of the store, or if it cannot be read.
pub async fn reply(output: &Output, request: &str) -> Result<Option<StoredReply>, OutputError> {
    let key = layout::reply(request);
    let Some(bytes) = output.get(&key).await? else {
        return Ok(None);
    };
    let reply = StoredReply::decode(bytes).ok_or_else(|| malformed(output, &key))?;
    Ok(Some(reply))
}

/// Stores a reply, `encoded`, so that it survives a loss of power. Should another worker have been faster, its reply counts, for both: it
/// is returned.
///
/// # Errors
///
/// Of the store. The reply may be there all the same.
pub async fn keep_reply(
    output: &Output,
    request: &str,
    encoded: Bytes,
) -> Result<Option<StoredReply>, OutputError> {
    let key = layout::reply(request);
    let created = output.create(&key, encoded).await?;
    output.settle().await?;
    match created {
        Created::Stored => Ok(None),
        Created::Exists(bytes) => {
            let other = StoredReply::decode(bytes).ok_or_else(|| malformed(output, &key))?;
            Ok(Some(other))
        }
    }
}

/// Notes that a request is sent; `None` if somebody else has noted the same.
///
/// # Errors
///
/// Of the store. The note may be there all the same, and then nothing was sent.
pub async fn note_sent(output: &Output, sent: &SentRequest) -> Result<bool, OutputError> {
    let key = layout::request(&sent.request, sent.number);
    let stored = output
        .create_json(&key, "note of a request", sent.clone())
        .await?;
    Ok(stored == *sent)
}

/// The note of the `number`th sending of a request, and when it was put by the store's clock:
/// milliseconds since 1970.
///
/// # Errors
///
/// Of the store.
pub async fn sent(
    output: &Output,
    request: &str,
    number: u32,
) -> Result<Option<(SentRequest, i64)>, OutputError> {
    let key = layout::request(request, number);
    match output.get_dated(&key).await? {
        Some((bytes, put_ms)) => {
            let sent = output.parse_json(&key, "note of a request", &bytes)?;
            Ok(Some((sent, put_ms)))
        }
        None => Ok(None),
    }
}

/// Takes a note back: its request was not sent, or the server did nothing for it, and it is not going
/// to be sent under this number.
///
/// Nothing is removed, so whoever reads numbers in turn finds no gap.
///
/// # Errors
///
/// Of the store. Then the note counts until its time is over.
pub async fn withdraw(output: &Output, request: &str, number: u32) -> Result<(), OutputError> {
    let key = layout::withdrawn(request, number);
    output.create(&key, Bytes::from_static(b"{}\n")).await?;
    Ok(())
}

/// Whether the note of the `number`th sending was taken back.
///
/// # Errors
///
/// Of the store.
pub async fn is_withdrawn(
    output: &Output,
    request: &str,
    number: u32,
) -> Result<bool, OutputError> {
    let key = layout::withdrawn(request, number);
    Ok(output.get(&key).await?.is_some())
}

/// Requests and numbers of all notes that were taken back.
///
/// # Errors
///
/// Of the store.
pub async fn all_withdrawn(output: &Output) -> Result<BTreeSet<(String, u32)>, OutputError> {
    let objects = output.list(layout::WITHDRAWN).await?;
    let sendings = objects
        .iter()
        .filter_map(|object| layout::parse_sending(&object.path));
    Ok(sendings
        .map(|(request, number)| (request.to_owned(), number))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_come_back_as_they_are() {
        for body in [
            &b"{\"choices\": []}"[..],
            b"",
            b"\xff\xfe not text",
            "\u{5d0}\u{4e2d}".as_bytes(),
        ] {
            let reply = StoredReply {
                request: "0a".repeat(32),
                number: 2,
                lease: "l".to_owned(),
                endpoint: "e".to_owned(),
                stage: "s".to_owned(),
                model: "m".to_owned(),
                sent: "{}".to_owned(),
                asked_for_schema: true,
                status: 200,
                body: Bytes::from(body.to_vec()),
                cost: Amounts {
                    nanos: 12,
                    tokens: 34,
                    requests: 1,
                },
                sent_ms: 5,
                latency_ms: 6,
                worker: "w".to_owned(),
            };
            let encoded = reply.encode().expect("it can be encoded");
            assert_eq!(StoredReply::decode(encoded), Some(reply));
        }
        assert_eq!(StoredReply::decode(Bytes::from_static(b"PAR1 no")), None);
    }
}
