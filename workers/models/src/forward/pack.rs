//! Sequences put together into packs of rows, without padding.

/// Some sequences of a batch that one thread runs together: their rows lie under each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pack {
    /// Places in the batch.
    pub(super) sequences: Vec<usize>,
    pub(super) n_rows: usize,
}

/// Packs of about `rows_max` rows; the longest sequences first, so that threads end together. A
/// sequence of one token or none has no rows.
///
/// `lengths` are in tokens; a sequence of `n` has `n - 1` rows, since its last token predicts
/// nothing.
pub(super) fn packs(lengths: &[usize], rows_max: usize) -> Vec<Pack> {
    let mut order: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] > 1).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut packs: Vec<Pack> = Vec::new();
    for sequence in order {
        let n_rows = lengths[sequence] - 1;
        match packs.last_mut() {
            Some(pack) if pack.n_rows + n_rows <= rows_max => {
                pack.sequences.push(sequence);
                pack.n_rows += n_rows;
            }
            _ => packs.push(Pack {
                sequences: vec![sequence],
                n_rows,
            }),
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_with_a_row_is_in_one_pack() {
        let check = |lengths: &[usize], expect: &[(&[usize], usize)]| {
            let packs = packs(lengths, 10);
            let found: Vec<(&[usize], usize)> = packs
                .iter()
                .map(|pack| (&pack.sequences[..], pack.n_rows))
                .collect();
            assert_eq!(found, expect);
        };
        check(&[], &[]);
        check(&[0, 1], &[]);
        check(
            &[3, 0, 50, 9, 1, 3],
            &[(&[2], 49), (&[3, 0], 10), (&[5], 2)],
        );
    }
}
