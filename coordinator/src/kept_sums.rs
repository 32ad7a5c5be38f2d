//! What the objects of a phase add up to, kept for reduces over most of them. A damaged object is as good as
//! none.

use arrow::array::RecordBatch;
use bytes::Bytes;
use gleaner_schemas::{Failure, Lanes};
use gleaner_storage::table::{self, BlockingIo};
use gleaner_storage::{Output, TableEncoder};
use gleaner_workers::stage::{KeptSums, ReadObject};
use serde_json::json;

/// Key-value metadata: paths and sizes of the objects.
const SUMMED: &str = "gleaner.summed";

/// What is kept at a key, if anything is.
pub(crate) fn read(output: &Output, io: &BlockingIo, key: &str) -> Option<KeptSums> {
    match parsed(output, io, key) {
        Ok(sums) => sums,
        Err(failure) => {
            tracing::info!(%failure, "objects of a phase are added up anew");
            None
        }
    }
}

fn parsed(output: &Output, io: &BlockingIo, key: &str) -> Result<Option<KeptSums>, Failure> {
    let Some(bytes) = io.run(output.get(key))? else {
        return Ok(None);
    };
    let (told, sums) = table::decode(key, bytes, SUMMED)?;
    let told: Option<Vec<(String, u64)>> = told.and_then(|told| serde_json::from_str(&told).ok());
    Ok(told.map(|objects| {
        let objects = objects.into_iter();
        KeptSums {
            objects: objects
                .map(|(path, bytes)| ReadObject { path, bytes })
                .collect(),
            sums,
        }
    }))
}

/// Keeps sums. No result depends on it.
pub(crate) fn write(output: &Output, io: &BlockingIo, key: &str, sums: &KeptSums) {
    let written = encoded(sums).and_then(|bytes| io.run(output.put(key, bytes)));
    if let Err(failure) = written {
        tracing::info!(%failure, "the sums of a phase are not kept");
    }
}

fn encoded(sums: &KeptSums) -> Result<Bytes, Failure> {
    let Some(schema) = sums.sums.first().map(RecordBatch::schema) else {
        return Err(Failure::new(
            gleaner_schemas::FailureKind::Permanent,
            "sums have a schema",
        ));
    };
    let mut encoder = TableEncoder::new(schema, u64::MAX)?;
    for batch in &sums.sums {
        encoder.write(batch)?;
    }
    let objects = sums.objects.iter();
    let objects: Vec<(&str, u64)> = objects
        .map(|object| (object.path.as_str(), object.bytes))
        .collect();
    encoder.tell(SUMMED, json!(objects).to_string());
    encoder.finish(&Lanes::default(), &json!({}))
}
