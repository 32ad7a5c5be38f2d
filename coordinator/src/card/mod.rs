//! The dataset card of a published version: a README that dataset hubs and people read.
//!
//! 1. [`facts`] asks the version's tables what the version itself does not say.
//! 2. [`render`] writes the text: a [`header`] for loaders, then [`body`]. It is a function of the
//!    version and those facts; the only time in it is the version's own.
//! 3. [`write()`] creates `_gleaner/cards/<N>.md` once, and copies it to `README.md`.
//!
//! Cards come after the version and are no part of it: no reader needs one, a run whose card cannot
//! be written has published all the same, and the next run writes what is missing.

mod body;
mod facts;
mod header;
mod markdown;

use bytes::Bytes;
use gleaner_schemas::Version;
use gleaner_schemas::job::JobFile;
use gleaner_storage::{Created, Output, OutputError, Stores, layout};
use serde::Deserialize as _;

use crate::run_error::RunError;
use facts::Facts;

/// What every card of ours says; a README without it is somebody else's.
const MARK: &str = "<!-- Written by Gleaner at each publication";

/// Newer versions that may appear while a card is copied.
const RACES_MAX: usize = 100;

/// How much of a card could be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardWritten {
    /// `README.md` is the card of the newest version.
    Everything,
    /// There is a `README.md` that is none of ours, and it stays.
    NotTheReadme,
}

/// Writes the card of the newest version, where it is not there yet.
///
/// # Errors
///
/// Of the store. Nothing else depends on the card.
pub async fn write(
    output: &Output,
    stores: &Stores,
    version: &Version,
) -> Result<CardWritten, RunError> {
    let key = layout::card(version.number);
    let card = match output.get(&key).await? {
        Some(card) => card,
        None => {
            let facts = Facts::gather(stores, output, version).await?;
            let card = Bytes::from(render(version, &facts));
            match output.create(&key, card.clone()).await? {
                Created::Stored => card,
                Created::Exists(card) => card,
            }
        }
    };
    Ok(copy(output, version.number, card).await?)
}

/// Whether a version has its card, and the output a README.
///
/// # Errors
///
/// Of the store.
pub async fn is_written(output: &Output, number: u64) -> Result<bool, OutputError> {
    let card = output.get(&layout::card(number)).await?;
    Ok(card.is_some() && output.get(layout::README).await?.is_some())
}

/// Copies a card, and looks again afterwards: another coordinator may have published and copied in
/// between.
async fn copy(output: &Output, number: u64, card: Bytes) -> Result<CardWritten, OutputError> {
    let (mut number, mut card) = (number, card);
    for _ in 0..RACES_MAX {
        match output.get(layout::README).await? {
            Some(there) if there == card => {}
            Some(there) if !is_ours(&there) => return Ok(CardWritten::NotTheReadme),
            _ => output.put(layout::README, card).await?,
        }
        let newest = output.version_numbers().await?.pop();
        let Some(newest) = newest.filter(|newest| *newest > number) else {
            break;
        };
        match output.get(&layout::card(newest)).await? {
            Some(newer) => (number, card) = (newest, newer),
            // Whoever published it is about to write it, and copies it then.
            None => break,
        }
    }
    Ok(CardWritten::Everything)
}

fn is_ours(readme: &[u8]) -> bool {
    readme
        .windows(MARK.len())
        .any(|window| window == MARK.as_bytes())
}

/// The text of a version's card.
fn render(version: &Version, facts: &Facts) -> String {
    // What another program version wrote may have keys that this one does not know.
    let job = JobFile::deserialize(&version.job_file).ok();
    let card = job.as_ref().and_then(|job| job.card.clone());
    let told = Told {
        version,
        facts,
        job: job.as_ref(),
        card: card.unwrap_or_default(),
    };
    let mut text = header::render(&told);
    text.push_str(MARK);
    text.push_str(
        "; what you change here is lost. The key `card` of the job file fills it in. -->\n\n",
    );
    body::render(&mut text, &told);
    text
}

/// What a card is made of.
struct Told<'a> {
    version: &'a Version,
    facts: &'a Facts,
    job: Option<&'a JobFile>,
    card: gleaner_schemas::job::Card,
}

impl Told<'_> {
    fn title(&self) -> &str {
        self.card.title.as_deref().unwrap_or(&self.version.job)
    }

    /// Licences of the output: what the job file says, else those of its inputs.
    fn licenses(&self) -> Vec<String> {
        if let Some(licenses) = &self.card.license {
            return licenses.to_vec();
        }
        let of_corpus = self.job.and_then(|job| job.corpus.license.clone());
        of_corpus.into_iter().collect()
    }

    /// Tables with rows, in the order of the stages that made them.
    fn tables(&self) -> Vec<&str> {
        let version = self.version;
        let stages = version.stage_order.iter();
        stages
            .filter_map(|name| version.stages.get(name))
            .flat_map(|stage| &stage.tables)
            .map(String::as_str)
            .filter(|name| {
                version
                    .tables
                    .get(*name)
                    .is_some_and(|table| table.rows > 0)
            })
            .collect()
    }

    /// The table that most readers want: the last one whose rows are texts for training, else the
    /// last one of all.
    fn main_table(&self) -> Option<&str> {
        let tables = self.tables();
        let is_for_training = |name: &&&str| {
            let kind = self.version.stages.get(**name).map(|it| it.kind.as_str());
            matches!(
                kind,
                Some("select" | "synthetic_queries" | "graded_documents")
            )
        };
        let found = tables.iter().rev().find(is_for_training);
        found.or(tables.last()).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    async fn readme(output: &Output) -> Bytes {
        output.get(layout::README).await.unwrap().unwrap()
    }

    fn card(number: u64) -> Bytes {
        format!("{MARK} {number}").into()
    }

    /// Two coordinators published; the one that was first copies last.
    #[tokio::test]
    async fn the_readme_is_of_the_newest_version_whoever_copies_last() {
        let stores = Stores::from_env().with("memory://m", Arc::new(InMemory::new()));
        let output = Output::open(&stores, "memory://m/out").unwrap();
        for number in [1, 2] {
            let version = "a version".into();
            output.put(&layout::version(number), version).await.unwrap();
            output
                .put(&layout::card(number), card(number))
                .await
                .unwrap();
        }
        for number in [2, 1] {
            let copied = copy(&output, number, card(number)).await.unwrap();
            assert_eq!(copied, CardWritten::Everything);
            assert_eq!(
                readme(&output).await,
                card(2),
                "after copying card {number}"
            );
        }
    }

    #[tokio::test]
    async fn a_readme_of_somebody_else_stays() {
        let stores = Stores::from_env().with("memory://m", Arc::new(InMemory::new()));
        let output = Output::open(&stores, "memory://m/out").unwrap();
        output.put(layout::README, "Mine.".into()).await.unwrap();
        let copied = copy(&output, 1, card(1)).await.unwrap();
        assert_eq!(copied, CardWritten::NotTheReadme);
        assert_eq!(readme(&output).await, "Mine.");
    }
}
