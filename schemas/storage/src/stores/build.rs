//! One builder per scheme. All of them have bounds on time, our connector and our retries.

use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::HttpConnector;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore};
use url::Url;

use super::connector::Connector;
use super::settings::{S3_CERTIFICATES_VARIABLE, Settings};
use super::silence::Silence;
use crate::redact::redact;

/// Variables with the endpoint of a store, the most special one first.
const S3_ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
const AZURE_ENDPOINTS: [&str; 2] = ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"];
const GOOGLE_ENDPOINTS: [&str; 1] = ["GOOGLE_BASE_URL"];

/// The store that serves `url`, without its path.
pub(super) fn build(
    url: &Url,
    store: &str,
    settings: &Settings,
    silence: &Arc<Silence>,
) -> Result<Arc<dyn ObjectStore>, String> {
    if url.scheme() == "file" {
        return Ok(Arc::new(LocalFileSystem::new()));
    }
    let silence = Arc::clone(silence);
    let connector = Connector::new(store.to_owned(), settings.timeouts()?, silence);
    match url.scheme() {
        "s3" | "s3a" => s3(url, connector, settings),
        "gs" => google(url, connector, settings),
        "az" | "azure" | "adl" | "abfs" | "abfss" => azure(url, connector, settings),
        "http" | "https" => http(url, connector, settings),
        other => Err(format!(
            "the scheme {other} is not known; expected s3, gs, az, http, https or file"
        )),
    }
}

/// Whoever writes http:// as an endpoint means it.
fn with_plain_http(
    options: ClientOptions,
    endpoints: &[&str],
    settings: &Settings,
) -> ClientOptions {
    let endpoint = endpoints.iter().find_map(|name| settings.get(name));
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    if is_plain {
        options.with_config(ClientConfigKey::AllowHttp, "true")
    } else {
        options
    }
}

/// Why a store cannot be built from the variables that begin with `prefix`.
fn unusable(prefix: &str, error: &object_store::Error) -> String {
    let reason = redact(&gleaner_schemas::failure::error_chain(error));
    format!("its store cannot be set up from the variables {prefix}* of the environment: {reason}")
}

fn s3(
    url: &Url,
    connector: impl HttpConnector,
    settings: &Settings,
) -> Result<Arc<dyn ObjectStore>, String> {
    let options = settings.client_options(Some(S3_CERTIFICATES_VARIABLE))?;
    let mut builder = AmazonS3Builder::new()
        .with_client_options(with_plain_http(options, &S3_ENDPOINTS, settings))
        .with_retry(settings.retry()?)
        .with_http_connector(connector);
    for (key, value) in settings.keys("AWS_") {
        if let Ok(key) = key.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder.with_url(url.as_str()).build();
    Ok(Arc::new(store.map_err(|error| unusable("AWS_", &error))?))
}

fn google(
    url: &Url,
    connector: impl HttpConnector,
    settings: &Settings,
) -> Result<Arc<dyn ObjectStore>, String> {
    let options = settings.client_options(None)?;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(with_plain_http(options, &GOOGLE_ENDPOINTS, settings))
        .with_retry(settings.retry()?)
        .with_http_connector(connector);
    for (key, value) in settings.keys("GOOGLE_") {
        if let Ok(key) = key.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder.with_url(url.as_str()).build();
    Ok(Arc::new(
        store.map_err(|error| unusable("GOOGLE_", &error))?,
    ))
}

fn azure(
    url: &Url,
    connector: impl HttpConnector,
    settings: &Settings,
) -> Result<Arc<dyn ObjectStore>, String> {
    let options = settings.client_options(None)?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_client_options(with_plain_http(options, &AZURE_ENDPOINTS, settings))
        .with_retry(settings.retry()?)
        .with_http_connector(connector);
    for (key, value) in settings.keys("AZURE_") {
        if let Ok(key) = key.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder.with_url(url.as_str()).build();
    Ok(Arc::new(store.map_err(|error| unusable("AZURE_", &error))?))
}

fn http(
    url: &Url,
    connector: impl HttpConnector,
    settings: &Settings,
) -> Result<Arc<dyn ObjectStore>, String> {
    let options = settings
        .client_options(None)?
        .with_allow_http(url.scheme() == "http");
    let store = HttpBuilder::new()
        .with_url(&url[..url::Position::BeforePath])
        .with_client_options(options)
        .with_retry(settings.retry()?)
        .with_http_connector(connector)
        .build();
    Ok(Arc::new(store.map_err(|error| redact(&error.to_string()))?))
}
