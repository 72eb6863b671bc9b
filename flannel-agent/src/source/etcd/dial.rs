//! Connections to etcd by TLS. tonic's own would show the certificate that it was given once, and not every one (see
//! [`identity`](crate::source::identity)).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;

/// For a TCP connection, and again for its TLS. A host that is gone answers nothing; its neighbour should get its turn soon.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What tonic calls for each connection.
#[derive(Debug, Clone)]
pub(super) struct Dialer(pub(super) Arc<ClientConfig>);

type Dialing = dyn Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send;

impl Service<Uri> for Dialer {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<Dialing>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = TlsConnector::from(self.0.clone());
        // Gives each address of a name its share of the time, and both families a chance.
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let stream = tcp.call(uri).await.map_err(io::Error::other)?;
            let handshake = connector.connect(name, stream.into_inner());
            Ok(TokioIo::new(timeout(CONNECT_TIMEOUT, handshake).await??))
        })
    }
}
