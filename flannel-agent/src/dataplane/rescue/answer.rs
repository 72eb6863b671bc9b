//! What is asked of the kernel while packets come: the answer of before serves until there is another.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// An answer is asked for again after so long. What it is about changes rarely, and whoever sends fragments sends many.
const FRESH: Duration = Duration::from_secs(1);
/// One that is older is waited for: packets that come seldom are not to go by what was.
const STALE: Duration = Duration::from_secs(2);

/// An answer, and the question that is under way. A socket that nobody reads meanwhile would lose packets.
pub(super) struct Answer<T> {
    known: Option<(Instant, T)>,
    asked: Option<AbortOnDropHandle<T>>,
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self {
            known: None,
            asked: None,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Answer<T> {
    /// The answer; `ask` gets the one of before. `None`: who was asked has broken off.
    pub(super) async fn get<F>(&mut self, ask: impl FnOnce(Option<&T>) -> F) -> Option<&mut T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        if self
            .asked
            .as_ref()
            .is_some_and(AbortOnDropHandle::is_finished)
        {
            self.hear().await;
        }
        let age = self.known.as_ref().map(|(at, _)| at.elapsed());
        if self.asked.is_none() && age.is_none_or(|age| age >= FRESH) {
            let before = self.known.as_ref().map(|(_, known)| known);
            self.asked = Some(AbortOnDropHandle::new(tokio::spawn(ask(before))));
        }
        if age.is_none_or(|age| age >= STALE) {
            self.hear().await;
        }
        self.known.as_mut().map(|(_, known)| known)
    }

    /// The last answer, however old.
    pub(super) fn known(&self) -> Option<&T> {
        self.known.as_ref().map(|(_, known)| known)
    }

    /// Waits for what is asked.
    async fn hear(&mut self) {
        let Some(asked) = &mut self.asked else {
            return;
        };
        let answer = asked.await;
        self.asked = None;
        self.known = answer.ok().map(|answer| (Instant::now(), answer));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_under_way_holds_nobody_up() {
        let mut answer = Answer::default();
        assert_eq!(answer.get(|_| async { 1 }).await, Some(&mut 1));
        advance(FRESH).await;
        let (tell, told) = oneshot::channel();
        // Nobody answers, and what is known is had at once.
        let first = answer.get(|_| async { told.await.unwrap() }).await;
        assert_eq!(first, Some(&mut 1));
        tell.send(2).unwrap();
        while !answer.asked.as_ref().unwrap().is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(answer.get(|_| async { 3 }).await, Some(&mut 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_long_ago_is_not_gone_by() {
        let mut answer = Answer::default();
        assert_eq!(answer.get(|_| async { 1 }).await, Some(&mut 1));
        advance(STALE).await;
        let next = |before: Option<&i32>| {
            let next = before.map_or(0, |before| before + 1);
            async move { next }
        };
        assert_eq!(answer.get(next).await, Some(&mut 2));
    }
}
