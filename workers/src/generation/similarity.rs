//! How much texts mean the same as what they were written for, by an encoder: cosines of vectors.

use std::sync::Arc;

use gleaner_models::encoder::{TextEncoder, cosine};
use gleaner_schemas::Failure;

use super::writing::Written;
use crate::batch_columns::permanent;
use crate::language_model::failure_of;
use crate::stage::{Derived, SideInputs};

/// Name of the encoder's side inputs.
pub(crate) const ENCODER: &str = "encoder";
/// Column of the cosines.
pub(crate) const SIMILARITY: &str = "similarity";

/// The encoder of a task.
pub(crate) fn load(side_inputs: &dyn SideInputs) -> Result<Arc<TextEncoder>, Failure> {
    let derived = side_inputs.directory(ENCODER, "encoder", &mut |path| {
        let encoder = TextEncoder::open(path).map_err(|error| failure_of(&error))?;
        let bytes = encoder.bytes();
        Ok(Derived {
            value: Arc::new(encoder),
            bytes,
        })
    })?;
    derived
        .value
        .downcast::<TextEncoder>()
        .map_err(|_| permanent("the encoder is of another type"))
}

/// The cosine of each row's text and what it was written for; none where there is no text.
pub(super) fn of_rows(
    encoder: &TextEncoder,
    written: &Written,
) -> Result<Vec<Option<f32>>, Failure> {
    let texts: Vec<&str> = written
        .rows
        .iter()
        .filter_map(|row| row.text.as_deref())
        .collect();
    if texts.is_empty() {
        return Ok(vec![None; written.rows.len()]);
    }
    let all: Vec<&str> = texts
        .into_iter()
        .chain([written.item.text.as_str()])
        .collect();
    let mut vectors = encoder
        .embed_batch(&all)
        .map_err(|error| failure_of(&error))?;
    let context = vectors.pop().unwrap_or_default();
    let mut vectors = vectors.iter();
    let of_row = written.rows.iter().map(|row| {
        row.text.as_ref()?;
        Some(cosine(vectors.next()?, &context))
    });
    Ok(of_row.collect())
}
