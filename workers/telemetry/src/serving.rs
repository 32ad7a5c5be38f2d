//! An HTTP server that listens first and answers later, so that whoever starts it knows at once
//! whether the address is free.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::TelemetryError;

/// Connections that are open at the end get no more time than this.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// An address that is listened on.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// Listens on an address; port 0 takes any.
    ///
    /// # Errors
    ///
    /// If the address is taken, or not of this machine.
    pub async fn bind(address: SocketAddr) -> Result<Self, TelemetryError> {
        let listening = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        listening
            .await
            .map_err(|source| TelemetryError::Listen { address, source })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` ends. What is being answered then gets a moment more.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()> + Send + 'static) {
        let (stop, stopping) = watch::channel(false);
        let stopped = |mut stopping: watch::Receiver<bool>| async move {
            // The sender lives until the server has ended.
            let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
        };
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(stopped(stopping));
        let end = async {
            shutdown.await;
            stop.send_replace(true);
            tokio::time::sleep(CLOSE_MAX).await;
        };
        tokio::select! {
            // It retries what can be retried by itself, so it ends only when it is told to.
            _ = serving => {}
            () = end => {}
        }
    }
}
