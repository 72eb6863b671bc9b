//! One connection to the API server: HTTP/2 where it speaks that, with pings, so that a server that is gone without a word is
//! noticed; else HTTP/1.1, where the kernel's keep-alive has to do.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::error::AccessError;
use crate::base::causes;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that vanished without a FIN is noticed after these two.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The same by the kernel: three probes without an answer.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Where the API server is.
#[derive(Debug, Clone)]
pub(super) struct Server {
    /// For messages.
    pub(super) url: String,
    /// Host and port, as in the Host header.
    pub(super) authority: String,
    host: String,
    port: u16,
    /// In front of every path, without a slash at its end.
    pub(super) path: String,
    pub(super) https: bool,
}

impl Server {
    /// As client-go reads it; without a scheme it is https if there is anything to do with TLS.
    pub(super) fn parse(url: &str, tls: bool) -> Result<Self, AccessError> {
        let bad = |problem| AccessError::Url {
            url: url.to_owned(),
            problem,
        };
        let full = match (url.contains("://"), tls) {
            (true, _) => url.to_owned(),
            (false, true) => format!("https://{url}"),
            (false, false) => format!("http://{url}"),
        };
        let uri: Uri = full.parse().map_err(|_| bad("no URL"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("neither http nor https")),
        };
        if uri.query().is_some() {
            return Err(bad("something behind the path"));
        }
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| bad("no host"))?;
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self {
            authority: format!("{host}:{port}"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
            https,
            url: full,
        })
    }
}

/// A way to send requests. HTTP/1.1 takes a connection for each.
#[derive(Debug)]
pub(super) enum Connection {
    Many(http2::SendRequest<Full<Bytes>>),
    One(http1::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects; the text of a failure is of use to people only.
    pub(super) async fn open(
        server: &Server,
        name: Option<&str>,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, String> {
        let dial = async {
            let tcp = dial(server).await?;
            let Some(tls) = tls.filter(|_| server.https) else {
                return one(tcp).await;
            };
            let name = name.unwrap_or(&server.host).to_owned();
            let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await;
            let stream = stream.map_err(|error| causes::append("TLS".to_owned(), Some(&error)))?;
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => many(stream).await,
                _ => one(stream).await,
            }
        };
        match timeout(CONNECT_TIMEOUT, dial).await {
            Ok(connection) => connection,
            Err(_) => Err(format!("no answer in {} s", CONNECT_TIMEOUT.as_secs())),
        }
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Many(sender) => sender.send_request(request).await,
            Self::One(sender) => sender.send_request(request).await,
        }
    }

    /// For others to use at the same time.
    pub(super) fn share(&self) -> Option<Self> {
        match self {
            Self::Many(sender) if !sender.is_closed() => Some(Self::Many(sender.clone())),
            _ => None,
        }
    }
}

async fn dial(server: &Server) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((&*server.host, server.port)).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let keep_alive = TcpKeepalive::new()
        .with_time(PING_INTERVAL)
        .with_interval(PROBE_INTERVAL)
        .with_retries(PROBES);
    let socket = SockRef::from(&stream);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keep_alive))
        // Also while something that was sent waits for its acknowledgement, when nobody probes.
        .and_then(|()| socket.set_tcp_user_timeout(Some(PING_INTERVAL + PING_TIMEOUT)));
    set.map_err(|error| error.to_string())?;
    Ok(stream)
}

async fn many<S>(stream: S) -> Result<Connection, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| describe(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("the connection to the API server: {}", describe(&error));
        }
    });
    Ok(Connection::Many(sender))
}

async fn one<S>(stream: S) -> Result<Connection, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| describe(&error))?;
    tokio::spawn(connection);
    Ok(Connection::One(sender))
}

