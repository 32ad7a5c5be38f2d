//! Effects against the rows themselves.

use std::collections::BTreeMap;

use arrow::array::{BinaryBuilder, RecordBatch, StringBuilder};
use gleaner_schemas::{TableFile, Version};
use proptest::prelude::*;

use super::*;
use crate::select::histogram::{Bucket, Histogram, histogram_batch, list_batch};
use crate::select::narrowing::{OpenGroup, Progress, decide, narrow};
use crate::select::sort_key::digit;
use crate::stage::{KeptSums, ReadObject};

#[derive(Debug, Clone)]
struct Row {
    group: Group,
    key: Vec<u8>,
    cost: u64,
}

/// Batches by phase and object.
#[derive(Default)]
struct Told(BTreeMap<String, Vec<RecordBatch>>);

impl ReduceInputs for Told {
    fn for_each_of_object(
        &mut self,
        phase: &str,
        each: &mut dyn FnMut(usize, RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let batches = self.0[phase].iter().enumerate();
        batches
            .filter(|(_, batch)| batch.num_rows() > 0)
            .try_for_each(|(object, batch)| each(object, batch.clone()))
    }

    fn side_input(&mut self, _: &str) -> Result<Vec<RecordBatch>, Failure> {
        Ok(Vec::new())
    }

    fn objects(&mut self, phase: &str) -> Result<Vec<ReadObject>, Failure> {
        let objects = self.0[phase].iter().map(|_| ReadObject {
            path: String::new(),
            bytes: 0,
        });
        Ok(objects.collect())
    }

    fn told(&mut self, _: &[ReadObject], _: &str) -> Result<Vec<Option<String>>, Failure> {
        Ok(Vec::new())
    }

    fn for_each_in(
        &mut self,
        _: &[ReadObject],
        _: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        Ok(())
    }

    fn kept_sums(&mut self, _: &str) -> Option<KeptSums> {
        None
    }

    fn keep_sums(&mut self, _: &str, _: &[RecordBatch]) {}

    fn published(&self) -> Option<&Version> {
        None
    }

    fn published_table(&mut self, _: &TableFile) -> Result<Vec<RecordBatch>, Failure> {
        Ok(Vec::new())
    }
}

type Shards = Vec<Vec<Row>>;

fn in_question<'r>(
    rows: &'r [Row],
    prefixes: Option<&'r ByGroup<Hex>>,
) -> impl Iterator<Item = (&'r Row, usize)> {
    rows.iter().filter_map(move |row| match prefixes {
        None => Some((row, 0)),
        Some(prefixes) => {
            let mut of_group = prefixes.0.iter().filter(|(group, _)| *group == row.group);
            let (_, prefix) = of_group.next()?;
            row.key
                .starts_with(&prefix.0)
                .then_some((row, prefix.0.len()))
        }
    })
}

fn histogram(rows: &[Row], prefixes: Option<&ByGroup<Hex>>) -> RecordBatch {
    let mut histogram = Histogram::default();
    for (row, n_before) in in_question(rows, prefixes) {
        let buckets = histogram.get_or_insert_with(row.group.as_deref(), BTreeMap::new);
        match buckets.get_mut(&digit(&row.key, n_before)) {
            Some(bucket) => bucket.add(1, row.cost, &row.key, &row.key),
            None => {
                let one = Bucket::one(&row.key, row.cost);
                buckets.insert(digit(&row.key, n_before), one);
            }
        }
    }
    histogram_batch(histogram).unwrap()
}

fn list(rows: &[Row], prefixes: &ByGroup<Hex>) -> RecordBatch {
    let (mut groups, mut keys) = (StringBuilder::new(), BinaryBuilder::new());
    let mut costs = Vec::new();
    for (row, _) in in_question(rows, Some(prefixes)) {
        groups.append_option(row.group.as_deref());
        keys.append_value(&row.key);
        costs.push(row.cost);
    }
    list_batch(groups, keys, costs).unwrap()
}

