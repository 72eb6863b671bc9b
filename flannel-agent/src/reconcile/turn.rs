//! Whose turn it is while two agents look after one network of a node: by mistake, or while one takes the other's place. The younger
//! attaches its programs; whoever finds them in the place of its own stands back, and serves again once it is alone.

use std::time::{Duration, Instant};

/// Two that start at once may each find the other's programs, and both stand back. An agent that serves looks at the node every 30
/// seconds and holds the claim since; whoever gets it after so long knows that nobody does.
const PATIENCE: Duration = Duration::from_secs(75);

/// `C`: a claim, which one agent at a time can hold.
#[derive(Debug)]
pub(super) struct Turn<C> {
    claim: Option<C>,
    stood_back: Option<Instant>,
}

/// What to do at this look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Serve,
    /// Also in the place of programs that another agent has attached.
    ServeAgain,
    StandBack,
}

impl<C> Default for Turn<C> {
    fn default() -> Self {
        Self {
            claim: None,
            stood_back: None,
        }
    }
}

impl<C> Turn<C> {
    pub(super) fn stands_back(&self) -> bool {
        self.stood_back.is_some()
    }

    /// `company`: another agent lives; `claim` tries to get what only one can have.
    pub(super) fn look(
        &mut self,
        company: bool,
        now: Instant,
        claim: impl FnOnce() -> Option<C>,
    ) -> Part {
        let Some(since) = self.stood_back else {
            self.claim = self.claim.take().or_else(claim);
            return Part::Serve;
        };
        let is_over = now.saturating_duration_since(since) >= PATIENCE;
        if company && !is_over {
            return Part::StandBack;
        }
        self.claim = claim();
        if company && self.claim.is_none() {
            return Part::StandBack;
        }
        self.stood_back = None;
        Part::ServeAgain
    }

    pub(super) fn stand_back(&mut self, now: Instant) {
        self.claim = None;
        self.stood_back = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> Option<()> {
        None
    }

    fn free() -> Option<()> {
        Some(())
    }

    #[test]
    fn whoever_stood_back_serves_again_once_it_is_alone() {
        let now = Instant::now();
        let mut turn = Turn::default();
        assert_eq!(turn.look(true, now, free), Part::Serve);
        turn.stand_back(now);
        assert!(turn.stands_back());
        assert_eq!(turn.look(true, now, free), Part::StandBack);
        assert_eq!(turn.look(false, now, never), Part::ServeAgain);
        assert!(!turn.stands_back());
        assert_eq!(turn.look(false, now, free), Part::Serve);
    }

    #[test]
    fn of_two_that_both_stand_back_one_serves_in_the_end() {
        let begun = Instant::now();
        let mut turn = Turn::default();
        turn.stand_back(begun);
        let later = begun + PATIENCE;
        assert_eq!(turn.look(true, later, never), Part::StandBack);
        assert_eq!(turn.look(true, later, free), Part::ServeAgain);
        assert_eq!(turn.look(true, later, never), Part::Serve);
    }

    /// Another can have it from then on.
    #[test]
    fn a_claim_is_given_back_by_who_stands_back() {
        let now = Instant::now();
        let claim = std::rc::Rc::new(());
        let mut turn = Turn::default();
        turn.look(true, now, || Some(claim.clone()));
        assert_eq!(std::rc::Rc::strong_count(&claim), 2);
        turn.look(true, now, || None);
        assert_eq!(std::rc::Rc::strong_count(&claim), 2, "it is kept");
        turn.stand_back(now);
        assert_eq!(std::rc::Rc::strong_count(&claim), 1);
    }
}
