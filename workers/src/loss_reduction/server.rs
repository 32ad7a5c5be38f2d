//! A model that a server computes: the log-likelihoods of a text's tokens, asked for and paid for
//! like everything that servers are asked.

use std::sync::Arc;

use gleaner_endpoint::{FailureClass, LossDialect, PromptToken};
use gleaner_schemas::{Failure, FailureKind};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::agreement::predicted;
use super::model_param::{LogProbabilities, ServedModel};
use crate::endpoint::access::Endpoints;
use crate::endpoint::exchange::{Answer, Exchange, NoAnswer};

/// What is asked first, to find out what a server knows. The same for all tasks: its reply is
/// stored, and paid for once. Only a reply that tells what is needed is believed for ever: servers
/// are mended, so one that does not is asked for anew, as another sample.
pub(super) const PROBE: &str =
    "The quick brown fox jumps over the lazy dog, and two and two is four.";

/// llama-cpp-python, of models that put no token before a text, lists with each token the likelihood
/// that it has after itself, and leaves out the generated one.
const OUT_OF_STEP: &str = "it lists other tokens than those of the prompt, so that its \
     log-probabilities would be taken for those of wrong tokens (llama-cpp-python does so for models \
     that have no token before a text)";

/// A server's model. Shared by the documents that are under way.
#[derive(Debug)]
pub(crate) struct Server {
    /// Name of the model in the stage.
    pub(crate) name: String,
    exchange: Arc<Exchange>,
    model: Option<String>,
    log_probabilities: LogProbabilities,
    /// Sent in front of each text.
    eos: Option<String>,
    /// Of the task.
    rank: u64,
    cancel: CancellationToken,
    /// What was found out; also that there is none, which is not asked again by each document.
    dialect: OnceCell<Result<LossDialect, Failure>>,
}

/// What a server tells of a text.
#[derive(Debug)]
pub(crate) enum Told {
    /// The predicted tokens.
    Tokens(Vec<PromptToken>),
    /// The text does not fit into the model's context, or its reply into an answer.
    TooLong(String),
    /// Nothing, for this reason.
    Nothing(String),
}

/// What came of a probe.
struct Probed<T, E = Lacking> {
    result: Result<T, E>,
    /// Whether a reply that was there before had part in it.
    is_old: bool,
}

/// What a server lacks.
enum Lacking {
    /// It does not tell the losses of texts.
    Losses(String),
    /// It does not take the token in front as one.
    Eos(String),
}

