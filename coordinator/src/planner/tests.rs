use std::collections::BTreeSet;

use gleaner_schemas::FileFormat;
use proptest::prelude::*;

use super::*;

fn file(name: &str, row_groups: &[(u64, u64)]) -> InputFile {
    InputFile {
        file: Arc::new(SourceFile {
            name: name.to_owned(),
            uri: format!("file:///{name}"),
            format: FileFormat::Parquet,
            bytes: row_groups.iter().map(|group| group.1).sum(),
            identity: format!("{name}|1"),
            etag: None,
        }),
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

/// Splits until nothing can be split.
fn split_wholly(shard: &Shard) -> Vec<Shard> {
    match split(shard) {
        Some(pieces) => pieces.iter().flat_map(split_wholly).collect(),
        None => vec![shard.clone()],
    }
}

proptest! {
    #[test]
    fn a_split_reads_the_same_rows_in_the_same_order(
        files in files_strategy(), task_bytes in 1_u64..5000, seed: u64,
    ) {
        let mut all = shards(files.clone(), task_bytes);
        // Samples have several slices of one file.
        all.extend(sample(&files, task_bytes, &Sample { seed, bytes: 3000 }));
        for shard in all {
            for pieces in split(&shard).into_iter().chain([split_wholly(&shard)]) {
                let slices = || pieces.iter().flat_map(|piece| &piece.slices);
                let firsts = |slices: &[&Slice]| -> Vec<(String, u64)> {
                    slices
                        .iter()
                        .map(|slice| (slice.file.name.clone(), slice.first_row))
                        .collect()
                };
                let places = firsts(&slices().collect::<Vec<_>>());
                prop_assert!(places.is_sorted());
                prop_assert_eq!(rows_of(&pieces), rows_of(std::slice::from_ref(&shard)));
                let bytes: u64 = pieces.iter().map(Shard::bytes).sum();
                prop_assert_eq!(bytes, shard.bytes());
                prop_assert!(pieces.iter().all(|piece| !piece.slices.is_empty()));
            }
        }
    }
}

/// File and row groups of a slice.
type Part<'a> = (&'a str, Option<(u32, u32)>);

fn row_groups_of(shards: &[Shard]) -> Vec<Vec<Part<'_>>> {
    shards
        .iter()
        .map(|shard| {
            let slices = shard.slices.iter();
            slices
                .map(|slice| (slice.file.name.as_str(), slice.row_groups))
                .collect()
        })
        .collect()
}

#[test]
fn files_are_split_from_each_other_before_any_is_cut() {
    let files: Vec<_> = (0..200)
        .map(|i| file(&format!("f{i}"), &[(2, 10), (3, 10)]))
        .collect();
    let shared = shards(files, 1_000_000)
        .into_iter()
        .find(|shard| shard.slices.len() > 1)
        .unwrap();
    let pieces = split(&shared).unwrap();
    let whole: Vec<_> = shared
        .slices
        .iter()
        .map(|slice| vec![(slice.file.name.as_str(), None)])
        .collect();
    assert_eq!(row_groups_of(&pieces), whole);
    // Alone, a whole file is cut between its row groups, and a row group is not cut.
    let name = shared.slices[0].file.name.as_str();
    let halves = split(&pieces[0]).unwrap();
    assert_eq!(
        row_groups_of(&halves),
        [vec![(name, Some((0, 1)))], vec![(name, Some((1, 2)))]]
    );
    let facts: Vec<_> = halves
        .iter()
        .map(|half| (half.slices[0].first_row, half.n_rows(), half.bytes()))
        .collect();
    assert_eq!(facts, [(0, Some(2), 10), (2, Some(3), 10)]);
    assert_eq!(split(&halves[0]), None);
}

#[test]
fn halves_have_about_the_same_bytes() {
    let many = shards(vec![file("a", &[(1, 10), (1, 10), (1, 10), (1, 30)])], 1000);
    assert_eq!(
        row_groups_of(&split(&many[0]).unwrap()),
        [vec![("a", Some((0, 3)))], vec![("a", Some((3, 4)))]]
    );
    // However uneven, neither half is empty.
    let uneven = shards(vec![file("a", &[(1, 0), (1, 900), (1, 0)])], 1000);
    assert_eq!(row_groups_of(&split(&uneven[0]).unwrap()).len(), 2);
    let empty = shards(vec![file("a", &[(0, 0), (0, 0)])], 1000);
    assert_eq!(row_groups_of(&split(&empty[0]).unwrap()).len(), 2);
}

#[test]
fn what_is_not_known_is_not_cut() {
    let mut lines = file("a.jsonl", &[]);
    lines.row_groups = None;
    assert_eq!(split(&shards(vec![lines], 100)[0]), None);
    assert_eq!(split(&Shard::default()), None);
    // A plan that was read from a store does not tell the row groups' sizes.
    let planned = shards(vec![file("a", &[(1, 10), (1, 10)])], 100);
    let stored = serde_json::to_string(&planned[0]).unwrap();
    let read: Shard = serde_json::from_str(&stored).unwrap();
    assert_eq!(split(&read), None);
}

#[test]
fn each_piece_keeps_the_files_that_rows_point_to() {
    let mut table = file("a", &[(1, 10), (1, 10)]);
    table.companions = vec![file("corpus", &[]).file];
    let shard = shards(vec![table.clone()], 15).remove(0);
    assert_eq!(split(&shard), None);
    let shard = shards(vec![table], 80).remove(0);
    let pieces = split(&shard).unwrap();
    assert!(
        pieces
            .iter()
            .all(|piece| piece.companions == shard.companions)
    );
}

#[test]
fn row_groups_change_no_task_id() {
    let with = shards(vec![file("a", &[(1, 10), (1, 10)])], 100).remove(0);
    let mut without = with.clone();
    without.slices[0].row_group_facts.clear();
    assert_eq!(
        serde_json::to_string(&with).unwrap(),
        serde_json::to_string(&without).unwrap()
    );
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
fn sampled_row_groups_of_small_files_share_tasks() {
    let files: Vec<_> = (0..1000)
        .map(|i| file(&format!("f{i}"), &[(1, 10), (2, 10), (3, 10)]))
        .chain([file("large", &[(10, 600_000); 4])])
        .collect();
    let bytes = 1_200_000;
    let shards = sample(&files, 1_000_000, &Sample { seed: 7, bytes });
    let (large, small): (Vec<_>, Vec<_>) = shards
        .iter()
        .partition(|shard| shard.slices[0].file.name == "large");
    // Two row groups of the large file make the bytes, and those do not fit into one task.
    assert_eq!(large.len(), 2);
    assert!((1..=64).contains(&small.len()), "{}", small.len());
    let n_files = small.iter().map(|shard| shard.slices.len()).sum::<usize>();
    assert!(n_files > 64, "{n_files}");
    let rows = rows_of(&shards);
    assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
}

#[test]
fn unreadable_files_have_a_task_that_will_tell_why() {
    let mut broken = file("broken.parquet", &[]);
    broken.row_groups = None;
    Arc::make_mut(&mut broken.file).bytes = 7;
    let cut = shards(vec![broken], 100);
    assert_eq!(cut.len(), 1);
    assert_eq!(cut[0].slices[0].row_groups, None);
}
