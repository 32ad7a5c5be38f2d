//! A value that several processes change in turn: a list of numbered objects, each created once,
//! of which the newest tells all.
//!
//! Stores have no replace that every one of them does right, but they have put-if-absent: whoever
//! creates number N + 1 has changed the value that stands in N. Numbers have no gaps.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::layout;
use crate::output::{Created, Output, OutputError};

/// A numbered list below one folder of an output.
#[derive(Debug)]
pub struct Numbered {
    output: Output,
    folder: String,
    /// The newest entry that was seen.
    newest: Mutex<Option<(u64, Bytes)>>,
}

impl Numbered {
    /// The list in `folder`, which holds nothing else.
    #[must_use]
    pub fn new(output: Output, folder: String) -> Self {
        Self {
            output,
            folder,
            newest: Mutex::default(),
        }
    }

    /// Number and bytes of the newest entry, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn newest(&self) -> Result<Option<(u64, Bytes)>, OutputError> {
        let mut known = self.known();
        if known.is_none() {
            let objects = self.output.list(&self.folder).await?;
            let numbers = objects
                .iter()
                .filter_map(|object| layout::parse_numbered(&object.path));
            let Some(number) = numbers.max() else {
                return Ok(None);
            };
            known = self.read(number).await?.map(|bytes| (number, bytes));
        }
        while let Some((number, _)) = known {
            match self.read(number + 1).await? {
                Some(bytes) => known = Some((number + 1, bytes)),
                None => break,
            }
        }
        if let Some((number, bytes)) = &known {
            self.learn(*number, bytes);
        }
        Ok(known)
    }

    /// Creates the entry behind `last`, the number that [`Numbered::newest`] gave. Whether it is
    /// ours; if not, somebody else has changed the value meanwhile. `bytes` must differ from what
    /// others may append, by a random number if by nothing else.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn append(&self, last: Option<u64>, bytes: Bytes) -> Result<bool, OutputError> {
        let number = last.map_or(0, |last| last + 1);
        let key = layout::numbered(&self.folder, number);
        match self.output.create(&key, bytes.clone()).await? {
            Created::Stored => {
                self.learn(number, &bytes);
                Ok(true)
            }
            Created::Exists(stored) => {
                self.learn(number, &stored);
                Ok(false)
            }
        }
    }

    async fn read(&self, number: u64) -> Result<Option<Bytes>, OutputError> {
        self.output
            .get(&layout::numbered(&self.folder, number))
            .await
    }

    fn known(&self) -> Option<(u64, Bytes)> {
        self.newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn learn(&self, number: u64, bytes: &Bytes) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_none_or(|(known, _)| *known < number) {
            *newest = Some((number, bytes.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Stores;

    fn count(bytes: &Bytes) -> u64 {
        let text = std::str::from_utf8(bytes).expect("a text");
        let (count, _) = text.split_once(' ').expect("a count");
        count.parse().expect("a number")
    }

    #[tokio::test]
    async fn every_change_counts_once() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let stores = Stores::from_env().with("memory://numbered", store);
        let output = Output::open(&stores, "memory://numbered/out").expect("an output");
        let workers = (0..8).map(|worker| {
            // Each has a view of its own, as processes do.
            let list = Numbered::new(output.clone(), "counter".to_owned());
            tokio::spawn(async move {
                for turn in 0..20 {
                    loop {
                        let newest = list.newest().await.expect("the store answers");
                        let value = newest.as_ref().map_or(0, |(_, bytes)| count(bytes)) + 1;
                        let bytes = Bytes::from(format!("{value} {worker}/{turn}"));
                        let last = newest.map(|(number, _)| number);
                        if list.append(last, bytes).await.expect("the store answers") {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.expect("a worker");
        }
        let list = Numbered::new(output, "counter".to_owned());
        let newest = list.newest().await.expect("the store answers");
        let (number, bytes) = newest.expect("an entry");
        assert_eq!((number, count(&bytes)), (159, 160));
    }
}
