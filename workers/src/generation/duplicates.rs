//! Reduce `duplicates`: texts that repeat others of the stage. Of those that are the same, or
//! nearly, the one with the smallest id stays, whatever the order of tasks.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use gleaner_generation::Flag;
use gleaner_generation::checks::words::Tokens;
use gleaner_generation::checks::{DuplicateError, DuplicateIndex};
use gleaner_schemas::Failure;
use gleaner_schemas::columns::{STATUS, with_field_ids};

use super::filter::{FLAG, ID};
use super::rows::Status;
use crate::batch_columns::{arrow_failure, permanent, text_at, texts};
use crate::stage::ReduceInputs;

/// Texts that are compared for being nearly the same, which takes 600 bytes each. Of more, those
/// that are the same are found all the same.
const NEARLY_MAX: usize = 1_000_000;

/// The table of duplicates of what the map `phase` wrote, and whether near ones are in it.
pub(crate) fn find(
    inputs: &mut dyn ReduceInputs,
    phase: &str,
    id_column: &str,
    text_column: &str,
) -> Result<(RecordBatch, bool), Failure> {
    let mut n_texts = 0;
    for_each_text(inputs, phase, id_column, text_column, &mut |_, _| {
        n_texts += 1;
        Ok(())
    })?;
    let with_near = n_texts <= NEARLY_MAX;
    let mut found: Vec<(String, Flag)> = if with_near {
        let mut index = DuplicateIndex::new(NEARLY_MAX);
        for_each_text(inputs, phase, id_column, text_column, &mut |id, text| {
            match index.insert(id, text) {
                // Documents with one id give texts with one id; which of them repeats the other
                // nobody can say by it.
                Ok(()) | Err(DuplicateError::IdTwice { .. }) => Ok(()),
                Err(error) => Err(permanent(error.to_string())),
            }
        })?;
        let duplicates = index.finish().into_iter();
        duplicates
            .map(|(id, of)| {
                let flag = if of.is_exact {
                    Flag::Duplicate
                } else {
                    Flag::NearDuplicate
                };
                (id, flag)
            })
            .collect()
    } else {
        exact(inputs, phase, id_column, text_column)?
    };
    found.sort();
    let column = |of: fn(&(String, Flag)) -> &str| -> ArrayRef {
        Arc::new(found.iter().map(of).map(Some).collect::<StringArray>())
    };
    let schema = with_field_ids(&Schema::new(vec![
        Field::new(ID, DataType::Utf8, false),
        Field::new(FLAG, DataType::Utf8, false),
    ]));
    let columns = vec![column(|it| &it.0), column(|it| it.1.as_str())];
    let table = RecordBatch::try_new(schema, columns).map_err(arrow_failure)?;
    Ok((table, with_near))
}

fn exact(
    inputs: &mut dyn ReduceInputs,
    phase: &str,
    id_column: &str,
    text_column: &str,
) -> Result<Vec<(String, Flag)>, Failure> {
    let hash = |text: &str| {
        let mut hasher = blake3::Hasher::new();
        for token in Tokens::new(text).iter() {
            hasher.update(token.as_bytes());
            hasher.update(b" ");
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        bytes
    };
    let mut smallest: HashMap<[u8; 16], String> = HashMap::new();
    for_each_text(inputs, phase, id_column, text_column, &mut |id, text| {
        let known = smallest.entry(hash(text)).or_insert_with(|| id.to_owned());
        if id < known.as_str() {
            id.clone_into(known);
        }
        Ok(())
    })?;
    let mut found = Vec::new();
    for_each_text(inputs, phase, id_column, text_column, &mut |id, text| {
        if smallest.get(&hash(text)).is_some_and(|kept| kept != id) {
            found.push((id.to_owned(), Flag::Duplicate));
        }
        Ok(())
    })?;
    Ok(found)
}

fn for_each_text(
    inputs: &mut dyn ReduceInputs,
    phase: &str,
    id_column: &str,
    text_column: &str,
    each: &mut dyn FnMut(&str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    inputs.for_each(phase, &mut |batch| {
        let (ids, text) = (texts(&batch, id_column)?, texts(&batch, text_column)?);
        let statuses = texts(&batch, STATUS)?;
        for row in 0..batch.num_rows() {
            if Status::of(statuses.value(row)) != Some(Status::Ok) {
                continue;
            }
            if let (Some(id), Some(text)) = (text_at(&ids, row), text_at(&text, row)) {
                each(id, text)?;
            }
        }
        Ok(())
    })
}
