//! One client's connection: slow ones hold nobody but themselves, and those that are gone are noticed.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::caller::Caller;
use super::networks::Networks;
use super::service::answer;
use crate::base::options::Authorize;
use crate::settings::remote::ServerOptions;
use crate::source::remote::server_config;

/// For the handshake, for a request's head, and between two requests.
const HASTE: Duration = Duration::from_secs(30);
/// A peer that vanished without a FIN, or reads nothing, is noticed after these.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
const UNREAD: Duration = Duration::from_secs(60);
/// What hyper needs at least; a head has a few hundred bytes.
const BUFFER: usize = 8 << 10;

/// How connections are taken.
#[derive(Debug, Clone)]
pub(super) struct Door {
    tls: Option<Arc<ServerConfig>>,
    authorize: Authorize,
}

impl Door {
    pub(super) fn new(options: &ServerOptions) -> anyhow::Result<Self> {
        let tls = options.tls.as_ref().map(server_config).transpose()?;
        Ok(Self {
            tls,
            authorize: options.authorize,
        })
    }

    /// Answers all requests of one connection.
    pub(super) fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        networks: Arc<Networks>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (tls, authorize) = (self.tls.clone(), self.authorize);
        // Each step in a box of its own: thousands of connections are in the last one.
        async move {
            prepare(&stream);
            let served = match tls {
                None => http(stream, Caller::new(authorize, None), networks).await,
                Some(tls) => {
                    let Some(stream) = Box::pin(encrypted(tls, stream, peer)).await else {
                        return;
                    };
                    let certificates = stream.get_ref().1.peer_certificates();
                    let certificate = certificates.and_then(<[_]>::first);
                    let caller = Caller::new(authorize, certificate);
                    http(stream, caller, networks).await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%peer, "connection ended: {error}");
            }
        }
    }
}

async fn encrypted(
    tls: Arc<ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<Box<TlsStream<TcpStream>>> {
    let accepted = TlsAcceptor::from(tls).accept(stream);
    match tokio::time::timeout(HASTE, accepted).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::info!(%peer, "no TLS: {error}");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "no TLS handshake in {} s", HASTE.as_secs());
            None
        }
    }
}

fn http<S>(
    stream: S,
    caller: Caller,
    networks: Arc<Networks>,
) -> Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(Arc::clone(&networks), caller.clone(), request));
    Box::pin(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HASTE)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service),
    )
}

/// What the kernel refuses of it is no reason to refuse the client.
fn prepare(stream: &TcpStream) {
    let keep_alive = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL)
        .with_retries(PROBES);
    let socket = SockRef::from(stream);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keep_alive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNREAD)));
    if let Err(error) = set {
        tracing::debug!("cannot prepare a connection: {error}");
    }
}