/// As the phases of a stage do it: the cuts, and what they come to by shard.
fn decided(
    shards: &Shards,
    budgets: &BTreeMap<Group, u64>,
    n_listed_max: u64,
) -> (ByGroup<Cut>, Effects) {
    let mut told = Told::default();
    let mut levels = Vec::new();
    let mut cuts: ByGroup<Cut> = ByGroup::default();
    let mut open: ByGroup<OpenGroup> = budgets
        .iter()
        .map(|(group, budget)| {
            let open = OpenGroup {
                budget: *budget,
                prefix: Hex::default(),
                through: None,
                n_rows: u64::MAX,
            };
            (group.clone(), open)
        })
        .collect();
    for level in 0.. {
        let rows = open.0.iter().map(|(_, it)| it.n_rows);
        if rows.fold(0, u64::saturating_add) <= n_listed_max {
            break;
        }
        let phase = format!("count-{level}");
        let prefixes = (level > 0).then(|| prefixes_of(&open));
        let counted = shards.iter().map(|rows| histogram(rows, prefixes.as_ref()));
        told.0.insert(phase.clone(), counted.collect());
        let narrowed = narrow(open, &mut told, &phase).unwrap();
        levels.push(Level {
            phase,
            prefixes,
            is_list: false,
        });
        open = ByGroup::default();
        for (group, progress) in narrowed.0 {
            match progress {
                Progress::Decided(cut) => cuts.0.push((group, cut)),
                Progress::Open(still) => open.0.push((group, still)),
            }
        }
    }
    if !open.0.is_empty() {
        let prefixes = prefixes_of(&open);
        let listed = shards.iter().map(|rows| list(rows, &prefixes));
        told.0.insert("list".to_owned(), listed.collect());
        levels.push(Level {
            phase: "list".to_owned(),
            prefixes: Some(prefixes),
            is_list: true,
        });
        cuts.0.extend(decide(open, &mut told, "list").unwrap().0);
    }
    let params = EffectParams {
        before: None,
        cuts: cuts.clone(),
        levels,
    };
    let effects = effects(params, &mut told).unwrap();
    (cuts, effects)
}

fn prefixes_of(open: &ByGroup<OpenGroup>) -> ByGroup<Hex> {
    let entries = open.0.iter();
    entries
        .map(|(group, open)| (group.clone(), open.prefix.clone()))
        .collect()
}

fn taken<'r>(rows: &'r [Row], cuts: &ByGroup<Cut>) -> Vec<&'r Row> {
    let is_taken = |row: &&Row| {
        let mut of_group = cuts.0.iter().filter(|(group, _)| *group == row.group);
        of_group.any(|(_, cut)| cut.takes(&row.key))
    };
    rows.iter().filter(is_taken).collect()
}

fn effect_of(rows: &[&Row]) -> Fingerprint {
    let mut taken = Taken::new(1);
    for row in rows {
        taken.add(0, row.group.as_deref());
    }
    taken.effect().unwrap()
}

fn shards() -> impl Strategy<Value = Shards> {
    // Few symbols and long common starts: ties and deep prefixes are frequent.
    let key = prop_oneof![
        prop::collection::vec(0..3_u8, 0..6),
        prop::collection::vec(prop_oneof![Just(0_u8), Just(255), any::<u8>()], 0..5),
        prop::collection::vec(any::<u8>(), 1..3).prop_map(|end| [vec![7; 9], end].concat()),
    ];
    let group = prop_oneof![
        Just(None),
        Just(Some("a".to_owned())),
        Just(Some(String::new()))
    ];
    let row = (group, key, 0..5_u64).prop_map(|(group, key, cost)| Row { group, key, cost });
    prop::collection::vec(prop::collection::vec(row, 0..12), 1..6)
}

fn budgets() -> impl Strategy<Value = BTreeMap<Group, u64>> {
    (0..60_u64, 0..60_u64)
        .prop_map(|(none, a)| BTreeMap::from([(None, none), (Some("a".into()), a)]))
}

proptest! {
    #[test]
    fn effects_are_what_tasks_will_count(
        shards in shards(),
        budgets in budgets(),
        n_listed_max in 0..20_u64,
    ) {
        let (cuts, effects) = decided(&shards, &budgets, n_listed_max);
        let counted: Vec<Fingerprint> = shards
            .iter()
            .map(|rows| effect_of(&taken(rows, &cuts)))
            .collect();
        prop_assert_eq!(effects.0, counted);
    }

    /// A cut that moves is felt where it moves over rows, and nowhere else.
    #[test]
    fn equal_effects_are_equal_rows(
        shards in shards(),
        before in budgets(),
        after in budgets(),
        n_listed_max in 0..20_u64,
    ) {
        let (cuts, effects) = decided(&shards, &before, n_listed_max);
        let (moved, moved_effects) = decided(&shards, &after, n_listed_max);
        for (shard, rows) in shards.iter().enumerate() {
            let keys = |cuts| {
                let taken = taken(rows, cuts).into_iter();
                taken.map(|row| (&row.group, &row.key)).collect::<Vec<_>>()
            };
            let is_same = effects.0[shard] == moved_effects.0[shard];
            prop_assert_eq!(is_same, keys(&cuts) == keys(&moved));
        }
    }
}

#[test]
fn later_targets_add_to_what_earlier_ones_take() {
    let mut both = Taken::new(2);
    both.add(0, None);
    both.add(1, None);
    let mut first = Taken::new(2);
    first.add(0, None);
    first.add(0, None);
    assert_ne!(both.effect(), first.effect());
}

#[test]
fn a_text_of_effects_comes_back() {
    let effects = Effects(vec![
        Fingerprint::of("a", &1),
        Fingerprint::of("b", &2),
        Fingerprint::of("c", &3),
    ]);
    let text = String::from(effects.clone());
    assert_eq!(Effects::try_from(text.clone()), Ok(effects));
    assert!(Effects::try_from(text[1..].to_owned()).is_err());
    assert_eq!(Effects::try_from(String::new()), Ok(Effects::default()));
}
