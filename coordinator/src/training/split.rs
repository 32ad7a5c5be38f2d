//! Which query stands in which split: all queries of a source document, and all of the same words,
//! stand together, so that nothing that is tested was seen in training. What the model was shown as
//! examples is not tested either: it stands in the first split, and in no fold.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use futures::StreamExt as _;
use gleaner_algorithms::splits::{folds_of_sets, overlap};
use gleaner_schemas::Version;
use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::run_error::RunError;
use crate::sql::{Session, SqlError, quote_name};

/// Shares are counted in so many parts.
const PARTS: u64 = 1_000_000;

/// Shares of splits by name; what is left goes to the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shares(Vec<(String, u64)>);

impl Default for Shares {
    fn default() -> Self {
        Self(vec![("train".to_owned(), PARTS)])
    }
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut shares = Vec::new();
        for part in text.split(',') {
            let error =
                || format!("{part:?} is no share: write for example train=0.9,dev=0.05,test=0.05");
            let (name, share) = part.split_once('=').ok_or_else(error)?;
            let share: f64 = share.trim().parse().map_err(|_| error())?;
            let name = name.trim();
            let is_name = !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            let is_known = shares.iter().any(|(known, _)| known == name);
            if !is_name || is_known || !(0.0..=1.0).contains(&share) {
                return Err(error());
            }
            shares.push((name.to_owned(), (share * PARTS as f64).round() as u64));
        }
        let sum: u64 = shares.iter().map(|(_, share)| share).sum();
        // Three thirds with two decimals are fine.
        if sum.abs_diff(PARTS) > PARTS / 50 {
            return Err(format!("the shares {text:?} do not add up to 1"));
        }
        Ok(Self(shares))
    }
}

impl Shares {
    /// The split of a point between 0 and [`PARTS`].
    fn at(&self, point: u64) -> usize {
        let mut end = 0;
        for (idx, (_, share)) in self.0.iter().enumerate() {
            end += share;
            if point < end {
                return idx;
            }
        }
        0
    }
}

/// Folds for evaluation by resampling (arXiv 2204.11447), in place of shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FoldKind {
    /// What is tested is unlike what is trained on: each fold is a cluster of similar queries.
    Extrapolation,
    /// What is tested is like what is trained on: each fold has a part of every cluster.
    Interpolation,
}

/// Folds, as in the paper.
const N_FOLDS: usize = 5;
/// Queries whose texts are compared: they are held in memory.
const COMPARED_MAX: usize = 1_000_000;

/// How near the queries of other splits are to those of the first one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SplitOverlap {
    /// Mean cosine of a query and the nearest one of the first split.
    pub nearest_cosine: f64,
    /// Share of queries that have the very words of one of the first split.
    pub same_words_share: f64,
}

/// The split of each query.
#[derive(Debug)]
pub(super) struct Splits {
    names: Vec<String>,
    /// By the hash of a query's id: an id may be long, and there may be millions.
    of_query: HashMap<u64, u8>,
    /// Hashes of the ids of queries that were shown as examples, and of all that stand together with
    /// such.
    shown: HashSet<u64>,
    /// Whether what was shown stands in no split, since each of them is tested.
    leaves_out_shown: bool,
}

/// Sets of queries that must stand together.
#[derive(Debug, Default)]
struct Together {
    parents: Vec<u32>,
    /// Hash of a query's id, in the order of their coming.
    ids: Vec<u64>,
    /// The first query that had this source document or these words.
    first: HashMap<(u8, u64), u32>,
}

impl Together {
    fn root(&mut self, mut query: u32) -> u32 {
        while self.parents[query as usize] != query {
            let parent = self.parents[query as usize];
            self.parents[query as usize] = self.parents[parent as usize];
            query = self.parents[query as usize];
        }
        query
    }

    fn add(&mut self, id: &str, source: &str, words: &str) {
        let query = self.parents.len() as u32;
        self.parents.push(query);
        self.ids.push(xxh3_64(id.as_bytes()));
        for key in [
            (0, xxh3_64(source.as_bytes())),
            (1, xxh3_64(words.as_bytes())),
            (2, xxh3_64(id.as_bytes())),
        ] {
            let other = *self.first.entry(key).or_insert(query);
            let (a, b) = (self.root(query), self.root(other));
            self.parents[a.max(b) as usize] = a.min(b);
        }
    }

