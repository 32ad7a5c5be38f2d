//! What a program tells about itself while it runs: log lines, metrics, health.
//!
//! Nothing here is sent anywhere: whoever wants to know asks, at the address that the program was
//! given.
//!
//! ```no_run
//! # async fn run(stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Box<dyn std::error::Error>> {
//! use gleaner_telemetry::{HealthServer, Metrics, Readiness, parse_address};
//!
//! let readiness = Readiness::new("not connected to the broker");
//! let server = HealthServer::bind(parse_address("8080")?).await?;
//! let serving = tokio::spawn(server.serve(readiness.clone(), Metrics::install()?, stop));
//! readiness.ready();
//! serving.await?;
//! # Ok(())
//! # }
//! ```

mod address;
mod health;
pub mod log;
mod metrics;
mod serving;

pub use address::parse_address;
pub use health::{HealthServer, Readiness, serve};
pub use metrics::Metrics;
pub use serving::Listening;

/// What could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody collects metrics in this process already.
    #[error("metrics are collected twice in one process")]
    Metrics,
}
