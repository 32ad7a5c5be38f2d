//! Rows as text or bytes, as they come.
//!
//! - `table`: aligned columns. The widths are those of the first rows; later cells that are wider
//!   stick out, so that a result of any size streams.
//! - `csv`: RFC 4180 with a header; null is an empty field, an empty text is `""`.
//! - `json`: one object per line (JSON Lines) with all columns, null included.
//! - `parquet`: one Parquet file, zstd.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, Writer as JsonWriter, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::summary::text::{display_width, truncate};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    Table,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object per line.
    Json,
    /// A Parquet file.
    Parquet,
}

/// Rows whose cells decide the widths of a table's columns.
const TABLE_SAMPLE_ROWS: usize = 1000;
/// Characters of a cell of a table on a terminal.
const CELL_WIDTH_MAX: usize = 80;

/// Writes batches in one format.
pub struct RowWriter<W: Write + Send> {
    kind: Kind<W>,
    n_rows: u64,
}

enum Kind<W: Write + Send> {
    Table(Table<W>),
    Csv(W),
    Json(JsonWriter<W, LineDelimited>),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> std::fmt::Debug for RowWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowWriter")
            .field("n_rows", &self.n_rows)
            .finish_non_exhaustive()
    }
}

struct Table<W> {
    writer: W,
    header: Vec<String>,
    is_number: Vec<bool>,
    cell_width_max: Option<usize>,
    sample: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl<W: Write + Send> RowWriter<W> {
    /// A writer of rows of `schema`. `is_terminal` shortens the cells of tables.
    ///
    /// # Errors
    ///
    /// Of the stream, or if the format cannot express the schema.
    pub fn new(
        format: Format,
        schema: &SchemaRef,
        mut writer: W,
        is_terminal: bool,
    ) -> io::Result<Self> {
        let names = || schema.fields().iter().map(|field| field.name().clone());
        let kind = match format {
            Format::Table => Kind::Table(Table {
                writer,
                header: names().collect(),
                is_number: schema
                    .fields()
                    .iter()
                    .map(|field| field.data_type().is_numeric())
                    .collect(),
                cell_width_max: is_terminal.then_some(CELL_WIDTH_MAX),
                sample: Vec::new(),
                widths: None,
            }),
            Format::Csv => {
                let header: Vec<Option<String>> = names().map(Some).collect();
                write_csv_row(&mut writer, &header)?;
                Kind::Csv(writer)
            }
            Format::Json => {
                let builder = WriterBuilder::new().with_explicit_nulls(true);
                Kind::Json(builder.build::<_, LineDelimited>(writer))
            }
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .build();
                let schema = schema.clone();
                let writer = ArrowWriter::try_new(writer, schema, Some(properties))?;
                Kind::Parquet(Box::new(writer))
            }
        };
        Ok(Self { kind, n_rows: 0 })
    }

    /// Writes the rows of a batch.
    ///
    /// # Errors
    ///
    /// Of the stream.
    pub fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        self.n_rows += batch.num_rows() as u64;
        match &mut self.kind {
            Kind::Table(table) => table.write(batch),
            Kind::Csv(writer) => for_each_row(batch, None, |row| write_csv_row(writer, &row)),
            Kind::Json(writer) => writer.write(batch).map_err(arrow_error),
            Kind::Parquet(writer) => Ok(writer.write(batch)?),
        }
    }

    /// Writes what is left, and returns the stream and the number of rows.
    ///
    /// # Errors
    ///
    /// Of the stream.
    pub fn finish(self) -> io::Result<(W, u64)> {
        let mut writer = match self.kind {
            Kind::Table(mut table) => {
                table.settle()?;
                table.writer
            }
            Kind::Csv(writer) => writer,
            Kind::Json(mut writer) => {
                writer.finish().map_err(arrow_error)?;
                writer.into_inner()
            }
            Kind::Parquet(writer) => writer.into_inner()?,
        };
        writer.flush()?;
        Ok((writer, self.n_rows))
    }
}

fn arrow_error(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => io::Error::other(other),
    }
}