    /// The set of each query, in the order of their coming.
    fn roots(&mut self) -> Vec<u32> {
        (0..self.ids.len() as u32)
            .map(|query| self.root(query))
            .collect()
    }

    /// Of these queries, and of all that stand together with them, the hashes of ids.
    fn with(&mut self, ids: &HashSet<u64>) -> HashSet<u64> {
        let roots = self.roots();
        let queries = || roots.iter().zip(&self.ids);
        let among = queries().filter(|(_, id)| ids.contains(*id));
        let among: HashSet<u32> = among.map(|(root, _)| *root).collect();
        let together = queries().filter(|(root, _)| among.contains(*root));
        together.map(|(_, id)| *id).collect()
    }

    /// Each set goes where the smallest of its ids goes, so that the order of rows does not matter;
    /// queries of `first`, which are whole sets, go to the first split.
    fn assign(mut self, shares: &Shares, seed: u64, first: &HashSet<u64>) -> HashMap<u64, u8> {
        let roots = self.roots();
        let mut smallest: HashMap<u32, u64> = HashMap::new();
        for (root, id) in roots.iter().zip(&self.ids) {
            let known = smallest.entry(*root).or_insert(*id);
            *known = (*known).min(*id);
        }
        let split = |(root, id): (&u32, &u64)| {
            if first.contains(id) {
                return (*id, 0);
            }
            let smallest = smallest.get(root).copied().unwrap_or_default();
            let hash = xxh3_64_with_seed(&smallest.to_le_bytes(), seed);
            // The upper part of the product: as even as the hash is.
            let point = (u128::from(hash) * u128::from(PARTS)) >> 64;
            (*id, shares.at(u64::try_from(point).unwrap_or(0)) as u8)
        };
        roots.iter().zip(&self.ids).map(split).collect()
    }

    /// Of all queries that `sql` gives.
    async fn read(session: &Session, sql: &str) -> Result<Self, RunError> {
        let mut together = Self::default();
        let distinct = format!(
            "SELECT DISTINCT query_id, source_document, lower(trim(query)) AS words FROM ({sql})"
        );
        let mut rows = session.query_stream(&distinct).await?;
        while let Some(batch) = rows.next().await.transpose().map_err(SqlError::from)? {
            let mut columns = Vec::new();
            for column in batch.columns() {
                let text = cast(column, &DataType::Utf8);
                columns.push(text.map_err(|error| RunError::Internal(error.to_string()))?);
            }
            let [ids, sources, words] = &columns[..] else {
                continue;
            };
            let text = |column: &arrow::array::ArrayRef, row: usize| {
                let column = column.as_string::<i32>();
                let is_valid = column.is_valid(row);
                if is_valid {
                    column.value(row).to_owned()
                } else {
                    String::new()
                }
            };
            for row in 0..batch.num_rows() {
                together.add(&text(ids, row), &text(sources, row), &text(words, row));
            }
        }
        Ok(together)
    }
}

impl Splits {
    /// Of all queries that `sql` gives, apart from those that were shown.
    pub(super) async fn of(
        session: &Session,
        sql: &str,
        shares: &Shares,
        shown: &ShownTables,
        seed: u64,
    ) -> Result<Self, RunError> {
        let names = shares.0.iter().map(|(name, _)| name.clone()).collect();
        let mut together = Together::default();
        let mut with_shown = HashSet::new();
        if shares.0.len() > 1 {
            together = Together::read(session, sql).await?;
            with_shown = together.with(&shown.queries(session, sql).await?);
        }
        Ok(Self {
            names,
            of_query: together.assign(shares, seed, &with_shown),
            shown: with_shown,
            leaves_out_shown: false,
        })
    }

