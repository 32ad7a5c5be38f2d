//! Which few-shot examples are shown to all: of several sets of pairs, that under which a server's
//! model finds real queries likeliest, given their documents (SPTAR, arXiv 2307.08303).
//!
//! 1. Some pairs are held out, others make up the sets; both are functions of (seed, pairs).
//! 2. The map `rate_examples` asks for the loss of each held-out query behind its document and each
//!    set: the losses of the whole text less those of what stands before the query.
//! 3. The reduce `examples` takes the set with the lowest mean loss per token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Float64Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, UInt32Type};
use futures::future::try_join_all;
use gleaner_generation::prompt::{Demonstration, choose_demonstrations};
use gleaner_generation::text::cut;
use gleaner_schemas::columns::{DOC_ID, with_field_ids};
use gleaner_schemas::{Failure, Lanes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::demonstrations::{DEMONSTRATIONS, batch_of, pairs_of};
use super::in_order::{Bounds, InOrder};
use crate::batch_columns::{arrow_failure, permanent, texts};
use crate::loss_reduction::model_param::ServedModel;
use crate::loss_reduction::server::{Server, Told};
use crate::stage::{Emit, MapContext, MapStage, ReduceInputs};

/// Name of the map.
pub(crate) const RATE_EXAMPLES: &str = "rate_examples";
/// Name of the reduce and its table.
pub(crate) const EXAMPLES: &str = "examples";
/// Longest part of a document that is shown to the model that rates.
const DOCUMENT_BYTES: usize = 2000;
/// Held-out pairs under way.
const ITEMS: usize = 64;

const SET: &str = "set";
const LOSS: &str = "loss";

/// Parameters of the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateTask {
    pub(crate) server: ServedModel,
    /// Sets that are rated.
    pub(crate) sets: u16,
    /// Pairs whose queries are rated.
    pub(crate) held_out: u16,
    /// Pairs of a set.
    pub(crate) count: u16,
    pub(crate) seed: u64,
}

/// The pairs that are held out, and the sets of others.
struct Parts {
    held_out: Vec<Demonstration>,
    sets: Vec<Vec<Demonstration>>,
}

impl RateTask {
    fn parts(&self, pool: &[Demonstration]) -> Result<Parts, Failure> {
        let owned = |chosen: Vec<&Demonstration>| -> Vec<Demonstration> {
            chosen.into_iter().cloned().collect()
        };
        let n_held_out = usize::from(self.held_out);
        let count = usize::from(self.count);
        let held_out = choose_demonstrations(self.seed, "held out", n_held_out, pool);
        let ids: BTreeSet<&str> = held_out.iter().map(|it| it.id.as_str()).collect();
        let rest: Vec<Demonstration> = pool
            .iter()
            .filter(|pair| !ids.contains(pair.id.as_str()))
            .cloned()
            .collect();
        if rest.len() < count || held_out.len() < n_held_out {
            return Err(permanent(format!(
                "the dataset of demonstrations has {} pairs, and {n_held_out} that are held out and a \
                 set of {count} are needed: give more pairs, or lower `held_out` or `count`",
                pool.len()
            )));
        }
        let set = |idx: u16| {
            owned(choose_demonstrations(
                self.seed,
                &format!("set {idx}"),
                count,
                &rest,
            ))
        };
        Ok(Parts {
            sets: (0..self.sets).map(set).collect(),
            held_out: owned(held_out),
        })
    }
}

/// What stands before a query: the pairs of a set, and the query's document.
fn before_query(set: &[Demonstration], document: &str) -> String {
    let mut text = String::new();
    for pair in set {
        let (document, _) = cut(pair.document.trim(), DOCUMENT_BYTES);
        text.push_str(&format!(
            "Document: {document}\nQuery: {}\n\n",
            pair.query.trim()
        ));
    }
    let (document, _) = cut(document.trim(), DOCUMENT_BYTES);
    text.push_str(&format!("Document: {document}\nQuery:"));
    text
}

/// Bytes that a document takes of such a text.
pub(super) fn before_query_bytes(document: &str) -> usize {
    cut(document.trim(), DOCUMENT_BYTES).0.len() + "Document: \nQuery:".len()
}

/// Sum of the losses of a text's tokens, and their number; `None` where the server does not tell.
async fn losses(server: &Server, text: &str) -> Result<Option<(f64, usize)>, Failure> {
    Ok(match server.ask(text).await? {
        Told::Tokens(tokens) => {
            let losses = tokens.iter().filter_map(|token| token.log_likelihood);
            Some((-losses.sum::<f64>(), tokens.len()))
        }
        Told::TooLong(_) | Told::Nothing(_) => None,
    })
}

/// Mean loss per token of a query behind a set and its document.
async fn rate(
    server: &Server,
    set: &[Demonstration],
    pair: &Demonstration,
) -> Result<Option<f64>, Failure> {
    let before = before_query(set, &pair.document);
    let whole = format!("{before} {}", pair.query.trim());
    let (before, whole) = (
        losses(server, &before).await?,
        losses(server, &whole).await?,
    );
    let (Some((before, n_before)), Some((whole, n_whole))) = (before, whole) else {
        return Ok(None);
    };
    let n_query = n_whole.saturating_sub(n_before);
    Ok((n_query > 0).then(|| (whole - before) / n_query as f64))
}

/// The losses of a held-out query, set by set; `None` if one of them is not told.
struct Rated {
    id: String,
    losses: Option<Vec<f64>>,
}

