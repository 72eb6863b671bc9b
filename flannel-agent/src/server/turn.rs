//! A request's turn on its connection, and the answer's body as hyper gets it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderMap};
use hyper::{Request, Version};

use super::poll::Words;

/// An answer that may take long.
pub(super) struct Telling {
    pub(super) words: Words,
    /// In chunks, as of HTTP/1.1; else its end is that of the connection.
    pub(super) chunked: bool,
    /// Another request may follow.
    pub(super) goes_on: bool,
}

/// How far the request has come that is being answered.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<State>);

#[derive(Default)]
struct State {
    /// hyper has all of the answer, or of its head if the rest may take long.
    answered: bool,
    /// Where the answer ends, a request may begin, and the one before has been read.
    is_apart: bool,
    words: Option<Words>,
    chunked: bool,
    goes_on: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Turn {
    /// hyper may have a second request before the answer to the first has left.
    pub(super) fn begin<B>(&self, request: &Request<B>) {
        let chunked = request.version() == Version::HTTP_11;
        let goes_on = chunked && !closes(request.headers());
        *self.state() = State {
            is_apart: goes_on,
            chunked,
            goes_on,
            ..State::default()
        };
    }

    /// Not all of the request was read: only hyper knows where it ends.
    pub(super) fn is_half_read(&self) {
        self.state().is_apart = false;
    }

    /// An answer of these words.
    pub(super) fn tell(self: &Arc<Self>, words: Words) -> Answer {
        let mut state = self.state();
        state.words = Some(words);
        state.is_apart = true;
        drop(state);
        Answer {
            text: None,
            waits: true,
            turn: Arc::clone(self),
        }
    }

    pub(super) fn say(self: &Arc<Self>, text: Bytes) -> Answer {
        Answer {
            text: (!text.is_empty()).then_some(text),
            waits: false,
            turn: Arc::clone(self),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        let state = self.state();
        state.answered && state.is_apart
    }

    /// What is still to be told, once the head has left.
    pub(super) fn telling(&self) -> Option<Telling> {
        let mut state = self.state();
        let words = state.words.take()?;
        Some(Telling {
            words,
            chunked: state.chunked,
            goes_on: state.goes_on,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closes(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    let mut words = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case("close"))
}

/// The body of an answer, as hyper gets it: a text, or nothing, and no end either.
#[derive(Debug)]
pub(super) struct Answer {
    text: Option<Bytes>,
    waits: bool,
    turn: Arc<Turn>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.waits {
            // Asked for a body, hyper has written the head.
            self.turn.state().answered = true;
            return Poll::Pending;
        }
        Poll::Ready(self.text.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        !self.waits && self.text.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.waits {
            return SizeHint::default();
        }
        let length = self.text.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(length as u64)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.turn.state().answered = true;
    }
}
