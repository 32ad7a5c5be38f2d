use std::collections::BTreeSet;

use gleaner_schemas::FileFormat;
use proptest::prelude::*;

use super::*;

fn file(name: &str, row_groups: &[(u64, u64)]) -> InputFile {
    InputFile {
        file: SourceFile {
            name: name.to_owned(),
            uri: format!("file:///{name}"),
            format: FileFormat::Parquet,
            bytes: row_groups.iter().map(|group| group.1).sum(),
            identity: format!("{name}|1"),
            etag: None,
        },
        n_rows: None,
        row_groups: Some(
            row_groups
                .iter()
                .map(|(n_rows, bytes)| RowGroupFacts {
                    n_rows: *n_rows,
                    bytes: *bytes,
                })
                .collect(),
        ),
        companions: Vec::new(),
    }
}

/// (file, row) of every row that the shards cover.
fn rows_of(shards: &[Shard]) -> Vec<(String, u64)> {
    let mut rows: Vec<_> = shards
        .iter()
        .flat_map(|shard| &shard.slices)
        .flat_map(|slice| {
            let first = slice.first_row;
            (first..first + slice.n_rows.unwrap_or(0)).map(|row| (slice.file.name.clone(), row))
        })
        .collect();
    rows.sort();
    rows
}

fn all_rows(files: &[InputFile]) -> Vec<(String, u64)> {
    let mut rows: Vec<_> = files
        .iter()
        .flat_map(|file| (0..file.n_rows().unwrap_or(0)).map(|row| (file.file.name.clone(), row)))
        .collect();
    rows.sort();
    rows
}

fn files_strategy() -> impl Strategy<Value = Vec<InputFile>> {
    proptest::collection::vec(
        proptest::collection::vec((0_u64..5, 0_u64..2000), 0..6),
        1..30,
    )
    .prop_map(|files| {
        files
            .iter()
            .enumerate()
            .map(|(i, row_groups)| file(&format!("f{i:03}"), row_groups))
            .collect()
    })
}

proptest! {
    #[test]
    fn every_row_is_covered_once(files in files_strategy(), task_bytes in 1_u64..5000) {
        prop_assert_eq!(rows_of(&shards(files.clone(), task_bytes)), all_rows(&files));
    }

    #[test]
    fn the_order_of_files_does_not_matter(files in files_strategy(), task_bytes in 1_u64..5000) {
        let mut reversed = files.clone();
        reversed.reverse();
        prop_assert_eq!(shards(files, task_bytes), shards(reversed, task_bytes));
    }

    #[test]
    fn an_added_file_changes_one_group_at_most(files in files_strategy()) {
        let task_bytes = 1_000_000;
        let before = shards(files.clone(), task_bytes);
        let mut more = files;
        more.push(file("new", &[(3, 100)]));
        let after = shards(more, task_bytes);
        let changed = after.iter().filter(|shard| !before.contains(shard)).count();
        prop_assert_eq!(changed, 1);
    }

    #[test]
    fn a_sample_takes_each_row_once_and_enough(
        files in files_strategy(), task_bytes in 1_u64..5000, bytes in 0_u64..20_000, seed: u64,
    ) {
        let picked = sample(&files, task_bytes, &Sample { seed, bytes });
        let rows = rows_of(&picked);
        let unique: BTreeSet<_> = rows.iter().collect();
        prop_assert_eq!(unique.len(), rows.len());
        let picked_bytes: u64 = picked.iter().map(Shard::bytes).sum();
        let all: u64 = files.iter().map(InputFile::bytes).sum();
        prop_assert!(picked_bytes >= bytes.min(all));
        let largest = files.iter().flat_map(|f| f.row_groups.iter().flatten()).map(|g| g.bytes).max();
        prop_assert!(picked_bytes <= bytes + largest.unwrap_or(0));
    }
}

#[test]
fn a_huge_file_is_cut_and_a_huge_row_group_is_not() {
    let cut = shards(vec![file("a", &[(1, 60), (1, 60), (1, 500), (1, 10)])], 100);
    let groups: Vec<_> = cut.iter().map(|shard| shard.slices[0].row_groups).collect();
    assert_eq!(
        groups,
        [Some((0, 1)), Some((1, 2)), Some((2, 3)), Some((3, 4))]
    );
    assert_eq!(cut[3].slices[0].first_row, 3);
}

#[test]
fn many_small_files_share_tasks() {
    let files: Vec<_> = (0..1000)
        .map(|i| file(&format!("f{i}"), &[(1, 10)]))
        .collect();
    let n_tasks = shards(files, 1_000_000).len();
    assert!(n_tasks <= 64, "{n_tasks}");
}

#[test]
fn unreadable_files_have_a_task_that_will_tell_why() {
    let mut broken = file("broken.parquet", &[]);
    broken.row_groups = None;
    broken.file.bytes = 7;
    let cut = shards(vec![broken], 100);
    assert_eq!(cut.len(), 1);
    assert_eq!(cut[0].slices[0].row_groups, None);
}
