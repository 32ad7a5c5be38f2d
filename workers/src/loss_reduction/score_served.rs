//! Map `score` where servers compute models, all of them or some.
//!
//! 1. Each document's text is sent to every server, with many documents under way; one that a
//!    server has no room for is halved, for all models alike.
//! 2. Documents come back in their order. Models that compute here score the same texts then, some
//!    documents at a time.
//! 3. Rows whose models do not see the same tokens are rejected: nobody compares tokenizers before.
//!
//! Servers do not tell how they cut tokens, so a text is cut by its bytes, generously; what is left
//! of a longer one is marked.

use std::sync::Arc;

use arrow::array::{Array as _, StringBuilder};
use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use futures::future::try_join_all;
use gleaner_endpoint::PromptToken;
use gleaner_schemas::columns::{DOC_ID, INPUT_FILE, INPUT_ROW, REASON, SOURCE, TEXT};
use gleaner_schemas::{Failure, Lanes};
use tokio::runtime::Handle;

use super::agreement::{count_difference, difference};
use super::params::ScoreParams;
use super::rows::{Rows, Scored};
use super::score::count;
use super::scorer::{Scorer, outcome};
use super::server::{Server, Told};
use crate::batch_columns::{numbers, text_at, text_views, texts};
use crate::generation::in_order::{Bounds, InOrder};
use crate::stage::{Emit, MapContext, MapStage};

/// Longest text that a server is sent, in bytes: the reply has some fifty bytes for each token.
const TEXT_BYTES_MAX: usize = 128 << 10;
/// Bytes of a token, more than the mean of any text: what has more bytes has more tokens for sure.
const TOKEN_BYTES_MAX: usize = 16;
/// A text is halved so often at most until it fits.
const HALVINGS_MAX: u32 = 12;
/// Documents under way for each request that may be in flight: a slow one must not hold up the
/// rest.
const DOCUMENTS_PER_REQUEST: usize = 8;
/// Documents under way at least and at most.
const DOCUMENTS: std::ops::RangeInclusive<usize> = 64..=4096;
/// Memory of a document under way besides its text.
const DOCUMENT_BYTES: usize = 16 << 10;
/// Memory for each byte of a text and each server: the request's copies, and the reply, before and
/// after it is read.
const BYTES_PER_TEXT_BYTE: usize = 32;
/// Documents of a batch that is handed on, and scored together.
const DOCUMENTS_PER_BATCH: usize = 256;
/// Bytes of their texts.
const BATCH_BYTES: usize = 1 << 20;

/// The map over documents.
pub(crate) struct ScoreServedStage {
    servers: Arc<Servers>,
    /// The models that compute here.
    local: Option<Scorer>,
    params: ScoreParams,
    schema: SchemaRef,
    lanes: Lanes,
    handle: Handle,
    under_way: InOrder<Asked>,
    /// Documents that servers have told of.
    waiting: Vec<Asked>,
    waiting_bytes: usize,
    memory_bytes: u64,
}

/// The servers of a task, shared by its documents.
struct Servers {
    servers: Vec<Server>,
    max_tokens: Option<usize>,
    text_bytes_max: usize,
}

/// A document.
#[derive(Debug)]
struct Document {
    doc_id: String,
    source: Option<String>,
    file: String,
    row: u64,
    n_bytes: u64,
}

/// A document that servers were asked about.
#[derive(Debug)]
struct Asked {
    document: Document,
    /// What of its text they were sent.
    text: String,
    is_cut: bool,
    /// Losses by server, if there are some.
    scored: Scored,
}

impl ScoreServedStage {
    pub(crate) fn new(params: ScoreParams, context: &MapContext<'_>) -> Result<Self, Failure> {
        let mut servers = Vec::new();
        let mut local_names = Vec::new();
        for name in &params.models {
            match params.servers.get(name) {
                Some(served) => servers.push(Server::new(
                    name,
                    served,
                    params.eos.as_deref(),
                    context.endpoints,
                    &context.cancel,
                )?),
                None => local_names.push(name.clone()),
            }
        }
        let (local, left_bytes) = if local_names.is_empty() {
            (None, context.memory_bytes)
        } else {
            let (scorer, left_bytes) = Scorer::load(&params, local_names, context)?;
            (Some(scorer), left_bytes)
        };
        let most = servers.iter().map(Server::concurrency).max().unwrap_or(1);
        let n_documents = most.saturating_mul(DOCUMENTS_PER_REQUEST);
        let handle = context.endpoints.handle.clone();
        let documents_bytes = left_bytes / 4;
        let bounds = Bounds {
            n_items: n_documents.clamp(*DOCUMENTS.start(), *DOCUMENTS.end()),
            bytes: usize::try_from(documents_bytes).unwrap_or(usize::MAX),
        };
        Ok(Self {
            servers: Arc::new(Servers {
                servers,
                max_tokens: params.max_tokens.map(|max| max as usize),
                text_bytes_max: text_bytes_max(params.context, params.max_tokens),
            }),
            local,
            schema: params.schema(),
            lanes: Lanes::default(),
            under_way: InOrder::new(handle.clone(), context.cancel.clone(), bounds),
            handle,
            waiting: Vec::new(),
            waiting_bytes: 0,
            memory_bytes: context.memory_bytes - left_bytes + documents_bytes,
            params,
        })
    }