/// Calls `each` with the cells of every row; null is `None`.
fn for_each_row(
    batch: &RecordBatch,
    width_max: Option<usize>,
    mut each: impl FnMut(Vec<Option<String>>) -> io::Result<()>,
) -> io::Result<()> {
    let options = FormatOptions::default().with_display_error(true);
    let formatters: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<_, _>>()
        .map_err(arrow_error)?;
    for row in 0..batch.num_rows() {
        let cells = batch
            .columns()
            .iter()
            .zip(&formatters)
            .map(|(column, formatter)| {
                if column.is_null(row) || column.data_type() == &DataType::Null {
                    return None;
                }
                let text = formatter.value(row).to_string();
                Some(match width_max {
                    Some(width) => truncate(&one_line(&text), width),
                    None => text,
                })
            })
            .collect();
        each(cells)?;
    }
    Ok(())
}

/// A text without line ends and control characters, which would break a table or a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn write_csv_row<W: Write>(writer: &mut W, cells: &[Option<String>]) -> io::Result<()> {
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            writer.write_all(b",")?;
        }
        if let Some(cell) = cell {
            let needs_quotes = cell.is_empty() || cell.contains([',', '"', '\n', '\r']);
            if needs_quotes {
                write!(writer, "\"{}\"", cell.replace('"', "\"\""))?;
            } else {
                writer.write_all(cell.as_bytes())?;
            }
        }
    }
    writer.write_all(b"\r\n")
}

impl<W: Write> Table<W> {
    fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        // Even without a bound, a cell is one line.
        let width_max = Some(self.cell_width_max.unwrap_or(usize::MAX));
        let mut rows: Vec<Vec<String>> = Vec::with_capacity(batch.num_rows());
        for_each_row(batch, width_max, |row| {
            rows.push(row.into_iter().map(Option::unwrap_or_default).collect());
            Ok(())
        })?;
        if self.widths.is_some() {
            return rows.iter().try_for_each(|row| self.write_row(row));
        }
        self.sample.extend(rows);
        if self.sample.len() >= TABLE_SAMPLE_ROWS {
            self.settle()?;
        }
        Ok(())
    }

    /// Fixes the widths and writes what was waiting for them.
    fn settle(&mut self) -> io::Result<()> {
        if self.widths.is_some() {
            return Ok(());
        }
        let mut widths: Vec<usize> = self.header.iter().map(|name| display_width(name)).collect();
        for row in &self.sample {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(display_width(cell));
            }
        }
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        self.widths = Some(widths);
        let header = std::mem::take(&mut self.header);
        self.write_row(&header)?;
        self.write_row(&rule)?;
        let sample = std::mem::take(&mut self.sample);
        sample.iter().try_for_each(|row| self.write_row(row))
    }

    fn write_row(&mut self, row: &[String]) -> io::Result<()> {
        let widths = self.widths.as_deref().unwrap_or_default();
        let mut line = String::new();
        for ((cell, width), is_number) in row.iter().zip(widths).zip(&self.is_number) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let padding = " ".repeat(width.saturating_sub(display_width(cell)));
            if *is_number {
                line.push_str(&padding);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&padding);
            }
        }
        writeln!(self.writer, "{}", line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, StringArray};
    use std::sync::Arc;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter([
            (
                "text",
                Arc::new(StringArray::from(vec![Some("a,\"b\"\nc"), None, Some("")])) as _,
            ),
            (
                "score",
                Arc::new(Float64Array::from(vec![1.5, -20.0, 0.25])) as _,
            ),
        ])
        .unwrap()
    }

    fn written(format: Format) -> Vec<u8> {
        let batch = batch();
        let mut writer = RowWriter::new(format, &batch.schema(), Vec::new(), false).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap().0
    }

    #[test]
    fn csv_tells_null_from_empty() {
        let text = String::from_utf8(written(Format::Csv)).unwrap();
        assert_eq!(
            text,
            "text,score\r\n\"a,\"\"b\"\"\nc\",1.5\r\n,-20.0\r\n\"\",0.25\r\n"
        );
    }

    #[test]
    fn json_lines_have_all_columns() {
        let text = String::from_utf8(written(Format::Json)).unwrap();
        let second = text.lines().nth(1).unwrap();
        let value: serde_json::Value = serde_json::from_str(second).unwrap();
        assert_eq!(value, serde_json::json!({"text": null, "score": -20.0}));
    }

    #[test]
    fn tables_align_and_keep_to_one_line() {
        let text = String::from_utf8(written(Format::Table)).unwrap();
        let expected = "\
text     score
-------  -----
a,\"b\" c    1.5
         -20.0
          0.25
";
        assert_eq!(text, expected);
    }

    #[test]
    fn parquet_reads_back() {
        let bytes = bytes::Bytes::from(written(Format::Parquet));
        let mut reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(bytes, 10).unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), batch());
    }
}
