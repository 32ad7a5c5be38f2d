//! From files to tasks. Pure: the same files give the same tasks, in whatever order they come.
//!
//! - A file of a quarter of `task_bytes` or more has tasks of its own: consecutive row groups, up
//!   to about `task_bytes` each.
//! - Smaller files share tasks. Which ones go together is decided by a hash of each file's name,
//!   so that an added, changed or deleted file changes one task and no other.
//! - A task that fails as a whole can be [`split`](fn@split) into smaller ones that cover the same rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_schemas::{Fingerprint, PhasePlan, RowGroupFacts, Shard, Slice, SourceFile, Task};
use gleaner_workers::stage::Sample;

/// What the planner knows of an input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Its row groups in order; absent for formats without them, and for files whose footer
    /// cannot be read (their task will tell why).
    pub row_groups: Option<Vec<RowGroupFacts>>,
    /// Its rows, where something else tells them.
    pub n_rows: Option<u64>,
    /// Further files that its rows point to.
    pub companions: Vec<Arc<SourceFile>>,
}

/// Groups of small files: at least this many, so that small corpora have parallel tasks and a
/// changed file costs little more than itself.
const GROUPS_MIN: u64 = 64;
/// A file is small if it has less than `task_bytes` divided by this.
const SMALL_FILE_DIVISOR: u64 = 4;

/// Cuts files into shards.
#[must_use]
pub fn shards(mut files: Vec<InputFile>, task_bytes: u64) -> Vec<Shard> {
    files.sort_by(|a, b| a.file.name.cmp(&b.file.name));
    // A file without a footer that was read shares its task with no other: if it is broken, it
    // takes none with it.
    let (small, large): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| {
        file.row_groups.is_some() && file.bytes() < task_bytes / SMALL_FILE_DIVISOR
    });
    let mut shards: Vec<Shard> = large
        .iter()
        .flat_map(|file| cut_file(file, task_bytes))
        .collect();
    let small = small.iter().map(whole_file).collect();
    shards.extend(group_small(small, task_bytes));
    in_order(shards)
}

/// By the first slice, so that the order of tasks follows the names of the files.
fn in_order(mut shards: Vec<Shard>) -> Vec<Shard> {
    shards.sort_by(|a, b| first_place(a).cmp(&first_place(b)));
    shards
}

fn first_place(shard: &Shard) -> Option<(&str, u64)> {
    let slice = shard.slices.first()?;
    Some((&slice.file.name, slice.first_row))
}

fn cut_file(file: &InputFile, task_bytes: u64) -> Vec<Shard> {
    let Some(row_groups) = &file.row_groups else {
        return vec![whole_file(file)];
    };
    let mut slices: Vec<Slice> = Vec::new();
    let mut first_row = 0;
    for (idx, row_group) in (0_u32..).zip(row_groups) {
        match slices.last_mut() {
            Some(slice) if slice.bytes + row_group.bytes <= task_bytes => extend(slice, *row_group),
            _ => slices.push(Slice {
                file: Arc::clone(&file.file),
                row_groups: Some((idx, idx + 1)),
                first_row,
                n_rows: Some(row_group.n_rows),
                bytes: row_group.bytes,
                row_group_facts: vec![*row_group],
            }),
        }
        first_row += row_group.n_rows;
    }
    if slices.is_empty() {
        return vec![whole_file(file)];
    }
    slices
        .into_iter()
        .map(|slice| Shard {
            slices: vec![slice],
            companions: file.companions.clone(),
            effect: None,
        })
        .collect()
}

fn extend(slice: &mut Slice, row_group: RowGroupFacts) {
    slice.bytes += row_group.bytes;
    slice.n_rows = slice.n_rows.map(|n_rows| n_rows + row_group.n_rows);
    slice.row_groups = slice.row_groups.map(|(first, end)| (first, end + 1));
    slice.row_group_facts.push(row_group);
}

fn whole_file(file: &InputFile) -> Shard {
    Shard {
        slices: vec![Slice {
            file: Arc::clone(&file.file),
            row_groups: None,
            first_row: 0,
            n_rows: file.n_rows(),
            bytes: file.bytes(),
            row_group_facts: file.row_groups.clone().unwrap_or_default(),
        }],
        companions: file.companions.clone(),
        effect: None,
    }
}

/// Puts shards of one small file each together.
fn group_small(files: Vec<Shard>, task_bytes: u64) -> Vec<Shard> {
    let bytes: u64 = files.iter().map(Shard::bytes).sum();
    // A power of two: it changes only when the small files' sum has doubled, and then groups
    // split in two.
    let n_groups = (2 * bytes / task_bytes.max(1))
        .next_power_of_two()
        .max(GROUPS_MIN);
    let mut groups: BTreeMap<u64, Shard> = BTreeMap::new();
    for file in files {
        let first = file.slices.first();
        let name = first.map_or("", |slice| slice.file.name.as_str());
        let group = groups.entry(hash_of(&("group", name)) % n_groups);
        let group = group.or_default();
        group.slices.extend(file.slices);
        group.companions.extend(file.companions);
    }
    groups.into_values().collect()
}

