//! Rotation of queries and keys by their position.

/// Cosines and sines, `n_positions x dims / 2` each.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) dims: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

/// Which way to turn: `Back` is the gradient of `Forth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Forth,
    Back,
}

/// Turns the first `dims` values of every head in place; rows are positions `0..length`, again and
/// again.
pub(crate) fn rotate(
    turn: Turn,
    tables: &Tables,
    (n_heads, head_dim): (usize, usize),
    length: usize,
    values: &mut [f32],
) {
    let half = tables.dims / 2;
    let sign = if turn == Turn::Forth { 1.0 } else { -1.0 };
    super::math::vectorised(|| {
        for (row, heads) in values.chunks_exact_mut(n_heads * head_dim).enumerate() {
            let place = row % length * half;
            let cos = &tables.cos[place..place + half];
            let sin = &tables.sin[place..place + half];
            for head in heads.chunks_exact_mut(head_dim) {
                let (low, high) = head[..2 * half].split_at_mut(half);
                for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                    let sin = sign * sin;
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    });
}
