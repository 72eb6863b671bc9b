//! TCP between hosts of the lab, from this process: bytes are compared, not only counted.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use crate::bytes::{assert_same, pattern};
use crate::host::Host;

const TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);

/// What a finished transfer looked like from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The client's address as the server saw it.
    pub client: SocketAddr,
}

/// A listening socket inside a host, on all addresses.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    port: u16,
}

impl Server {
    /// Listens on a free port.
    pub fn on(host: &(impl Host + ?Sized)) -> Self {
        Self::on_port(host, 0)
    }

    pub fn on_port(host: &(impl Host + ?Sized), port: u16) -> Self {
        let listener = host
            .netns()
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .expect("listen");
        let port = listener.local_addr().expect("a bound address").port();
        Self { listener, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next connection.
    pub fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("accept");
        stream
            .set_read_timeout(Some(TIMEOUT))
            .expect("set a time-out");
        stream
    }

    /// Sends `bytes` from `client` to this server by way of `to`, and the same bytes back.
    ///
    /// # Panics
    /// If a byte is lost or changed, or nothing moves for 20 s.
    #[track_caller]
    pub fn exchange(
        &self,
        client: &(impl Host + ?Sized),
        to: SocketAddrV4,
        bytes: usize,
    ) -> Transfer {
        let pattern = pattern(bytes);
        let stream = connect(client, to).unwrap_or_else(|e| panic!("connect to {to}: {e}"));
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (stream, client) = self.listener.accept().expect("accept");
                let got = receive(&stream, bytes, "client to server");
                assert_same(&pattern, &got, "client to server");
                send(&stream, &got, "server to client");
                Transfer { client }
            });
            send(&stream, &pattern, "client to server");
            let got = receive(&stream, bytes, "server to client");
            assert_same(&pattern, &got, "server to client");
            server
                .join()
                .unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }
}

/// Opens a connection from inside a host.
///
/// # Errors
/// When the other side refuses, or does not answer within 5 s.
pub fn connect(from: &(impl Host + ?Sized), to: SocketAddrV4) -> std::io::Result<TcpStream> {
    let stream = from
        .netns()
        .enter(|| TcpStream::connect_timeout(&to.into(), CONNECT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

#[track_caller]
fn send(mut stream: &TcpStream, bytes: &[u8], way: &str) {
    stream
        .write_all(bytes)
        .and_then(|()| stream.shutdown(Shutdown::Write))
        .unwrap_or_else(|e| panic!("send {} bytes, {way}: {e}", bytes.len()));
}

#[track_caller]
fn receive(mut stream: &TcpStream, expected: usize, way: &str) -> Vec<u8> {
    stream
        .set_read_timeout(Some(TIMEOUT))
        .expect("set a time-out");
    let mut bytes = Vec::new();
    if let Err(e) = stream.read_to_end(&mut bytes) {
        panic!("{} of {expected} bytes, {way}: {e}", bytes.len());
    }
    bytes
}