/// The map over the dataset's pairs.
pub(crate) struct RateExamples {
    server: Arc<Server>,
    parts: Arc<Parts>,
    held_out: BTreeMap<String, usize>,
    under_way: InOrder<Rated>,
    handle: Handle,
    rated: Vec<Rated>,
    lanes: Lanes,
}

fn schema() -> SchemaRef {
    with_field_ids(&Schema::new(vec![
        Field::new(DOC_ID, DataType::Utf8, false),
        Field::new(SET, DataType::UInt32, false),
        Field::new(LOSS, DataType::Float64, false),
    ]))
}

impl RateExamples {
    pub(crate) fn new(task: &RateTask, context: &MapContext<'_>) -> Result<Self, Failure> {
        let pool = super::demonstrations::load(context.side_inputs)?;
        let parts = task.parts(&pool)?;
        let server = Server::new(
            "examples",
            &task.server,
            None,
            context.endpoints,
            &context.cancel,
        )?;
        let handle = context.endpoints.handle.clone();
        let bounds = Bounds {
            n_items: ITEMS,
            bytes: usize::MAX,
        };
        let ids = parts.held_out.iter().map(|pair| pair.id.clone());
        Ok(Self {
            held_out: ids.zip(0..).collect(),
            server: Arc::new(server),
            parts: Arc::new(parts),
            under_way: InOrder::new(handle.clone(), context.cancel.clone(), bounds),
            handle,
            rated: Vec::new(),
            lanes: Lanes::default(),
        })
    }

    fn take(&mut self, rated: Rated) {
        match rated.losses {
            Some(_) => self.lanes.ok += 1,
            None => self.lanes.failed += 1,
        }
        self.rated.push(rated);
    }
}

impl MapStage for RateExamples {
    fn output(&self) -> SchemaRef {
        schema()
    }

    fn process(&mut self, rows: &RecordBatch, _emit: Emit<'_>) -> Result<(), Failure> {
        let ids = texts(rows, DOC_ID)?;
        for row in 0..rows.num_rows() {
            self.lanes.rows_in += 1;
            // Of several rows with one id the first is the pair.
            let Some(idx) = self.held_out.remove(ids.value(row)) else {
                self.lanes.ineligible += 1;
                continue;
            };
            while let Some(rated) = self.under_way.next_ready()? {
                self.take(rated);
            }
            let (server, parts) = (Arc::clone(&self.server), Arc::clone(&self.parts));
            self.under_way.start(0, async move {
                let pair = &parts.held_out[idx];
                let rated = parts.sets.iter().map(|set| rate(&server, set, pair));
                Ok(Rated {
                    id: pair.id.clone(),
                    losses: try_join_all(rated).await?.into_iter().collect(),
                })
            });
        }
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        while let Some(rated) = self.under_way.next()? {
            self.take(rated);
        }
        let (mut ids, mut sets, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        for rated in &self.rated {
            for (set, loss) in (0_u32..).zip(rated.losses.iter().flatten()) {
                ids.push(rated.id.as_str());
                sets.push(set);
                losses.push(*loss);
            }
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(ids)),
            Arc::new(UInt32Array::from(sets)),
            Arc::new(Float64Array::from(losses)),
        ];
        emit(RecordBatch::try_new(schema(), columns).map_err(arrow_failure)?)?;
        self.handle.block_on(self.server.settle())
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// The pairs of the set with the lowest mean loss, and the means of all.
pub(crate) fn choose(
    task: &RateTask,
    inputs: &mut dyn ReduceInputs,
) -> Result<(RecordBatch, Value), Failure> {
    let pool = pairs_of(&inputs.side_input(DEMONSTRATIONS)?)?;
    let mut rated: BTreeMap<(String, u32), f64> = BTreeMap::new();
    inputs.for_each(RATE_EXAMPLES, &mut |rows| {
        let ids = texts(&rows, DOC_ID)?;
        let set = rows
            .column_by_name(SET)
            .and_then(|it| it.as_primitive_opt::<UInt32Type>());
        let loss = rows
            .column_by_name(LOSS)
            .and_then(|it| it.as_primitive_opt::<Float64Type>());
        let (Some(set), Some(loss)) = (set, loss) else {
            return Err(permanent("rated examples have other columns"));
        };
        for row in 0..rows.num_rows() {
            let key = (ids.value(row).to_owned(), set.value(row));
            rated.insert(key, loss.value(row));
        }
        Ok(())
    })?;
    let mut sums = vec![(0.0, 0_u64); usize::from(task.sets)];
    for ((_, set), loss) in &rated {
        if let Some(sum) = sums.get_mut(*set as usize) {
            sum.0 += loss;
            sum.1 += 1;
        }
    }
    let means = sums.iter().map(|(sum, n)| sum / *n as f64);
    let means: Vec<f64> = means.filter(|mean| mean.is_finite()).collect();
    if means.len() < sums.len() {
        return Err(permanent(
            "the server told the losses of no held-out query, so no set of examples can be chosen",
        ));
    }
    let best = means.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
    let best = best.map_or(0, |(idx, _)| idx);
    let parts = task.parts(&pool)?;
    let chosen = parts.sets.into_iter().nth(best).unwrap_or_default();
    let facts = json!({ "set": best, "mean_losses": means, "held_out": sums[best].1 });
    Ok((batch_of(&chosen)?, facts))
}