    fn take(&mut self, asked: Asked, emit: Emit<'_>) -> Result<(), Failure> {
        self.waiting_bytes += asked.text.len();
        self.waiting.push(asked);
        if self.waiting.len() >= DOCUMENTS_PER_BATCH || self.waiting_bytes >= BATCH_BYTES {
            self.flush(emit)?;
        }
        Ok(())
    }

    /// Scores what waits with the models that compute here, and hands its rows on.
    fn flush(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        let waiting = match &self.local {
            Some(local) => self.with_local(local, waiting)?,
            None => waiting,
        };
        let mut rows = Rows::new(&self.params);
        for asked in &waiting {
            count(&mut self.lanes, &asked.scored);
            let is_read = !matches!(asked.scored, Scored::Rejected(_));
            let n_bytes = if is_read { asked.document.n_bytes } else { 0 };
            let is_cut = is_read && asked.is_cut;
            rows.push(&self.params, n_bytes, is_cut, &asked.scored);
        }
        let documents = || waiting.iter().map(|asked| &asked.document);
        let ids: StringArray = documents().map(|it| Some(it.doc_id.as_str())).collect();
        let mut sources = StringBuilder::new();
        documents().for_each(|it| sources.append_option(it.source.as_deref()));
        let files: StringArray = documents().map(|it| Some(it.file.as_str())).collect();
        let numbers: UInt64Array = documents().map(|it| Some(it.row)).collect();
        let first: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(sources.finish())];
        let last: Vec<ArrayRef> = vec![Arc::new(files), Arc::new(numbers)];
        emit(rows.finish(&self.params, &self.schema, first, last)?)
    }

    /// Adds the losses of the models that compute here to those of servers.
    fn with_local(&self, local: &Scorer, waiting: Vec<Asked>) -> Result<Vec<Asked>, Failure> {
        let is_open = |asked: &Asked| matches!(asked.scored, Scored::Losses(_));
        let open: Vec<&str> = waiting
            .iter()
            .filter(|asked| is_open(asked))
            .map(|asked| asked.text.as_str())
            .collect();
        // A token has a byte at least.
        let n_ids_max = self.servers.max_tokens.unwrap_or(TEXT_BYTES_MAX);
        let encoded = local.models[0].encode(&open, n_ids_max);
        let ids: Vec<Option<&[u32]>> = encoded
            .iter()
            .map(|it| it.as_ref().ok().map(|it| it.ids.as_slice()))
            .collect();
        let losses = local.document_losses(&ids)?;
        let mut told = encoded.iter().zip(losses);
        let joined = waiting.into_iter().map(|mut asked| {
            let Scored::Losses(served) = asked.scored else {
                return asked;
            };
            asked.scored = match told.next() {
                Some((Ok(encoded), losses)) => {
                    asked.is_cut |= encoded.is_cut;
                    joined(&self.params, served, losses)
                }
                Some((Err(error), _)) => Scored::Rejected(error.to_string()),
                None => Scored::Losses(served),
            };
            asked
        });
        Ok(joined.collect())
    }
}

/// The losses of all models in their order, if they are about as many tokens.
fn joined(params: &ScoreParams, served: Vec<Vec<f32>>, local: Vec<Vec<f32>>) -> Scored {
    let (mut served, mut local) = (served.into_iter(), local.into_iter());
    let losses: Vec<Vec<f32>> = params
        .models
        .iter()
        .filter_map(|name| match params.servers.contains_key(name) {
            true => served.next(),
            false => local.next(),
        })
        .collect();
    let counts = params.models.iter().zip(&losses);
    let counts: Vec<(&str, usize)> = counts
        .map(|(name, losses)| (name.as_str(), losses.len()))
        .collect();
    match count_difference(&counts) {
        Some(difference) => Scored::Rejected(difference),
        None => outcome(&params.models, true, losses),
    }
}

/// Bytes of a text that servers are sent at most.
pub(super) fn text_bytes_max(context: u32, max_tokens: Option<u32>) -> usize {
    let context = Some(context).filter(|&context| context > 0);
    [context, max_tokens]
        .into_iter()
        .flatten()
        .map(|n_tokens| (n_tokens as usize).saturating_mul(TOKEN_BYTES_MAX))
        .fold(TEXT_BYTES_MAX, usize::min)
}

