//! From a shard whose task failed as a whole to smaller shards that cover the same rows.

use std::sync::Arc;

use gleaner_schemas::{Shard, Slice};

/// Smaller shards that together read what `shard` reads, in the same order: one for each file;
/// of one file two, with about half of the bytes each, cut between row groups. `None` for what
/// cannot be cut: one row group, or a file whose row groups are not known.
///
/// Which companions a row points to is known only when it is read, so each piece keeps all.
#[must_use]
pub fn split(shard: &Shard) -> Option<Vec<Shard>> {
    let files = by_file(&shard.slices);
    let pieces = if files.len() > 1 {
        files
    } else {
        let (first, second) = halves(&shard.slices)?;
        vec![first, second]
    };
    Some(
        pieces
            .into_iter()
            .map(|slices| Shard {
                slices,
                companions: shard.companions.clone(),
                effect: None,
            })
            .collect(),
    )
}

/// Slices of one file are neighbours.
fn by_file(slices: &[Slice]) -> Vec<Vec<Slice>> {
    slices
        .chunk_by(|a, b| a.file == b.file)
        .map(<[Slice]>::to_vec)
        .collect()
}

fn halves(slices: &[Slice]) -> Option<(Vec<Slice>, Vec<Slice>)> {
    let pieces: Vec<Slice> = slices.iter().flat_map(row_groups_of).collect();
    let bytes: u64 = slices.iter().map(|slice| slice.bytes).sum();
    let mut n_first = 0;
    let mut bytes_before = 0;
    for piece in &pieces {
        // A piece whose middle lies before the middle of all belongs to the first half.
        if bytes_before + piece.bytes / 2 > bytes / 2 {
            break;
        }
        bytes_before += piece.bytes;
        n_first += 1;
    }
    // Neither half is empty, whatever the bytes are.
    let n_first = n_first.clamp(1, pieces.len().checked_sub(1).filter(|most| *most > 0)?);
    let (first, second) = pieces.split_at(n_first);
    Some((joined(first), joined(second)))
}

/// A slice for each row group, or the slice itself if its row groups are not known.
fn row_groups_of(slice: &Slice) -> Vec<Slice> {
    let first_idx = slice.row_groups.map_or(0, |(first, _)| first);
    let is_known = match slice.row_groups {
        Some((first, end)) => (end - first) as usize == slice.row_group_facts.len(),
        None => !slice.row_group_facts.is_empty(),
    };
    if !is_known {
        return vec![slice.clone()];
    }
    let mut first_row = slice.first_row;
    (first_idx..)
        .zip(&slice.row_group_facts)
        .map(|(idx, facts)| {
            let piece = Slice {
                file: Arc::clone(&slice.file),
                row_groups: Some((idx, idx + 1)),
                first_row,
                n_rows: Some(facts.n_rows),
                bytes: facts.bytes,
                row_group_facts: vec![*facts],
            };
            first_row += facts.n_rows;
            piece
        })
        .collect()
}

/// Row groups that follow each other become one slice again.
fn joined(pieces: &[Slice]) -> Vec<Slice> {
    let mut slices: Vec<Slice> = Vec::new();
    for piece in pieces {
        match (slices.last_mut(), piece.row_groups) {
            (Some(last), Some((first, _)))
                if last.row_groups.is_some_and(|(_, end)| end == first)
                    && !piece.row_group_facts.is_empty() =>
            {
                for facts in &piece.row_group_facts {
                    super::extend(last, *facts);
                }
            }
            _ => slices.push(piece.clone()),
        }
    }
    slices
}
