//! An answer that may take long: blanks until there is something to say.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream, unfold};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::feed::{Answer, SharedFeed};
use super::stock::SharedText;
use crate::source::etcd::registry::Registry;

/// So often a client that waits is told that somebody is there.
pub(super) const ALIVE: Duration = Duration::from_secs(10);
/// Between two questions to an etcd that does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a client that waits is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// Somebody is there.
    Blank,
    /// All of it.
    Answer(SharedText),
    /// There is none: the question has lost its meaning.
    Void,
}

/// Ends with an answer, or with none.
pub(super) type Words = BoxStream<'static, Word>;

/// Nothing but this answer.
pub(super) fn at_once(answer: SharedText) -> Words {
    stream::iter([Word::Answer(answer)]).boxed()
}

/// One client's question.
#[derive(Debug)]
pub(super) struct Poll<K> {
    feed: SharedFeed<K>,
    registry: Registry,
    changed: watch::Receiver<()>,
    cursor: Option<i64>,
    only: Option<K>,
    epoch: u64,
    /// etcd has said that it has come as far as the cursor, though we have not heard of it.
    trusted: bool,
}

impl<K: Ord + Clone> Poll<K> {
    pub(super) fn new(
        feed: &SharedFeed<K>,
        registry: Registry,
        cursor: Option<i64>,
        only: Option<K>,
    ) -> Self {
        Self {
            // Before the first look, or a change meanwhile would never be seen.
            changed: feed.subscribe(),
            epoch: feed.epoch(),
            feed: Arc::clone(feed),
            registry,
            cursor,
            only,
            trusted: false,
        }
    }

    /// Waits until there is anything to tell at all; `false`: not in time.
    pub(super) async fn ready(&mut self, patience: Duration) -> bool {
        let feed = Arc::clone(&self.feed);
        let ready = self.changed.wait_for(|()| feed.is_ready());
        tokio::time::timeout(patience, ready)
            .await
            .is_ok_and(|ready| ready.is_ok())
    }

    pub(super) fn words(self) -> Words
    where
        K: Send + Sync + 'static,
    {
        let words = unfold(self, |mut poll| async move {
            let word = poll.next().await;
            Some((word, poll))
        });
        words.boxed()
    }

    async fn next(&mut self) -> Word {
        let silence = sleep_until(Instant::now() + ALIVE);
        tokio::pin!(silence);
        loop {
            self.changed.borrow_and_update();
            match self
                .feed
                .answer(self.cursor, self.epoch, self.only.as_ref())
            {
                // The head, which has been sent, is of an etcd that is not there any more.
                Answer::Now(_) if self.feed.epoch() != self.epoch => return Word::Void,
                Answer::Now(answer) => return Word::Answer(answer),
                Answer::Wait(revision) => {
                    self.cursor = self.cursor.max(self.feed.is_ready().then_some(revision));
                }
                Answer::Ahead if self.trusted => {}
                Answer::Ahead => {
                    // Another server has told it, and we hear of it in a moment; or etcd is not what it was.
                    // In a box: a question to etcd needs more room than all the rest of a client that waits, and is rare.
                    match Box::pin(self.registry.revision()).await {
                        Ok(revision) if Some(revision) < self.cursor => self.cursor = Some(-1),
                        Ok(_) => self.trusted = true,
                        Err(_) => tokio::time::sleep(ASK_AGAIN).await,
                    }
                    continue;
                }
            }
            tokio::select! {
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                () = &mut silence => return Word::Blank,
            }
        }
    }
}
