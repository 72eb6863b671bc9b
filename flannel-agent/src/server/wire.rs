//! A connection's bytes: what was read of it before anybody asked for it, and whether all that was written has left.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// So much is read before a connection gets a buffer.
const BEGINNING: usize = 64;

/// One connection.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    /// Comes before whatever the stream has.
    before: Bytes,
    /// Shared with who watches while hyper has the wire.
    flushed: Arc<AtomicBool>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            before: Bytes::new(),
            flushed: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Whether nothing that was written waits in here, also while somebody else has the wire.
    pub(super) fn flushed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flushed)
    }

    /// Gives back what was read too much.
    pub(super) fn put_back(&mut self, unread: Bytes) {
        if self.before.is_empty() {
            // A few bytes do not hold the buffer that they were read into.
            self.before = Bytes::copy_from_slice(&unread);
        } else {
            self.before = [unread, self.before.split_off(0)].concat().into();
        }
    }

    /// Whether the other end says anything more: waits for it, in next to no memory.
    pub(super) async fn begins(&mut self) -> io::Result<bool> {
        if self.before.is_empty() {
            let mut beginning = [0; BEGINNING];
            let read = self.stream.read(&mut beginning).await?;
            self.before = Bytes::copy_from_slice(&beginning[..read]);
        }
        Ok(!self.before.is_empty())
    }

    /// Returns when the other end is gone. What it says meanwhile waits.
    pub(super) async fn ends(&mut self) {
        if let Ok(true) = self.begins().await {
            std::future::pending::<()>().await;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.before.len().min(buffer.remaining());
        buffer.put_slice(&self.before[..length]);
        self.before.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.flushed.store(true, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn what_was_read_too_early_is_read_first() {
        let (mut client, stream) = tokio::io::duplex(1024);
        let mut wire = Wire::new(stream);
        client.write_all(b"one two three").await.unwrap();
        assert!(wire.begins().await.unwrap());
        assert!(wire.begins().await.unwrap(), "nothing is read twice");
        let mut read = [0; 4];
        wire.read_exact(&mut read).await.unwrap();
        wire.put_back(Bytes::copy_from_slice(&read));
        drop(client);
        let mut all = String::new();
        wire.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "one two three");
        assert!(!wire.begins().await.unwrap());
        wire.ends().await;
    }

    #[tokio::test]
    async fn what_the_other_end_does_not_take_is_not_flushed() {
        let (client, stream) = tokio::io::duplex(4);
        let mut wire = Wire::new(stream);
        let flushed = wire.flushed();
        assert!(flushed.load(Ordering::Relaxed));
        wire.write_all(b"1234").await.unwrap();
        let writing = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            wire.write_all(b"5").await.unwrap();
            wire.flush().await.unwrap();
        }));
        tokio::task::yield_now().await;
        assert!(!flushed.load(Ordering::Relaxed));
        let mut client = client;
        client.read_exact(&mut [0; 5]).await.unwrap();
        writing.await.unwrap();
        assert!(flushed.load(Ordering::Relaxed));
    }
}
