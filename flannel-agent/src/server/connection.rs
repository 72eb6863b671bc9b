//! One client's connection: slow ones hold nobody but themselves, and those that are gone are noticed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::caller::Caller;
use super::exchange::{Next, exchange};
use super::networks::Networks;
use super::room::Guest;
use super::tell::tell;
use super::wire::Wire;
use crate::base::options::Authorize;
use crate::settings::remote::ServerOptions;
use crate::source::remote::ServerTls;

/// For the handshake, and between two requests.
const HASTE: Duration = Duration::from_secs(30);
/// For a request and its answer, with an etcd behind it of which several endpoints do not answer; or up to what may take longer.
const EXCHANGE: Duration = Duration::from_mins(2);
/// A peer that vanished without a FIN, or reads nothing, is noticed after these.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
const UNREAD: Duration = Duration::from_secs(60);

/// How connections are taken.
#[derive(Debug, Clone)]
pub(super) struct Door {
    tls: Option<Arc<ServerTls>>,
    authorize: Authorize,
}

impl Door {
    pub(super) fn new(options: &ServerOptions) -> anyhow::Result<Self> {
        let tls = options.tls.as_ref().map(ServerTls::new).transpose()?;
        Ok(Self {
            tls: tls.map(Arc::new),
            authorize: options.authorize,
        })
    }

    /// Answers all requests of one connection.
    pub(super) fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        guest: Guest,
        networks: Arc<Networks>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (tls, authorize) = (self.tls.clone(), self.authorize);
        // Each step in a box of its own: thousands of connections are in the one that needs least.
        async move {
            prepare(&stream);
            let served = guest.stay(async {
                let Some(tls) = tls else {
                    let caller = Caller::new(authorize, None);
                    return serve_all(stream, caller, networks, &guest).await;
                };
                let Some(stream) = Box::pin(encrypted(tls.now(), stream, peer)).await else {
                    return Ok(());
                };
                guest.settle();
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(<[_]>::first);
                let caller = Caller::new(authorize, certificate);
                serve_all(stream, caller, networks, &guest).await
            });
            let Some(served) = served.await else {
                tracing::debug!(%peer, "connection ended: somebody else needs its place");
                return;
            };
            if let Err(error) = served {
                tracing::debug!(%peer, "connection ended: {error:#}");
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
    match timeout(HASTE, accepted).await {
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

/// One request after the other.
async fn serve_all<S>(
    stream: S,
    caller: Caller,
    networks: Arc<Networks>,
    guest: &Guest,
) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut wire = Wire::new(stream);
    loop {
        let begins = timeout(HASTE, wire.begins()).await;
        if !begins.context("no request")?? {
            return Ok(());
        }
        let exchanged =
            Box::pin(timeout(EXCHANGE, exchange(wire, &caller, &networks, guest))).await;
        wire = match exchanged.context("a request took too long")?? {
            Next::Over => return Ok(()),
            Next::Request(wire) => wire,
            Next::Tell(mut wire, telling) => {
                if !tell(&mut wire, telling).await? {
                    return Ok(wire.shutdown().await?);
                }
                wire
            }
        };
    }
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
