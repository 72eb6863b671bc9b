//! One connection to a server: HTTP/1.1, one request at a time.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::base::causes;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
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
        let dial = async {
            let tcp = dial(server).await?;
            let Some(tls) = tls.filter(|_| server.https) else {
                return start(tcp).await;
            };
            let name = ServerName::try_from(server.host.clone());
            let name = name.map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await;
            let stream = stream.map_err(|error| causes::append("TLS".to_owned(), Some(&error)))?;
            start(stream).await
        };
        match timeout(CONNECT_TIMEOUT, dial).await {
            Ok(connection) => connection,
            Err(_) => Err(format!("no answer in {} s", CONNECT_TIMEOUT.as_secs())),
        }
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

async fn dial(server: &Server) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((&*server.host, server.port)).await;
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
