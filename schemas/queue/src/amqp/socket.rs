//! The network connection under the client: TLS, and a handle to end it from outside.
//!
//! The client runs each connection on a thread of its own, which waits for the broker for as long
//! as the socket lives. Whoever gives a connection up must end the socket, or each attempt on a
//! broker that accepts and says nothing would leave a thread behind.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{
    AMQPUriTcpExt as _, AsyncTcpStream, RustlsConnector, RustlsConnectorConfig, TLSConfig,
};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::QueueError;

/// Ends a network connection: when asked to, and when the last clone is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Plug(Arc<PlugState>);

#[derive(Debug, Default)]
struct PlugState(Mutex<Socket>);

#[derive(Debug, Default)]
enum Socket {
    #[default]
    NotYet,
    Open(TcpStream),
    Ended,
}

impl Plug {
    /// Ends the connection, or prevents it where it is not open yet.
    pub(super) fn pull(&self) {
        self.0.end();
    }
}

impl PlugState {
    /// `false` if the connection is to end before it began.
    fn hold(&self, handle: TcpStream) -> bool {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = matches!(*socket, Socket::NotYet);
        if wanted {
            *socket = Socket::Open(handle);
        }
        wanted
    }

    fn end(&self) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Socket::Open(handle) = std::mem::replace(&mut *socket, Socket::Ended) {
            // It may have ended by itself, which is as good.
            let _ = handle.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for PlugState {
    fn drop(&mut self) {
        self.end();
    }
}

/// Opens a connection on which the client speaks. The client's thread ends once the connection is
/// closed or `plug` is pulled.
pub(super) async fn open(
    uri: AMQPUri,
    tls: Option<Arc<RustlsConnector>>,
    properties: ConnectionProperties,
    timeout: Duration,
    plug: &Plug,
) -> lapin::Result<Connection> {
    let state = Arc::clone(&plug.0);
    Connection::connector(
        uri,
        lapin::runtime::default_runtime()?,
        async move |uri: AMQPUri, runtime| {
            let (state, tls) = (Arc::clone(&state), tls.clone());
            let connected = tokio::time::timeout(timeout, async move {
                let plain = AMQPUri {
                    scheme: AMQPScheme::AMQP,
                    ..uri.clone()
                };
                let stream = plain
                    .connect_with_config_async(TLSConfig::default(), &runtime)
                    .await?;
                #[cfg(unix)]
                if let AsyncTcpStream::Plain(stream) = &stream {
                    use std::os::fd::AsFd as _;
                    let handle = stream.get_ref().as_fd().try_clone_to_owned()?;
                    if !state.hold(TcpStream::from(handle)) {
                        return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
                    }
                }
                match &tls {
                    Some(tls) => stream.into_rustls(tls, &uri.authority.host).await,
                    None => Ok(stream),
                }
            });
            match connected.await {
                Ok(connected) => Ok(connected?),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        },
        properties,
    )
    .await
}

/// Whom to trust: the certificates of `ca_file` alone, or else the system's.
pub(super) async fn tls(ca_file: Option<&Path>) -> Result<Arc<RustlsConnector>, QueueError> {
    let refuse = |message: String, help: &str| QueueError::Refused {
        message,
        help: help.to_owned(),
    };
    let config = match ca_file {
        Some(path) => {
            let help = "give a file with certificates in PEM";
            let refuse =
                |why: String| refuse(format!("the CA file {} {why}", path.display()), help);
            let pem = tokio::fs::read(path)
                .await
                .map_err(|error| refuse(format!("cannot be read: {error}")))?;
            let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|error| refuse(format!("is not PEM: {error}")))?;
            if certificates.is_empty() {
                return Err(refuse("holds no certificate".to_owned()));
            }
            RustlsConnectorConfig::default().with_parsable_certificates(certificates)
        }
        None => RustlsConnectorConfig::new_with_native_certs().map_err(|error| {
            refuse(
                format!("this machine has no certificates to check the broker's against: {error}"),
                "install the package ca-certificates, or give a CA file for the queue",
            )
        })?,
    };
    match config.connector_with_no_client_auth() {
        Ok(connector) => Ok(Arc::new(connector)),
        Err(error) => Err(refuse(
            format!("cannot set up TLS: {error}"),
            "check the certificates of the CA file",
        )),
    }
}
