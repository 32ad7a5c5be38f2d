//! How documents of the corpus begin: the summary shows a few.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::{DataType, Field, Schema};
use gleaner_schemas::{FileFormat, SourceFile, Version};
use gleaner_storage::documents::BatchLimits;
use gleaner_storage::lookup::CorpusLookup;
use gleaner_storage::table::BlockingIo;
use serde_json::Value;

/// Bytes of text that an excerpt is made of.
const EXCERPT_BYTES: usize = 400;
/// Bytes of JSON lines that are read for excerpts: what stands far down a file of lines is only
/// found by reading all that comes before.
const LINES_BYTES_MAX: u64 = 512 << 20;
/// Memory for reading excerpts.
const EXCERPT_MEMORY: u64 = 64 << 20;

/// File and row of a document.
pub(crate) type Place = (String, u64);

/// Excerpts are an extra: where they cannot be read there are none.
pub(crate) async fn add_excerpts(
    io: &BlockingIo,
    version: &Version,
    documents: Vec<(Option<Place>, &mut Option<String>)>,
) {
    let text_column = version
        .job_file
        .pointer("/corpus/columns/text")
        .and_then(Value::as_str)
        .unwrap_or("text")
        .to_owned();
    let mut by_file: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (place, _) in &documents {
        if let Some((file, row)) = place {
            by_file.entry(file.clone()).or_default().push(*row);
        }
    }
    let by_name: HashMap<&str, &Arc<SourceFile>> = version
        .corpus
        .iter()
        .map(|file| (file.name.as_str(), file))
        .collect();
    let mut lines_bytes = 0;
    let files: Vec<(Arc<SourceFile>, Vec<u64>)> = by_file
        .into_iter()
        .filter_map(|(name, mut rows)| {
            rows.sort_unstable();
            rows.dedup();
            let file = by_name.get(name.as_str())?;
            if file.format != FileFormat::Parquet {
                lines_bytes += file.bytes;
                if lines_bytes > LINES_BYTES_MAX {
                    return None;
                }
            }
            Some((Arc::clone(file), rows))
        })
        .collect();
    let lookup = CorpusLookup::new(io.clone(), BatchLimits::for_memory(EXCERPT_MEMORY));
    let read = tokio::task::spawn_blocking(move || read_excerpts(&lookup, &files, &text_column));
    let Ok(excerpts) = read.await else { return };
    for (place, excerpt) in documents {
        *excerpt = place.and_then(|place| excerpts.get(&place).cloned());
    }
}

fn read_excerpts(
    lookup: &CorpusLookup,
    files: &[(Arc<SourceFile>, Vec<u64>)],
    text_column: &str,
) -> BTreeMap<Place, String> {
    let schema = Arc::new(Schema::new(vec![Field::new(
        text_column,
        DataType::Utf8,
        true,
    )]));
    let mut excerpts = BTreeMap::new();
    for (file, rows) in files {
        let mut places = rows.iter();
        let read = lookup.for_each(file, rows, &schema, &mut |batch| {
            for text in batch.column(0).as_string::<i32>() {
                if let (Some(row), Some(text)) = (places.next(), text) {
                    excerpts.insert((file.name.clone(), *row), excerpt(text));
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            tracing::debug!(%error, "cannot read excerpts");
        }
    }
    excerpts
}

fn excerpt(text: &str) -> String {
    let end = text.floor_char_boundary(EXCERPT_BYTES.min(text.len()));
    text[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}
