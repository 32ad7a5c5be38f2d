//! Endpoints that are models in directories: this process serves them to itself.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gleaner_models::LoadOptions;
use gleaner_schemas::job::Endpoint;
use gleaner_serving::{ChatTemplate, ModelServer, ServedModel, ServingError};
use tokio::sync::Mutex;

/// A directory, and the name that its model has in requests.
type Served = (PathBuf, String);

/// The servers of this process, each started when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct LocalModels {
    servers: Mutex<BTreeMap<Served, Arc<ModelServer>>>,
}

impl LocalModels {
    /// Where an endpoint is reached: its URL, or that of the server of its directory.
    ///
    /// # Errors
    ///
    /// What keeps the model from being served, and what to do.
    pub(crate) async fn url_of(&self, endpoint: &Endpoint) -> Result<String, String> {
        let Some(path) = endpoint.model_directory() else {
            return Ok(endpoint.url.trim_end_matches('/').to_owned());
        };
        // While one is loaded others wait: two slots must not load the same one.
        let mut servers = self.servers.lock().await;
        let served = (path.clone(), endpoint.model.clone());
        if let Some(server) = servers.get(&served) {
            return Ok(server.url());
        }
        let loading = tokio::task::spawn_blocking({
            let path = path.clone();
            move || ServedModel::load(&path, &options())
        });
        let told = |error: ServingError| format!("{error}; {}", advice(&path));
        let model = loading
            .await
            .map_err(|error| format!("reading a model panicked: {error}"))?
            .map_err(told)?;
        let started = ModelServer::start(model, endpoint.model.clone(), n_at_once()).await;
        let server = Arc::new(started.map_err(told)?);
        let url = server.url();
        servers.insert(served, server);
        Ok(url)
    }
}

/// Looks at the model of a directory without reading its weights; what users should know of it.
///
/// # Errors
///
/// If it cannot be served.
pub fn inspect_local(path: &Path) -> Result<Option<String>, String> {
    let told = |error: ServingError| format!("{error}; {}", advice(path));
    let directory =
        gleaner_models::ModelDirectory::open(path).map_err(|error| told(error.into()))?;
    let template = ChatTemplate::read(path).map_err(told)?;
    let context = directory.architecture().max_positions;
    Ok((!template.is_given()).then(|| {
        format!(
            "the model in {} (context {context} tokens) has no chat template: prompts are shown to \
             it as texts to go on with",
            path.display()
        )
    }))
}

/// Completions at a time: each keeps a core busy.
#[must_use]
pub fn n_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn options() -> LoadOptions {
    LoadOptions {
        // Each completion is computed on a thread of its own.
        n_threads: NonZero::new(1),
        ..LoadOptions::default()
    }
}

fn advice(path: &Path) -> String {
    format!(
        "each machine with workers for `network` needs the directory {} of a causal language model \
         (config.json, tokenizer.json, safetensors)",
        path.display()
    )
}
