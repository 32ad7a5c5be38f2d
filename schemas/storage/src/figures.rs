//! What the rows of an object come to, counted while they are encoded.

use std::collections::BTreeMap;

use arrow::array::{
    Array, AsArray as _, Float32Array, Float64Array, RecordBatch, UInt32Array, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use gleaner_schemas::columns::{N_BYTES, N_TOKENS, REASON, SOURCE, STATUS};
use gleaner_schemas::{ColumnSums, Figures};

/// Whole numbers that say how long a text is.
const LENGTHS: [&str; 2] = [N_BYTES, N_TOKENS];
/// Texts whose bytes are counted.
const TEXTS: [&str; 2] = ["text", "query"];
/// Columns that are null because of a row's lane, which is counted already.
const OF_LANES: [&str; 2] = [STATUS, REASON];

/// Counts figures, batch by batch.
#[derive(Debug)]
pub(crate) struct FigureCounter {
    columns: Vec<(usize, String, Counted)>,
    figures: Figures,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    NullsOnly,
    Number,
    Text,
    Source,
}

impl FigureCounter {
    pub(crate) fn new(schema: &Schema) -> Self {
        let columns = schema
            .fields()
            .iter()
            .enumerate()
            .filter_map(|(idx, field)| {
                let name = field.name().as_str();
                let counted = match field.data_type() {
                    DataType::Float64 | DataType::Float32 => Counted::Number,
                    DataType::UInt32 | DataType::UInt64 if LENGTHS.contains(&name) => {
                        Counted::Number
                    }
                    DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
                        if TEXTS.contains(&name) =>
                    {
                        Counted::Text
                    }
                    DataType::Utf8 if name == SOURCE => Counted::Source,
                    _ if field.is_nullable() && !OF_LANES.contains(&name) => Counted::NullsOnly,
                    _ => return None,
                };
                Some((idx, name.to_owned(), counted))
            });
        Self {
            columns: columns.collect(),
            figures: Figures::default(),
        }
    }

    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        self.figures.rows += batch.num_rows() as u64;
        for (idx, name, counted) in &self.columns {
            let column = batch.column(*idx);
            let n_nulls = column.logical_null_count() as u64;
            if n_nulls > 0 {
                *self.figures.nulls.entry(name.clone()).or_default() += n_nulls;
            }
            match counted {
                Counted::NullsOnly => {}
                Counted::Source => count_sources(&mut self.figures.sources, column),
                Counted::Number | Counted::Text => {
                    let sums = self.figures.sums.entry(name.clone()).or_default();
                    add_values(sums, column, *counted);
                }
            }
        }
    }

    pub(crate) fn finish(mut self) -> Figures {
        self.figures.sums.retain(|_, sums| sums.n > 0);
        self.figures
    }
}

fn add_values(sums: &mut ColumnSums, column: &dyn Array, counted: Counted) {
    let any = column.as_any();
    if counted == Counted::Text {
        // Texts have lengths of the type of their offsets; what cannot be cast has none to count.
        let lengths = arrow::compute::kernels::length::length(column)
            .and_then(|lengths| cast(&lengths, &DataType::UInt64));
        if let Ok(lengths) = lengths
            && let Some(lengths) = lengths.as_any().downcast_ref::<UInt64Array>()
        {
            lengths
                .iter()
                .flatten()
                .for_each(|n| sums.add_value(n as f64));
        }
    } else if let Some(values) = any.downcast_ref::<Float64Array>() {
        values
            .iter()
            .flatten()
            .for_each(|value| sums.add_value(value));
    } else if let Some(values) = any.downcast_ref::<Float32Array>() {
        values
            .iter()
            .flatten()
            .for_each(|value| sums.add_value(f64::from(value)));
    } else if let Some(values) = any.downcast_ref::<UInt32Array>() {
        values
            .iter()
            .flatten()
            .for_each(|value| sums.add_value(f64::from(value)));
    } else if let Some(values) = any.downcast_ref::<UInt64Array>() {
        values
            .iter()
            .flatten()
            .for_each(|value| sums.add_value(value as f64));
    }
}

/// Neighbours mostly have the same source, so that runs are counted.
fn count_sources(sources: &mut BTreeMap<String, u64>, column: &dyn Array) {
    let Some(values) = column.as_string_opt::<i32>() else {
        return;
    };
    let mut run: Option<(&str, u64)> = None;
    for value in values {
        let value = value.unwrap_or(Figures::NONE);
        match &mut run {
            Some((name, n)) if *name == value => *n += 1,
            _ => {
                if let Some((name, n)) = run.replace((value, 1)) {
                    count(sources, name, n);
                }
            }
        }
    }
    if let Some((name, n)) = run {
        count(sources, name, n);
    }
}

fn count(sources: &mut BTreeMap<String, u64>, name: &str, n: u64) {
    if let Some(known) = sources.get_mut(name) {
        *known += n;
        return;
    }
    let name = if sources.len() < Figures::SOURCES_MAX {
        name
    } else {
        Figures::OTHER
    };
    *sources.entry(name.to_owned()).or_default() += n;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    fn batch(sources: &[Option<&str>], weights: &[Option<f64>], texts: &[&str]) -> RecordBatch {
        let columns: [(&str, ArrayRef, bool); 4] = [
            (
                "source",
                Arc::new(StringArray::from(sources.to_vec())),
                true,
            ),
            (
                "log_weight",
                Arc::new(Float64Array::from(weights.to_vec())),
                true,
            ),
            ("text", Arc::new(StringArray::from(texts.to_vec())), false),
            ("reason", Arc::new(StringArray::new_null(texts.len())), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    #[test]
    fn rows_nulls_sums_and_sources_are_counted_across_batches() {
        let first = batch(
            &[Some("a"), Some("a"), None],
            &[Some(1.5), None, Some(0.5)],
            &["x", "", "éé"],
        );
        let second = batch(&[Some("b")], &[Some(f64::NAN)], &["abc"]);
        let mut counter = FigureCounter::new(&first.schema());
        counter.add(&first);
        counter.add(&second);
        let figures = counter.finish();
        assert_eq!(figures.rows, 4);
        let pairs = |map: &BTreeMap<String, u64>| -> Vec<(String, u64)> {
            map.iter().map(|(name, n)| (name.clone(), *n)).collect()
        };
        assert_eq!(
            pairs(&figures.nulls),
            [("log_weight".to_owned(), 1), ("source".to_owned(), 1)]
        );
        let sources = [(Figures::NONE, 1), ("a", 2), ("b", 1)];
        assert_eq!(
            pairs(&figures.sources),
            sources.map(|(name, n)| (name.to_owned(), n))
        );
        assert_eq!(figures.sums["log_weight"].mean(), Some(1.0));
        assert_eq!(figures.sums["text"].mean(), Some(2.0), "bytes of texts");
    }

    #[test]
    fn sources_without_number_are_put_together() {
        let names: Vec<String> = (0..400).map(|n| format!("{n:03}")).collect();
        let sources: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
        let batch = batch(&sources, &vec![None; 400], &vec!["x"; 400]);
        let mut counter = FigureCounter::new(&batch.schema());
        counter.add(&batch);
        let figures = counter.finish();
        assert_eq!(figures.sources.len(), Figures::SOURCES_MAX + 1);
        assert_eq!(
            figures.sources[Figures::OTHER],
            400 - Figures::SOURCES_MAX as u64
        );
    }
}
