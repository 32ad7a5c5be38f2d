//! From the layout of a weight on disk to the one in memory, and back.

use crate::architecture::Architecture;
use crate::parts::Slot;

/// How a slot is kept in a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As in memory.
    Plain,
    /// `[inputs, outputs]`.
    Transposed,
    /// Third `0`, `1` or `2` of the outputs of `[inputs, outputs]`.
    TransposedThird(usize),
    /// Rows `head * 3 * head_dim + third * head_dim ..` for each head.
    HeadThird(usize),
}

/// A tensor as a safetensors file of the model's family holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Its name, with the family's prefix.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl Architecture {
    /// All weights as the family keeps them on disk; `weight` gives each in the layout of its slot.
    /// What is fused on disk is put together.
    ///
    /// # Errors
    ///
    /// The first error of `weight`.
    ///
    /// # Panics
    ///
    /// If `weight` gives another number of values than the slot has.
    pub fn stored_tensors<E>(
        &self,
        mut weight: impl FnMut(&Slot) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<StoredTensor>, E> {
        let mut tensors: Vec<StoredTensor> = Vec::new();
        for slot in self.slots() {
            let values = weight(&slot)?;
            let n_values = slot.shape.iter().product::<usize>();
            assert_eq!(values.len(), n_values, "values of {slot:?}");
            let stored = self.stored(&slot);
            let place = tensors
                .iter()
                .rposition(|tensor| tensor.name == stored.name);
            let place = place.unwrap_or_else(|| {
                tensors.push(StoredTensor {
                    name: stored.name,
                    values: vec![0.0; stored.shape.iter().product()],
                    shape: stored.shape.clone(),
                });
                tensors.len() - 1
            });
            let target = &mut tensors[place].values;
            stored
                .layout
                .store(&values, target, &stored.shape, self.head_dim);
        }
        Ok(tensors)
    }
}

impl Layout {
    /// The stored tensor of `stored_shape` brought into the layout of a slot.
    pub(crate) fn load(
        self,
        stored: Vec<f32>,
        stored_shape: &[usize],
        head_dim: usize,
    ) -> Vec<f32> {
        match self {
            Self::Plain => stored,
            Self::Transposed => self.third_of_columns(&stored, stored_shape, 0, 1),
            Self::TransposedThird(third) => self.third_of_columns(&stored, stored_shape, third, 3),
            Self::HeadThird(third) => {
                let block = head_dim * stored_shape.iter().skip(1).product::<usize>();
                let blocks = stored.chunks_exact(block).skip(third).step_by(3);
                blocks.flatten().copied().collect()
            }
        }
    }

    fn third_of_columns(
        self,
        stored: &[f32],
        stored_shape: &[usize],
        part: usize,
        n_parts: usize,
    ) -> Vec<f32> {
        let n_columns = stored_shape.last().copied().unwrap_or(1);
        let width = n_columns / n_parts;
        let columns = part * width..(part + 1) * width;
        columns
            .flat_map(|column| stored.iter().skip(column).step_by(n_columns).copied())
            .collect()
    }

    /// The opposite of [`Layout::load`]: writes a slot's values to their places in the stored
    /// tensor.
    pub(crate) fn store(
        self,
        slot: &[f32],
        stored: &mut [f32],
        stored_shape: &[usize],
        head_dim: usize,
    ) {
        match self {
            Self::Plain => stored.copy_from_slice(slot),
            Self::Transposed => Self::store_columns(slot, stored, stored_shape, 0, 1),
            Self::TransposedThird(third) => {
                Self::store_columns(slot, stored, stored_shape, third, 3);
            }
            Self::HeadThird(third) => {
                let block = head_dim * stored_shape.iter().skip(1).product::<usize>();
                let targets = stored.chunks_exact_mut(block).skip(third).step_by(3);
                for (target, source) in targets.zip(slot.chunks_exact(block)) {
                    target.copy_from_slice(source);
                }
            }
        }
    }

    fn store_columns(
        slot: &[f32],
        stored: &mut [f32],
        stored_shape: &[usize],
        part: usize,
        n_parts: usize,
    ) {
        let n_columns = stored_shape.last().copied().unwrap_or(1);
        let n_rows = stored.len() / n_columns.max(1);
        let width = n_columns / n_parts;
        for (column, values) in slot.chunks_exact(n_rows.max(1)).enumerate() {
            let targets = stored.iter_mut().skip(part * width + column);
            for (target, value) in targets.step_by(n_columns).zip(values) {
                *target = *value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_read_as_they_are_written() {
        let check = |layout: Layout, stored_shape: &[usize], slots: usize| {
            let n: usize = stored_shape.iter().product();
            let stored: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut again = vec![-1.0; n];
            for third in 0..slots {
                let layout = match layout {
                    Layout::TransposedThird(_) => Layout::TransposedThird(third),
                    Layout::HeadThird(_) => Layout::HeadThird(third),
                    other => other,
                };
                let slot = layout.load(stored.clone(), stored_shape, 2);
                assert_eq!(slot.len() * slots, n);
                layout.store(&slot, &mut again, stored_shape, 2);
            }
            assert_eq!(again, stored);
        };
        check(Layout::Plain, &[4, 3], 1);
        check(Layout::Transposed, &[4, 3], 1);
        check(Layout::TransposedThird(0), &[4, 12], 3);
        check(Layout::TransposedThird(0), &[12], 3);
        check(Layout::HeadThird(0), &[12, 4], 3);
        check(Layout::HeadThird(0), &[12], 3);
    }

    #[test]
    fn three_values_side_by_side() {
        let stored = vec![0.0, 1.0, 2.0, 10.0, 11.0, 12.0];
        let keys = Layout::TransposedThird(1).load(stored, &[2, 3], 1);
        assert_eq!(keys, [1.0, 11.0]);
    }
}