/// Cuts a text before the character at `length`, or in which that lies.
fn cut(text: &mut String, length: usize) {
    let length = (0..=length.min(text.len()))
        .rev()
        .find(|&length| text.is_char_boundary(length));
    text.truncate(length.unwrap_or(0));
}

impl Servers {
    /// Asks all servers about a document.
    async fn ask(
        self: Arc<Self>,
        document: Document,
        mut text: String,
        left_out: Option<Scored>,
    ) -> Result<Asked, Failure> {
        let n_bytes = text.len();
        cut(&mut text, self.text_bytes_max);
        let mut max_tokens_cut = false;
        let scored = match left_out {
            Some(scored) => scored,
            None => self.scored(&mut text, &mut max_tokens_cut).await?,
        };
        Ok(Asked {
            document,
            is_cut: max_tokens_cut || text.len() < n_bytes,
            text,
            scored,
        })
    }

    /// The losses of a text by server; it is shortened until all servers take it.
    async fn scored(&self, text: &mut String, is_cut: &mut bool) -> Result<Scored, Failure> {
        if text.is_empty() {
            return Ok(Scored::Ineligible("no token".to_owned()));
        }
        let mut refused = String::new();
        for _ in 0..=HALVINGS_MAX {
            let sent: &str = text;
            let asked = self.servers.iter().map(|server| server.ask(sent));
            let mut models: Vec<Vec<PromptToken>> = Vec::new();
            let mut too_long = None;
            for told in try_join_all(asked).await? {
                match told {
                    Told::Tokens(tokens) => models.push(tokens),
                    Told::TooLong(words) => too_long = Some(words),
                    Told::Nothing(reason) => return Ok(Scored::Rejected(reason)),
                }
            }
            let Some(words) = too_long else {
                return Ok(self.outcome(models, is_cut));
            };
            refused = words;
            let half = text.len() / 2;
            cut(text, half);
            if text.is_empty() {
                break;
            }
        }
        Ok(Scored::Rejected(format!(
            "too long for a server, however short it is cut: {refused}"
        )))
    }

    fn outcome(&self, mut models: Vec<Vec<PromptToken>>, is_cut: &mut bool) -> Scored {
        let names = self.servers.iter().map(|server| server.name.as_str());
        let tokens = models.iter().map(Vec::as_slice);
        if let Some(difference) = difference(&names.zip(tokens).collect::<Vec<_>>()) {
            return Scored::Rejected(difference);
        }
        if let Some(max_tokens) = self.max_tokens {
            for tokens in &mut models {
                *is_cut |= tokens.len() > max_tokens;
                tokens.truncate(max_tokens);
            }
        }
        let losses = |tokens: &Vec<PromptToken>| -> Vec<f32> {
            let likelihoods = tokens.iter().filter_map(|token| token.log_likelihood);
            likelihoods.map(|it| (0.0 - it) as f32).collect()
        };
        let names: Vec<String> = self.servers.iter().map(|it| it.name.clone()).collect();
        outcome(&names, true, models.iter().map(losses).collect())
    }
}

impl MapStage for ScoreServedStage {
    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn process(&mut self, batch: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure> {
        let (ids, views) = (texts(batch, DOC_ID)?, text_views(batch, TEXT)?);
        let (sources, reasons) = (texts(batch, SOURCE)?, texts(batch, REASON)?);
        let (files, rows) = (texts(batch, INPUT_FILE)?, numbers(batch, INPUT_ROW)?);
        for row in 0..batch.num_rows() {
            while let Some(asked) = self.under_way.next_ready()? {
                self.take(asked, emit)?;
            }
            let is_null = || views.is_null(row).then_some("the text is null");
            let reason = text_at(&reasons, row).or_else(is_null);
            let text = match reason {
                Some(_) => "",
                None => views.value(row),
            };
            let document = Document {
                doc_id: ids.value(row).to_owned(),
                source: text_at(&sources, row).map(str::to_owned),
                file: files.value(row).to_owned(),
                row: rows.value(row),
                n_bytes: text.len() as u64,
            };
            let left_out = reason.map(|reason| Scored::Rejected(reason.to_owned()));
            let sent_bytes = text.len().min(self.servers.text_bytes_max);
            let n_servers = self.servers.servers.len();
            let bytes = sent_bytes * BYTES_PER_TEXT_BYTE * n_servers + text.len() + DOCUMENT_BYTES;
            let servers = Arc::clone(&self.servers);
            let asked = servers.ask(document, text.to_owned(), left_out);
            self.under_way.start(bytes, asked);
        }
        Ok(())
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        while let Some(asked) = self.under_way.next()? {
            self.take(asked, emit)?;
        }
        self.flush(emit)?;
        let servers = &self.servers.servers;
        let settled = try_join_all(servers.iter().map(Server::settle));
        self.handle.block_on(settled).map(drop)
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

#[cfg(test)]
mod tests;