/// hyper's own words only say at which step.
pub(super) fn describe(error: &hyper::Error) -> String {
    causes::append(error.to_string(), std::error::Error::source(error))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use rstest::rstest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    /// How long a half-dead connection may go unnoticed.
    const PROMISED: Duration = Duration::from_secs(30);

    #[rstest]
    #[case("https://192.0.2.1:6443", false, "192.0.2.1:6443", "", true)]
    #[case("https://api.example/k8s/x/", false, "api.example:443", "/k8s/x", true)]
    #[case("http://[::1]:8080", false, "[::1]:8080", "", false)]
    #[case("192.0.2.1:8080", false, "192.0.2.1:8080", "", false)]
    #[case("192.0.2.1:6443", true, "192.0.2.1:6443", "", true)]
    fn urls(
        #[case] url: &str,
        #[case] tls: bool,
        #[case] authority: &str,
        #[case] path: &str,
        #[case] https: bool,
    ) {
        let server = Server::parse(url, tls).unwrap();
        assert_eq!(server.authority, authority);
        assert_eq!((&*server.path, server.https), (path, https));
    }

    #[rstest]
    #[case("", "no URL")]
    #[case("ftp://x", "neither http nor https")]
    #[case("https://x/?a", "behind the path")]
    fn bad_urls_are_named(#[case] url: &str, #[case] part: &str) {
        let error = Server::parse(url, false).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    /// What a server of HTTP/2 says: its settings, and that it has ours; then status 200 with more to come.
    const HELLO: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
    const STATUS_200: &[u8] = &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
    const PREFACE: usize = 24;
    const FRAME_HEADER: usize = 9;
    /// Type of a frame that begins a request.
    const HEADERS: u8 = 1;

    /// Reads until a request has come.
    async fn request_of(client: &mut DuplexStream) {
        client.read_exact(&mut [0; PREFACE]).await.unwrap();
        let mut header = [0; FRAME_HEADER];
        while header[3] != HEADERS {
            client.read_exact(&mut header).await.unwrap();
            let len = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut body = vec![0; len.try_into().unwrap()];
            client.read_exact(&mut body).await.unwrap();
        }
    }

    /// Nothing that the server might send would come, and no FIN tells: half a minute is promised. In virtual time.
    #[rstest]
    #[case::before_it_answers(false)]
    #[case::in_the_middle_of_a_watch(true)]
    #[tokio::test(start_paused = true)]
    async fn a_server_that_falls_silent_is_given_up_within_30_s(#[case] answers: bool) {
        // Held to the end: what is sent there finds room, and nobody reads it.
        let (ours, mut server) = tokio::io::duplex(1 << 20);
        server.write_all(HELLO).await.unwrap();
        let mut connection = many(ours).await.unwrap();
        let silent = Instant::now();
        let watch = Request::get("http://api/").body(Full::default()).unwrap();
        let speak = async {
            request_of(&mut server).await;
            if answers {
                server.write_all(STATUS_200).await.unwrap();
            }
        };
        let (answer, ()) = tokio::join!(connection.send(watch), speak);
        assert_eq!(answer.is_ok(), answers, "{answer:?}");
        if let Ok(mut answer) = answer {
            let event = answer.body_mut().frame().await;
            assert!(matches!(event, Some(Err(_))), "{event:?}");
        }
        assert!(silent.elapsed() <= PROMISED, "{:?}", silent.elapsed());
        assert!(connection.share().is_none(), "nobody gets it any more");
    }

    /// Where it speaks HTTP/1.1 alone, the kernel is told to notice.
    #[tokio::test]
    async fn the_kernel_gives_it_up_within_30_s() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stream = dial(&Server::parse(&url, false).unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let probes = socket.tcp_keepalive_retries().unwrap();
        let idle = socket.tcp_keepalive_time().unwrap()
            + socket.tcp_keepalive_interval().unwrap() * probes;
        assert!(idle <= PROMISED, "{idle:?}");
        let unacknowledged = socket.tcp_user_timeout().unwrap().unwrap();
        assert!(unacknowledged <= PROMISED, "{unacknowledged:?}");
    }
}
