//! Requests that were sent and have no reply: they may be paid for.

use std::collections::{BTreeMap, BTreeSet};

use gleaner_storage::{Output, OutputError, layout};

use super::spending::Amounts;
use super::stored::{self, SentRequest};

/// Objects read at a time.
const READS: usize = 32;
/// The store's clock and a worker's may differ by this much.
const CLOCKS_DIFFER_MS: i64 = 120_000;

/// What the requests of a lost worker cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LostRequests {
    /// Those that have a reply.
    pub known: Amounts,
    /// What the others may have cost at most.
    pub possibly: Amounts,
}

/// What was sent on a lease since `since_ms`.
///
/// # Errors
///
/// Of the store.
pub async fn of_lease(
    output: &Output,
    lease: &str,
    since_ms: i64,
) -> Result<LostRequests, OutputError> {
    let objects = output.list(layout::REQUESTS).await?;
    let recent = objects
        .into_iter()
        .filter(|object| object.modified_ms + CLOCKS_DIFFER_MS >= since_ms)
        .map(|object| object.path)
        .collect();
    let notes = Output::map_concurrently(recent, READS, |path| async move {
        output
            .get_json::<SentRequest>(&path, "note of a request")
            .await
    })
    .await?;
    let withdrawn = stored::all_withdrawn(output).await?;
    let own = notes.into_iter().flatten().filter(|sent| {
        sent.lease == lease && !withdrawn.contains(&(sent.request.clone(), sent.number))
    });
    let costs = Output::map_concurrently(own.collect(), READS, |sent: SentRequest| async move {
        let reply = stored::reply(output, &sent.request).await?;
        let known = reply.filter(|reply| reply.number == sent.number);
        Ok(match known {
            Some(reply) => (reply.cost, Amounts::default()),
            None => (Amounts::default(), sent.estimate),
        })
    })
    .await?;
    Ok(costs
        .into_iter()
        .fold(LostRequests::default(), |sum, (known, possibly)| {
            LostRequests {
                known: sum.known + known,
                possibly: sum.possibly + possibly,
            }
        }))
}

/// Notes of all requests whose last sending has no reply: those that are under way, and those of
/// workers that are gone.
///
/// # Errors
///
/// Of the store.
pub async fn without_reply(output: &Output) -> Result<Vec<SentRequest>, OutputError> {
    let replies = output.list(layout::REPLIES).await?;
    let answered: BTreeSet<&str> = replies
        .iter()
        .filter_map(|object| layout::parse_request(&object.path))
        .collect();
    let withdrawn = stored::all_withdrawn(output).await?;
    let requests = output.list(layout::REQUESTS).await?;
    let mut last: BTreeMap<&str, (u32, String)> = BTreeMap::new();
    for object in &requests {
        let Some((request, number)) = layout::parse_sending(&object.path) else {
            continue;
        };
        if withdrawn.contains(&(request.to_owned(), number)) {
            continue;
        }
        let known = last.entry(request).or_insert((number, object.path.clone()));
        if number > known.0 {
            *known = (number, object.path.clone());
        }
    }
    let open = last
        .into_iter()
        .filter(|(request, _)| !answered.contains(request));
    let open: Vec<String> = open.map(|(_, (_, path))| path).collect();
    let notes = Output::map_concurrently(open, READS, |path| async move {
        output
            .get_json::<SentRequest>(&path, "note of a request")
            .await
    })
    .await?;
    Ok(notes.into_iter().flatten().collect())
}
