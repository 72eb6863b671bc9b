//! One connection to a server: HTTP/1.1, one request at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::base::causes;

/// For a TCP connection, and again for its TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For the addresses of a name: where the first nameserver is dead, the resolver asks the next after 5 s, each time.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(15);
/// Who has not taken a connection by then may be dead, and the next address of the name is tried as well.
const HEAD_START: Duration = Duration::from_millis(300);
/// A peer that vanished without a FIN is noticed by the kernel after these, also where the server breaks no silence.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// Host and port, as in the Host header and in messages.
    pub(super) authority: String,
    host: String,
    port: u16,
    pub(super) https: bool,
}

impl Server {
    /// Without a scheme it is https if there is anything to do with TLS, as in flannel 0.7.
    pub(super) fn parse(text: &str, tls: bool) -> Result<Self, &'static str> {
        let (https, authority) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err("neither http nor https"),
            None => (tls, text),
        };
        let uri: Uri = format!("http://{}", authority.trim_end_matches('/'))
            .parse()
            .map_err(|_| "that is no host and port")?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err("there is something behind the port");
        }
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or("there is no host")?;
        let port = uri.port_u16().filter(|port| *port != 0);
        let port = port.ok_or("there is no port from 1 to 65535")?;
        Ok(Self {
            authority: format!("{host}:{port}"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            https,
        })
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Connection(http1::SendRequest<Full<Bytes>>);

impl Connection {
    /// Connects; the text of a failure is of use to people only.
    pub(super) async fn open(
        server: &Server,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, String> {
        let tcp = dial(server).await?;
        let Some(tls) = tls.filter(|_| server.https) else {
            return start(tcp).await;
        };
        let name = ServerName::try_from(server.host.clone());
        let name = name.map_err(|error| error.to_string())?;
        let handshake = TlsConnector::from(tls.clone()).connect(name, tcp);
        let stream = within(CONNECT_TIMEOUT, "no answer", handshake).await?;
        start(stream.map_err(|error| causes::append("TLS".to_owned(), Some(&error)))?).await
    }

    /// Whether another request can be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        // The answer before has been read to its end, which the other half may not know yet.
        self.0.ready().await.map_err(|error| describe(&error))?;
        let sent = self.0.send_request(request).await;
        sent.map_err(|error| describe(&error))
    }
}

async fn within<T>(
    limit: Duration,
    lack: &str,
    done: impl Future<Output = T>,
) -> Result<T, String> {
    let done = timeout(limit, done).await;
    done.map_err(|_| format!("{lack} in {} s", limit.as_secs()))
}

async fn dial(server: &Server) -> Result<TcpStream, String> {
    let addresses = lookup_host((&*server.host, server.port));
    let addresses = within(RESOLVE_TIMEOUT, "no address of that name", addresses).await?;
    let addresses = addresses.map_err(|error| error.to_string())?.collect();
    let stream = within(CONNECT_TIMEOUT, "no answer", connect(addresses)).await?;
    let stream = stream.map_err(|error| error.to_string())?;
    let keep_alive = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL)
        .with_retries(PROBES);
    let socket = SockRef::from(&stream);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keep_alive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED)));
    set.map_err(|error| error.to_string())?;
    Ok(stream)
}

/// To the first of these that takes it. One that is dead has no more than a head start.
async fn connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("the name has no address");
    let mut next = addresses.into_iter();
    let mut begun = FuturesUnordered::new();
    loop {
        if let Some(address) = next.next() {
            begun.push(TcpStream::connect(address));
        }
        tokio::select! {
            connected = begun.next() => match connected {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failed = error,
                None => return Err(failed),
            },
            () = sleep(HEAD_START), if next.len() > 0 => {}
        }
    }
}

async fn start<S>(stream: S) -> Result<Connection, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| describe(&error))?;
    tokio::spawn(connection);
    Ok(Connection(sender))
}

/// hyper's own words only say at which step.
pub(super) fn describe(error: &hyper::Error) -> String {
    causes::append(error.to_string(), std::error::Error::source(error))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[rstest]
    #[case("10.0.0.3:8888", false, "10.0.0.3:8888", false)]
    #[case("10.0.0.3:8888", true, "10.0.0.3:8888", true)]
    #[case("http://10.0.0.3:8888/", true, "10.0.0.3:8888", false)]
    #[case("https://server.example:1", false, "server.example:1", true)]
    #[case("[fd00::1]:8888", false, "[fd00::1]:8888", false)]
    fn servers(
        #[case] text: &str,
        #[case] tls: bool,
        #[case] authority: &str,
        #[case] https: bool,
    ) {
        let server = Server::parse(text, tls).unwrap();
        assert_eq!((&*server.authority, server.https), (authority, https));
    }

    /// An address that answers nobody, as of a machine without power: its queue is full, and what else asks for a connection is dropped.
    async fn dead() -> (TcpListener, TcpStream) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let first = TcpStream::connect(listener.local_addr().unwrap()).await;
        (listener, first.unwrap())
    }

    #[tokio::test]
    async fn of_the_addresses_of_a_name_one_that_is_dead_holds_up_no_other() {
        let (dead, _first) = dead().await;
        let dead = dead.local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lives = listener.local_addr().unwrap();
        let refused = "127.0.0.1:1".parse().unwrap();
        for addresses in [
            vec![dead, lives],
            vec![refused, dead, lives],
            vec![lives, dead],
        ] {
            let stream = connect(addresses).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), lives);
        }
        let error = connect(vec![refused]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect(Vec::new()).await.is_err());
    }

    #[rstest]
    #[case("", "no host")]
    #[case("10.0.0.3", "no port")]
    #[case("10.0.0.3:0", "no port")]
    #[case("ftp://10.0.0.3:1", "neither http nor https")]
    #[case("10.0.0.3:8888/v1", "behind the port")]
    fn what_is_no_server(#[case] text: &str, #[case] part: &str) {
        let problem = Server::parse(text, false).unwrap_err();
        assert!(problem.contains(part), "{problem}");
    }
}
