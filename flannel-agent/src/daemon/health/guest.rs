//! Connections to the health endpoints: so many at once, and none that does nothing for long.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Probes and scrapers are a handful.
const MOST: usize = 64;
/// Without a byte either way. Scrapers that keep a connection between two scrapes open another one.
const IDLE: Duration = Duration::from_secs(30);

/// Whoever comes when all places are taken gets the place of the oldest guest: those who hold connections and do nothing cannot keep
/// the node's own probe out.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    guests: VecDeque<(Weak<()>, CancellationToken)>,
    most: usize,
    idle: Duration,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self::with_limits(listener, MOST, IDLE)
    }

    fn with_limits(listener: TcpListener, most: usize, idle: Duration) -> Self {
        Self {
            listener,
            guests: VecDeque::new(),
            most,
            idle,
        }
    }

    fn admit(&mut self, stream: TcpStream) -> Guest {
        self.guests.retain(|(alive, _)| alive.strong_count() > 0);
        while self.guests.len() >= self.most {
            if let Some((_, end)) = self.guests.pop_front() {
                end.cancel();
            }
        }
        let (alive, end) = (Arc::new(()), CancellationToken::new());
        self.guests.push_back((Arc::downgrade(&alive), end.clone()));
        Guest {
            stream,
            ended: Box::pin(end.cancelled_owned()),
            idle: self.idle,
            patience: Box::pin(sleep(self.idle)),
            _alive: alive,
        }
    }
}

impl axum::serve::Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        // Its own answer to a failed accept (no more file descriptors) is to wait a second.
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        (self.admit(stream), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Guest {
    stream: TcpStream,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    idle: Duration,
    patience: Pin<Box<Sleep>>,
    _alive: Arc<()>,
}

impl Guest {
    /// Nothing moved: whether it has to go.
    fn waits<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let is_ended = self.ended.as_mut().poll(cx).is_ready();
        if !is_ended {
            ready!(self.patience.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn moved(&mut self) {
        let until = Instant::now() + self.idle;
        self.patience.as_mut().reset(until);
    }

    fn step<T>(&mut self, step: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if step.is_pending() {
            return self.waits(cx);
        }
        self.moved();
        step
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.step(step, cx)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.step(step, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.step(step, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LONG: Duration = Duration::from_hours(1);
    const LARGE: usize = 64 << 20;

    async fn served(most: usize, idle: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // More than the buffers of a connection that nobody reads hold.
        let large = axum::body::Bytes::from("x".repeat(LARGE));
        let app = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/large", get(move || async move { large }));
        let door = Door::with_limits(listener, most, idle);
        tokio::spawn(axum::serve(door, app).into_future());
        address
    }

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Everything until the other side ends it, one way or the other.
    async fn rest(mut stream: TcpStream) -> usize {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        all.len()
    }

    #[tokio::test]
    async fn who_does_not_read_keeps_nobody_out() {
        let address = served(4, LONG).await;
        let mut idle = Vec::new();
        for n in 0..40 {
            idle.push(ask(address, "/large").await);
            idle.push(TcpStream::connect(address).await.unwrap());
            assert_ne!(rest(ask(address, "/").await).await, 0, "{n}");
        }
        // The oldest had to go.
        for stream in idle.drain(..60) {
            assert!(rest(stream).await < LARGE);
        }
    }

    #[tokio::test]
    async fn who_does_nothing_goes() {
        let address = served(4, Duration::from_millis(50)).await;
        let silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(rest(silent).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn as_long_as_something_moves_it_is_waited_for() {
        // The clock moves by itself while everybody waits, but not beside a blocking task.
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let clock = tokio::task::spawn_blocking(move || ended.recv());
        let address = served(4, Duration::from_secs(10)).await;
        let mut stream = ask(address, "/large").await;
        tokio::time::advance(Duration::from_secs(6)).await;
        // More than the buffers held before: it has moved since.
        stream.read_exact(&mut vec![0; LARGE / 2]).await.unwrap();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(rest(stream).await > LARGE / 2);
        drop(end);
        clock.await.unwrap().unwrap_err();
    }
}
