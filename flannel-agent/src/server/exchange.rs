//! One request and its answer, by hyper, which keeps two buffers of 8 KiB as long as it has a connection. So it gets it with the
//! first byte of a request, and gives it back as soon as the answer has left, or once an answer is begun that may take long.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::caller::Caller;
use super::networks::Networks;
use super::room::Guest;
use super::service::answer;
use super::turn::{Telling, Turn};
use super::wire::Wire;

/// For a request's head.
const HEAD: Duration = Duration::from_secs(30);
/// What hyper needs at least; a head has a few hundred bytes, and who has more is refused.
const BUFFER: usize = 8 << 10;

/// What a connection does next.
pub(super) enum Next<S> {
    /// It has ended.
    Over,
    /// Waits for a request.
    Request(Wire<S>),
    /// Is told something, of which the head has been sent.
    Tell(Wire<S>, Telling),
}

/// Reads a request and answers it.
pub(super) async fn exchange<S>(
    wire: Wire<S>,
    caller: &Caller,
    networks: &Arc<Networks>,
    guest: &Guest,
) -> Result<Next<S>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let turn = Arc::new(Turn::default());
    let flushed = wire.flushed();
    let service = service_fn(|request| {
        guest.settle();
        turn.begin(&request);
        Box::pin(answer(networks, caller, request, Arc::clone(&turn)))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(wire), service);
    let ended = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(ended) => Poll::Ready(ended.map(|()| true)),
        Poll::Pending if turn.is_over() && flushed.load(Ordering::Relaxed) => {
            Poll::Ready(Ok(false))
        }
        Poll::Pending => Poll::Pending,
    });
    if ended.await? {
        return Ok(Next::Over);
    }
    let parts = connection.into_parts();
    let mut wire = parts.io.into_inner();
    wire.put_back(parts.read_buf);
    Ok(match turn.telling() {
        Some(telling) => Next::Tell(wire, telling),
        None => Next::Request(wire),
    })
}