impl InputFile {
    /// Uncompressed bytes of what is read, where a footer told them; else the file's size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.row_groups {
            Some(row_groups) => row_groups.iter().map(|row_group| row_group.bytes).sum(),
            None => self.file.bytes,
        }
    }

    /// Its rows, where they are known.
    #[must_use]
    pub fn n_rows(&self) -> Option<u64> {
        match &self.row_groups {
            Some(row_groups) => Some(row_groups.iter().map(|row_group| row_group.n_rows).sum()),
            None => self.n_rows,
        }
    }
}

/// Keeps some row groups: in the order of a hash of (seed, file, row group), until `sample.bytes`
/// are reached. Files without row groups count as one. Unlike the first row groups of every file,
/// they are a fair sample of a corpus whose files are sorted.
#[must_use]
pub fn sample(files: &[InputFile], task_bytes: u64, sample: &Sample) -> Vec<Shard> {
    let mut candidates: Vec<(u64, &InputFile, Option<usize>, u64)> = Vec::new();
    for file in files {
        match &file.row_groups {
            Some(row_groups) => {
                candidates.extend(row_groups.iter().enumerate().map(|(idx, row_group)| {
                    let hash = hash_of(&(sample.seed, &file.file.name, idx));
                    (hash, file, Some(idx), row_group.bytes)
                }));
            }
            None => {
                let hash = hash_of(&(sample.seed, &file.file.name, 0));
                candidates.push((hash, file, None, file.file.bytes));
            }
        }
    }
    candidates.sort_by(|a, b| (a.0, &a.1.file.name, a.2).cmp(&(b.0, &b.1.file.name, b.2)));
    let mut bytes = 0;
    let mut picked: BTreeMap<&str, (&InputFile, Vec<usize>)> = BTreeMap::new();
    for (_, file, idx, candidate_bytes) in candidates {
        if bytes >= sample.bytes {
            break;
        }
        bytes += candidate_bytes;
        let (_, row_groups) = picked
            .entry(&file.file.name)
            .or_insert_with(|| (file, Vec::new()));
        row_groups.extend(idx);
    }
    if picked.len() == files.len() && bytes < sample.bytes {
        return shards(files.to_vec(), task_bytes);
    }
    let (mut shards, mut small) = (Vec::new(), Vec::new());
    for (file, row_groups) in picked.into_values() {
        let cut = cut_picked(file, row_groups, task_bytes);
        let is_small = file.row_groups.is_some()
            && matches!(cut.as_slice(), [one] if one.bytes() < task_bytes / SMALL_FILE_DIVISOR);
        if is_small { &mut small } else { &mut shards }.extend(cut);
    }
    shards.extend(group_small(small, task_bytes));
    in_order(shards)
}

fn cut_picked(file: &InputFile, mut picked: Vec<usize>, task_bytes: u64) -> Vec<Shard> {
    let Some(row_groups) = &file.row_groups else {
        return vec![whole_file(file)];
    };
    picked.sort_unstable();
    let mut shards: Vec<Shard> = Vec::new();
    for idx in picked {
        let row_group = row_groups[idx];
        // Row groups are counted by 32 bits in the Parquet format.
        let idx_u32 = idx as u32;
        let slice = Slice {
            file: Arc::clone(&file.file),
            row_groups: Some((idx_u32, idx_u32 + 1)),
            first_row: row_groups[..idx].iter().map(|before| before.n_rows).sum(),
            n_rows: Some(row_group.n_rows),
            bytes: row_group.bytes,
            row_group_facts: vec![row_group],
        };
        match shards.last_mut() {
            Some(shard) if shard.bytes() + slice.bytes <= task_bytes => {
                match shard.slices.last_mut() {
                    Some(last) if last.row_groups.is_some_and(|(_, end)| end == idx_u32) => {
                        extend(last, row_group);
                    }
                    _ => shard.slices.push(slice),
                }
            }
            _ => shards.push(Shard {
                slices: vec![slice],
                companions: file.companions.clone(),
                effect: None,
            }),
        }
    }
    shards
}

fn hash_of<T: serde::Serialize>(value: &T) -> u64 {
    let fingerprint = Fingerprint::of("planner", value);
    // Sixteen hexadecimal digits always are a u64.
    u64::from_str_radix(&fingerprint.to_string()[..16], 16).unwrap_or_default()
}

/// Gives shards their ids, and the plan its totals.
#[must_use]
pub fn tasks(plan: &mut PhasePlan, shards: Vec<Shard>) -> Vec<Task> {
    let tasks: Vec<Task> = shards
        .into_iter()
        .map(|shard| Task {
            id: plan.task_id(&shard),
            shard,
        })
        .collect();
    plan.n_tasks = tasks.len() as u64;
    plan.n_rows = tasks.iter().map(|task| task.shard.n_rows()).sum();
    plan.bytes = tasks.iter().map(|task| task.shard.bytes()).sum();
    tasks
}

mod split;

pub use split::split;

#[cfg(test)]
mod tests;