    /// The same by folds of similar queries.
    pub(super) async fn by_folds(
        session: &Session,
        sql: &str,
        kind: FoldKind,
        shown: &ShownTables,
        seed: u64,
    ) -> Result<Self, RunError> {
        let mut queries = texts(session, sql).await?;
        let mut together = Together::read(session, sql).await?;
        let shown = together.with(&shown.queries(session, sql).await?);
        queries.retain(|(id, _)| !shown.contains(&xxh3_64(id.as_bytes())));
        let roots = together.roots();
        let set_of_id: HashMap<u64, u32> = together.ids.into_iter().zip(roots).collect();
        let assigned = tokio::task::spawn_blocking(move || {
            let items: Vec<(&str, &str)> = queries
                .iter()
                .map(|(id, text)| (id.as_str(), text.as_str()))
                .collect();
            let ids: Vec<u64> = items.iter().map(|(id, _)| xxh3_64(id.as_bytes())).collect();
            let set_of = |item: usize| set_of_id.get(&ids[item]).map_or(0, |set| *set as usize);
            let folds = folds_of_sets(&items, set_of, N_FOLDS, seed);
            let of_item = match kind {
                FoldKind::Extrapolation => folds.extrapolation,
                FoldKind::Interpolation => folds.interpolation,
            };
            let of_item = of_item.into_iter().map(|fold| fold as u8);
            ids.into_iter().zip(of_item).collect()
        });
        Ok(Self {
            names: (1..=N_FOLDS).map(|fold| format!("fold_{fold}")).collect(),
            of_query: assigned
                .await
                .map_err(|error| RunError::Internal(format!("making folds panicked: {error}")))?,
            shown,
            leaves_out_shown: true,
        })
    }

    /// How near the queries of other splits are to those of the first one; `None` if there is one
    /// split only.
    pub(super) async fn overlap(
        &self,
        session: &Session,
        sql: &str,
        seed: u64,
    ) -> Result<Option<SplitOverlap>, RunError> {
        if self.names.len() < 2 {
            return Ok(None);
        }
        let first = self.names.first().cloned().unwrap_or_default();
        let queries = texts(session, sql).await?;
        let (train, tested): (Vec<_>, Vec<_>) = queries
            .into_iter()
            .filter(|(id, _)| !self.leaves_out(id))
            .partition(|(id, _)| self.of_query(id) == first);
        let compared = tokio::task::spawn_blocking(move || {
            let texts = |side: &[(String, String)]| -> Vec<String> {
                side.iter().map(|(_, text)| text.clone()).collect()
            };
            let (train, tested) = (texts(&train), texts(&tested));
            let train: Vec<&str> = train.iter().map(String::as_str).collect();
            let tested: Vec<&str> = tested.iter().map(String::as_str).collect();
            overlap(&train, &tested, seed)
        });
        let found = compared
            .await
            .map_err(|error| RunError::Internal(format!("comparing splits panicked: {error}")))?;
        Ok(found.map(|found| SplitOverlap {
            nearest_cosine: found.nearest_cosine.mean,
            same_words_share: found.same_words_share,
        }))
    }

    /// The split of a query.
    pub(super) fn of_query(&self, query_id: &str) -> &str {
        let idx = self.of_query.get(&xxh3_64(query_id.as_bytes())).copied();
        self.names
            .get(usize::from(idx.unwrap_or(0)))
            .map_or("train", String::as_str)
    }

    /// Whether a query, or one that stands together with it, was shown to the model.
    pub(super) fn was_shown(&self, query_id: &str) -> bool {
        self.shown.contains(&xxh3_64(query_id.as_bytes()))
    }

    /// Whether a query stands in no split.
    pub(super) fn leaves_out(&self, query_id: &str) -> bool {
        self.leaves_out_shown && self.was_shown(query_id)
    }
}

/// Tables of the examples that a stage, or the one whose queries it has, showed to the model.
#[derive(Debug)]
pub(super) struct ShownTables(Vec<String>);

impl ShownTables {
    pub(super) fn of(version: &Version, stage: &str) -> Self {
        let of_stage = version.stages.get(stage);
        let input = of_stage.and_then(|of| of.params.get("input")?.as_str());
        let names = [Some(stage), input].into_iter().flatten();
        let names = names.map(|name| format!("{name}_demonstrations"));
        let tables = names.filter(|name| version.tables.contains_key(name));
        Self(tables.map(|name| quote_name(&name)).collect())
    }

