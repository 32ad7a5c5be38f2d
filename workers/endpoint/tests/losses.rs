//! Losses of prompts, from the question to what the reply tells.
#![expect(
    clippy::expect_used,
    reason = "helpers of tests may fail as tests do; clippy allows it in `#[test]` functions alone"
)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gleaner_endpoint::{
    CallError, Client, Dialect, EndpointConfig, FailureClass, LossDialect, LossesError, Pace,
    PromptToken, Series, Timeouts,
};
use gleaner_scripted_endpoint::losses::{log_likelihoods, tokens};
use gleaner_scripted_endpoint::{Play, PromptLosses, ScriptedServer, ServerOptions, always};
use tokio_util::sync::CancellationToken;

const TEXT: &str = "Rivers carry silt,\n and bridges  carry people.";

struct Consent;

#[async_trait]
impl Pace for Consent {
    async fn before(&self, _previous: Option<FailureClass>, _series: Series) -> bool {
        true
    }
}

async fn server(prompt_losses: PromptLosses, context: Option<usize>) -> ScriptedServer {
    let options = ServerOptions {
        prompt_losses,
        context,
        ..ServerOptions::default()
    };
    let started = ScriptedServer::start(always(Play::Answer), options).await;
    started.expect("a server")
}

async fn ask(
    server: &ScriptedServer,
    dialect: LossDialect,
    model: Option<&str>,
) -> Result<Result<Vec<PromptToken>, LossesError>, CallError> {
    let config = EndpointConfig {
        name: "llm".to_owned(),
        url: server.url(),
        model: "tiny".to_owned(),
        api_key: None,
        dialect: Dialect::Auto,
        concurrency: 2,
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(5),
            total: Duration::from_secs(5),
        },
        attempts_max: 1,
        patience: Duration::from_secs(1),
    };
    let client = Client::new(config, Arc::new(|| 1)).expect("a client");
    let request = dialect.request(TEXT.to_owned(), model.map(str::to_owned));
    let cancel = CancellationToken::new();
    let reply = client
        .complete(&request, client.key(&request), &Consent, &cancel)
        .await?;
    Ok(dialect.decode(&reply.body, TEXT))
}

#[tokio::test]
async fn both_dialects_tell_the_same_losses() {
    let server = server(PromptLosses::Both, None).await;
    for (model, name) in [(None, "tiny"), (Some("other"), "other")] {
        let texts = tokens(TEXT);
        let mut expected: Vec<Option<f64>> = log_likelihoods(name, &texts)
            .into_iter()
            .map(Some)
            .collect();
        expected[0] = None;
        for dialect in LossDialect::ALL {
            let told = ask(&server, dialect, model).await;
            let told = told.expect("an answer").expect("losses");
            let found: Vec<Option<f64>> = told.iter().map(|it| it.log_likelihood).collect();
            assert_eq!(found, expected, "{dialect} {name}");
            let found: Vec<&str> = told[1..].iter().flat_map(|it| it.text.as_deref()).collect();
            assert_eq!(found, texts[1..], "{dialect} {name}");
        }
    }
    // One token is generated for each, and each prompt is counted by its tokens.
    assert!(
        server.log().all().iter().all(|it| {
            it.completion_tokens == 1 && it.prompt_tokens == tokens(TEXT).len() as u64
        })
    );
}

#[tokio::test]
async fn a_server_that_ignores_what_it_is_asked_for() {
    let check = async |known, dialect, is_told: bool| {
        let server = server(known, None).await;
        let told = ask(&server, dialect, None).await.expect("an answer");
        assert_eq!(told.is_ok(), is_told, "{known:?} {dialect}: {told:?}");
        if let Err(error) = told {
            assert!(matches!(error, LossesError::NotTold(_)), "{error}");
        }
    };
    let (by_id, echo) = (LossDialect::PromptLogprobs, LossDialect::Echo);
    check(PromptLosses::Ignored, by_id, false).await;
    check(PromptLosses::Ignored, echo, false).await;
    check(PromptLosses::Echo, by_id, false).await;
    check(PromptLosses::Echo, echo, true).await;
    check(PromptLosses::PromptLogprobs, echo, false).await;
}

#[tokio::test]
async fn a_text_that_is_too_long_is_told_as_such() {
    let n_tokens = tokens(TEXT).len();
    let server = server(PromptLosses::Both, Some(n_tokens - 1)).await;
    let error = ask(&server, LossDialect::Echo, None).await;
    let error = error.expect_err("it does not fit");
    assert_eq!(error.class, FailureClass::ContextOverflow, "{error}");
}
