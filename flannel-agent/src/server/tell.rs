//! An answer that may take long, once its head has been sent: here there are no buffers, since most clients wait most of the time.

use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use hyper::body::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::poll::Word;
use super::turn::Telling;
use super::wire::Wire;

/// For whoever reads an answer: 20 MB, of a hundred thousand nodes, over a slow line. Until then it is kept for him.
const READING: Duration = Duration::from_mins(1);

/// Tells until the answer is whole; whether another request may follow.
pub(super) async fn tell<S>(wire: &mut Wire<S>, mut telling: Telling) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let chunked = telling.chunked;
    loop {
        let word = tokio::select! {
            word = telling.words.next() => word,
            () = wire.ends() => return Ok(false),
        };
        let answer = match word {
            Some(Word::Blank) => None,
            Some(Word::Answer(answer)) => Some(answer),
            // The answer stays without an end, and whoever waits asks anew.
            Some(Word::Void) | None => return Ok(false),
        };
        let said = answer.as_ref().map(|answer| answer.bytes());
        let said = said.unwrap_or_else(|| Bytes::from_static(b" "));
        let (before, behind) = frame(said.len(), chunked, answer.is_some());
        let mut all = before.as_bytes().chain(said).chain(behind.as_bytes());
        let written = async {
            wire.write_all_buf(&mut all).await?;
            wire.flush().await
        };
        let cut = async {
            match &answer {
                Some(answer) => answer.cut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            written = timeout(READING, written) => written.map_err(|_| io::ErrorKind::TimedOut)??,
            // See `Stock`: others need its room.
            () = cut => return Err(io::ErrorKind::OutOfMemory.into()),
        }
        let whole = answer.is_some();
        if whole {
            return Ok(telling.goes_on);
        }
    }
}

/// What is around a part of an answer.
fn frame(length: usize, chunked: bool, whole: bool) -> (String, &'static str) {
    match (chunked, whole) {
        (false, _) => (String::new(), ""),
        (true, false) => (format!("{length:x}\r\n"), "\r\n"),
        (true, true) => (format!("{length:x}\r\n"), "\r\n0\r\n\r\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::stream;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::server::stock::Stock;

    fn answer(text: &'static str) -> Word {
        Word::Answer(Arc::new(Stock::default()).keep(text))
    }

    fn telling(words: Vec<Word>, chunked: bool) -> Telling {
        Telling {
            words: stream::iter(words).chain(stream::pending()).boxed(),
            chunked,
            goes_on: chunked,
        }
    }

    /// What a client hears, and whether the connection goes on.
    async fn heard(words: Vec<Word>, chunked: bool) -> (String, bool) {
        let (mut client, stream) = tokio::io::duplex(1024);
        let mut wire = Wire::new(stream);
        let goes_on = tell(&mut wire, telling(words, chunked)).await.unwrap();
        drop(wire);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        (text, goes_on)
    }

    #[tokio::test]
    async fn blanks_and_the_answer_are_chunks_or_plain() {
        let words = || vec![Word::Blank, answer("0123456789")];
        let chunks = "1\r\n \r\na\r\n0123456789\r\n0\r\n\r\n".to_owned();
        assert_eq!(heard(words(), true).await, (chunks, true));
        assert_eq!(
            heard(words(), false).await,
            (" 0123456789".to_owned(), false)
        );
        let nothing = ("1\r\n \r\n".to_owned(), false);
        assert_eq!(heard(vec![Word::Blank, Word::Void], true).await, nothing);
    }

    #[tokio::test]
    async fn who_goes_away_is_told_nothing() {
        let (client, stream) = tokio::io::duplex(1024);
        let mut wire = Wire::new(stream);
        drop(client);
        assert!(!tell(&mut wire, telling(Vec::new(), true)).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_given_up() {
        let (_client, stream) = tokio::io::duplex(4);
        let mut wire = Wire::new(stream);
        let words = vec![answer("0123456789")];
        let error = tell(&mut wire, telling(words, true)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
    #[tokio::test]
    async fn who_has_not_read_gives_way_to_others() {
        let (_client, stream) = tokio::io::duplex(4);
        let mut wire = Wire::new(stream);
        let stock = Arc::new(Stock::default());
        let unread = stock.keep("0123456789");
        let words = vec![Word::Answer(Arc::clone(&unread))];
        let telling = tokio::spawn(async move { tell(&mut wire, telling(words, true)).await });
        // As long as the rest of what there may be, and one byte more.
        let _others: Vec<_> = (0..2).map(|_| stock.keep(vec![0; 64 << 20])).collect();
        let error = telling.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert!(unread.is_cut());
    }
}