impl Server {
    pub(crate) fn new(
        name: &str,
        served: &ServedModel,
        eos: Option<&str>,
        endpoints: Endpoints<'_>,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        Ok(Self {
            name: name.to_owned(),
            exchange: endpoints.exchange(&served.endpoint)?,
            model: served.model.clone(),
            log_probabilities: served.log_probabilities,
            eos: eos.map(str::to_owned),
            rank: endpoints.exchanges.next_rank(),
            cancel: cancel.clone(),
            dialect: OnceCell::new(),
        })
    }

    /// Requests in flight at most.
    pub(crate) fn concurrency(&self) -> usize {
        self.exchange.concurrency()
    }

    /// Settles with the budget.
    pub(crate) async fn settle(&self) -> Result<(), Failure> {
        self.exchange.settle().await
    }

    /// The predicted tokens of a text.
    pub(crate) async fn ask(&self, text: &str) -> Result<Told, Failure> {
        let find = || self.find_dialect();
        let dialect = self.dialect.get_or_try_init(find).await?.clone()?;
        let eos = self.eos.as_deref();
        let prompt = [eos.unwrap_or_default(), text].concat();
        let answer = match self.send(dialect, prompt.clone(), 0).await {
            Ok(answer) => answer,
            Err(NoAnswer::Task(failure)) => return Err(failure),
            Err(NoAnswer::Item { class, message }) => {
                return Ok(match class {
                    FailureClass::ContextOverflow | FailureClass::TooLarge => {
                        Told::TooLong(message)
                    }
                    _ => Told::Nothing(format!("{class}: {message}")),
                });
            }
        };
        Ok(match dialect.decode(&answer.stored.body, &prompt) {
            Ok(tokens) => Told::Tokens(predicted(tokens, eos)),
            Err(error) => Told::Nothing(format!("{}: {error}", self.place())),
        })
    }

    async fn send(
        &self,
        dialect: LossDialect,
        prompt: String,
        sample: u32,
    ) -> Result<Answer, NoAnswer> {
        let mut request = dialect.request(prompt, self.model.clone());
        request.sample = sample;
        self.exchange.ask(request, self.rank, &self.cancel).await
    }

    /// Whom messages are about.
    fn place(&self) -> String {
        let facts = self.exchange.facts();
        let model = self.model.as_ref().unwrap_or(&facts.model);
        format!("endpoint {}, model {model}", facts.name)
    }

    /// The first of the dialects that the server understands, or what it says to all of them.
    async fn find_dialect(&self) -> Result<Result<LossDialect, Failure>, Failure> {
        let mut open = match self.log_probabilities {
            LogProbabilities::Auto => LossDialect::ALL.to_vec(),
            LogProbabilities::PromptLogprobs => vec![LossDialect::PromptLogprobs],
            LogProbabilities::Echo => vec![LossDialect::Echo],
        };
        let dialects = open.clone();
        let mut words: Vec<(LossDialect, String)> = Vec::new();
        let mut sample = 0;
        loop {
            let mut of_old_replies = Vec::new();
            for dialect in open {
                let probed = self.probe_both(dialect, sample).await?;
                match probed.result {
                    Ok(()) => return Ok(Ok(dialect)),
                    Err(_) if probed.is_old => of_old_replies.push(dialect),
                    Err(Lacking::Losses(reason)) => {
                        words.push((dialect, format!("asked with {dialect}, {reason}")));
                    }
                    Err(Lacking::Eos(message)) => return Ok(Err(self.failure(&message))),
                }
            }
            if of_old_replies.is_empty() {
                break;
            }
            open = of_old_replies;
            sample += 1;
        }
        // In the order in which they were tried first.
        words.sort_by_key(|(dialect, _)| dialects.iter().position(|it| it == dialect));
        let words: Vec<String> = words.into_iter().map(|(_, words)| words).collect();
        Ok(Err(self.failure(&format!(
            "the server does not tell log-probabilities of prompts: {}; name one that does: vLLM, \
             SGLang, or llama-cpp-python with `logits_all`",
            words.join("; ")
        ))))
    }

    /// Whether the server tells of a text, and takes the token that is sent in front as one.
    async fn probe_both(&self, dialect: LossDialect, sample: u32) -> Result<Probed<()>, Failure> {
        let plain = self.probe(dialect, PROBE.to_owned(), sample).await?;
        let (n_tokens, eos) = match (plain.result, &self.eos) {
            (Ok(n_tokens), Some(eos)) => (n_tokens, eos),
            (result, _) => {
                return Ok(Probed {
                    result: result.map(|_| ()).map_err(Lacking::Losses),
                    is_old: plain.is_old,
                });
            }
        };
        let prompt = [eos.as_str(), PROBE].concat();
        let found = self.probe(dialect, prompt, sample).await?;
        let result = match found.result {
            Ok(with_eos) if with_eos == n_tokens + 1 => Ok(()),
            Ok(with_eos) => Err(Lacking::Eos(format!(
                "the server does not take {eos:?} as one token: a text of {n_tokens} tokens has \
                 {with_eos} behind it; give the `eos` of its model, or none"
            ))),
            Err(reason) => Err(Lacking::Eos(format!(
                "the server does not take {eos:?} in front of a text: {reason}"
            ))),
        };
        Ok(Probed {
            result,
            is_old: plain.is_old || found.is_old,
        })
    }

    /// How many tokens the server counts, or why it tells nothing.
    async fn probe(
        &self,
        dialect: LossDialect,
        prompt: String,
        sample: u32,
    ) -> Result<Probed<usize, String>, Failure> {
        match self.send(dialect, prompt.clone(), sample).await {
            Ok(answer) => Ok(Probed {
                result: match dialect.decode(&answer.stored.body, &prompt) {
                    Ok(tokens) if ends_with_probe(&tokens) => Ok(tokens.len()),
                    Ok(_) => Err(OUT_OF_STEP.to_owned()),
                    Err(error) => Err(error.to_string()),
                },
                is_old: answer.is_old,
            }),
            Err(NoAnswer::Item { class, message }) => Ok(Probed {
                result: Err(format!("{class}: {message}")),
                is_old: false,
            }),
            Err(NoAnswer::Task(failure)) => Err(failure),
        }
    }

    fn failure(&self, message: &str) -> Failure {
        let place = self.place();
        Failure::new(FailureKind::Endpoint, format!("{place}: {message}"))
    }
}

/// Whether the tokens end as the probe does, as far as their texts are told. White space, and the
/// characters that stand for it, differ from server to server.
fn ends_with_probe(tokens: &[PromptToken]) -> bool {
    let graphic = |texts: &mut dyn Iterator<Item = char>| -> String {
        let graphic = texts.filter(char::is_ascii_graphic);
        graphic.map(|c| c.to_ascii_lowercase()).collect()
    };
    let texts = tokens.iter().filter_map(|token| token.text.as_deref());
    let shown = graphic(&mut texts.flat_map(str::chars));
    let words = PROBE.rsplit_once(',').map_or(PROBE, |(_, last)| last);
    shown.is_empty() || shown.ends_with(&graphic(&mut words.chars()))
}
