//! One question for all who ask the same at the same time: a thousand clients come at once when a server was restarted, and a
//! question that fails takes as long as etcd is waited for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Those who are under way, by what is asked about.
#[derive(Debug)]
pub(super) struct Together<E> {
    turns: Mutex<BTreeMap<Option<String>, Weak<Turn<E>>>>,
}

/// One after the other; how the first failed holds for all who waited for it.
#[derive(Debug)]
struct Turn<E> {
    failed: tokio::sync::Mutex<Option<E>>,
}

impl<E> Default for Together<E> {
    fn default() -> Self {
        Self {
            turns: Mutex::default(),
        }
    }
}

impl<E: Clone> Together<E> {
    /// What `known` gives, if need be after `ask`, which only one of those runs who are here at a time.
    pub(super) async fn ask<T>(
        &self,
        about: &Option<String>,
        known: impl Fn() -> Option<T>,
        ask: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        if let Some(known) = known() {
            return Ok(known);
        }
        let turn = self.turn(about);
        let mut failed = turn.failed.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        if let Some(failure) = &*failed {
            return Err(failure.clone());
        }
        let answer = ask().await;
        if let Err(failure) = &answer {
            // Whoever comes from now on asks again.
            self.forget(&turn);
            *failed = Some(failure.clone());
        }
        answer
    }

    fn turn(&self, about: &Option<String>) -> Arc<Turn<E>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is kept for names that anybody makes up.
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(about).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn {
            failed: tokio::sync::Mutex::new(None),
        });
        turns.insert(about.clone(), Arc::downgrade(&turn));
        turn
    }

    fn forget(&self, turn: &Arc<Turn<E>>) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, one| !std::ptr::eq(one.as_ptr(), Arc::as_ptr(turn)));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn one_asks_and_all_who_wait_hear_that_it_failed() {
        let together = Together::default();
        let asked = Cell::new(0);
        let ask = |answer: Result<u8, &'static str>| {
            let asked = &asked;
            together.ask(
                &None,
                || None,
                async move || {
                    asked.set(asked.get() + 1);
                    tokio::task::yield_now().await;
                    answer
                },
            )
        };
        let all = tokio::join!(ask(Err("silent")), ask(Ok(2)), ask(Ok(3)));
        assert_eq!(all, (Err("silent"), Err("silent"), Err("silent")));
        assert_eq!(asked.get(), 1);
        assert_eq!(ask(Ok(4)).await, Ok(4), "who comes later asks again");
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test]
    async fn what_one_has_found_out_is_known_to_all() {
        let together = Together::<&str>::default();
        let found = Cell::new(None);
        let ask = |answer: u8| {
            let found = &found;
            together.ask(
                &None,
                || found.get(),
                async move || {
                    tokio::task::yield_now().await;
                    found.set(Some(answer));
                    Ok(answer)
                },
            )
        };
        assert_eq!(tokio::join!(ask(1), ask(2)), (Ok(1), Ok(1)));
    }
}