    /// Hashes of the ids of queries that are those of an example, or have its document.
    async fn queries(&self, session: &Session, sql: &str) -> Result<HashSet<u64>, RunError> {
        let mut ids = HashSet::new();
        for table in &self.0 {
            for same in [
                "q.source_document = shown.doc_id",
                "lower(trim(q.query)) = lower(trim(shown.query))",
                "q.text = shown.text",
            ] {
                let found = format!(
                    "SELECT DISTINCT q.query_id FROM ({sql}) q JOIN {table} shown ON {same}"
                );
                let mut rows = session.query_stream(&found).await?;
                while let Some(batch) = rows.next().await.transpose().map_err(SqlError::from)? {
                    let found = cast(batch.column(0), &DataType::Utf8);
                    let found = found.map_err(|error| RunError::Internal(error.to_string()))?;
                    let found = found.as_string::<i32>();
                    ids.extend(found.iter().flatten().map(|id| xxh3_64(id.as_bytes())));
                }
            }
        }
        Ok(ids)
    }
}

/// Ids and texts of all queries.
async fn texts(session: &Session, sql: &str) -> Result<Vec<(String, String)>, RunError> {
    let distinct = format!(
        "SELECT query_id, min(query) AS query FROM ({sql}) GROUP BY query_id ORDER BY query_id"
    );
    let mut rows = session.query_stream(&distinct).await?;
    let mut texts = Vec::new();
    while let Some(batch) = rows.next().await.transpose().map_err(SqlError::from)? {
        let column = |idx: usize| {
            let text = cast(batch.column(idx), &DataType::Utf8);
            text.map_err(|error| RunError::Internal(error.to_string()))
        };
        let (ids, queries) = (column(0)?, column(1)?);
        let (ids, queries) = (ids.as_string::<i32>(), queries.as_string::<i32>());
        for row in (0..batch.num_rows()).filter(|&row| queries.is_valid(row)) {
            texts.push((ids.value(row).to_owned(), queries.value(row).to_owned()));
        }
        if texts.len() > COMPARED_MAX {
            return Err(RunError::usage(
                format!("more than {COMPARED_MAX} queries are too many to compare with each other"),
                "export one split (`--split train=1`), or a part of the stage by a `query` stage",
            ));
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_as_people_write_them() {
        let check = |text: &str, is_fine: bool| {
            assert_eq!(Shares::from_str(text).is_ok(), is_fine, "{text}");
        };
        check("train=1", true);
        check("train=0.9,dev=0.05,test=0.05", true);
        check("a=0.33,b=0.33,c=0.33", true);
        check("train=0.5", false);
        check("train=0.5,train=0.5", false);
        check("train", false);
        check("=1", false);
        check("../x=1", false);
        check("train=2", false);
    }

    #[test]
    fn shares_are_kept() {
        let shares: Shares = "train=0.8,test=0.2".parse().expect("shares");
        let mut together = Together::default();
        for idx in 0..20_000 {
            together.add(
                &format!("q{idx}"),
                &format!("d{idx}"),
                &format!("words {idx}"),
            );
        }
        let assigned = together.assign(&shares, 7, &HashSet::new());
        let n_test = assigned.values().filter(|split| **split == 1).count();
        assert!((3_800..4_200).contains(&n_test), "{n_test}");
    }

    proptest! {
        /// Neither a source document nor words stand in two splits, whatever the order of rows.
        #[test]
        fn nothing_leaks(
            rows in prop::collection::vec((0_u32..200, 0_u32..60, 0_u32..60), 1..200),
            shown in prop::collection::hash_set(0_u32..200, 0..4),
            seed: u64,
        ) {
            let shown: HashSet<u64> =
                shown.iter().map(|query| xxh3_64(query.to_string().as_bytes())).collect();
            let shares: Shares = "train=0.6,dev=0.2,test=0.2".parse().expect("shares");
            let assign = |rows: &mut dyn Iterator<Item = &(u32, u32, u32)>| {
                let mut together = Together::default();
                for (query, source, words) in rows {
                    together.add(&query.to_string(), &source.to_string(), &words.to_string());
                }
                let first = together.with(&shown);
                together.assign(&shares, seed, &first)
            };
            let assigned = assign(&mut rows.iter());
            prop_assert_eq!(&assigned, &assign(&mut rows.iter().rev()));
            let split = |query: u32| assigned[&xxh3_64(query.to_string().as_bytes())];
            for (id, split) in &assigned {
                prop_assert!(*split == 0 || !shown.contains(id));
            }
            for a in &rows {
                for b in &rows {
                    if a.1 == b.1 || a.2 == b.2 {
                        prop_assert_eq!(split(a.0), split(b.0));
                    }
                }
            }
        }
    }
}
