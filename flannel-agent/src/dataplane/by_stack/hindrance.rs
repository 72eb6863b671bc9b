//! Why nothing is sent by the stack, and whether that matters to anybody.

use super::ByStackError;

#[derive(Debug, Default)]
pub(super) struct Hindrance {
    why: Option<String>,
    /// As far as it was said.
    said: Option<String>,
    matters: bool,
}

impl Hindrance {
    /// What became of the last attempt.
    pub(super) fn note(&mut self, error: Option<ByStackError>) {
        let why = |error| format!("{error}; peers that IPsec or a rule is about get nothing");
        self.why = error.map(why);
    }

    /// Whether there is such a peer.
    pub(super) fn matters(&mut self, matters: bool) {
        self.matters = matters;
    }

    /// What there is to complain of, if that was not said yet.
    pub(super) fn news(&mut self) -> Option<String> {
        let why = self.complaint().map(str::to_owned);
        let is_news = self.said != why;
        self.said.clone_from(&why);
        why.filter(|_| is_news)
    }

    pub(super) fn complaint(&self) -> Option<&str> {
        self.why.as_deref().filter(|_| self.matters)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn refused(kind: ErrorKind) -> Option<ByStackError> {
        Some(ByStackError::Open(kind.into()))
    }

    fn denied() -> Option<ByStackError> {
        refused(ErrorKind::PermissionDenied)
    }

    #[test]
    fn what_is_refused_each_time_is_said_once_and_complained_of_until_it_works() {
        let mut hindrance = Hindrance::default();
        hindrance.matters(true);
        let mut note = |error| {
            hindrance.note(error);
            let said = hindrance.news();
            (said, hindrance.complaint().map(str::to_owned))
        };
        let (said, complaint) = note(denied());
        assert!(said.is_some() && said == complaint);
        let (said, complaint) = note(denied());
        assert!(said.is_none() && complaint.is_some());
        let other = refused(ErrorKind::OutOfMemory);
        assert!(note(other).0.is_some(), "that is another reason");
        assert_eq!(note(None), (None, None));
        assert!(note(denied()).0.is_some());
    }

    #[test]
    fn without_a_peer_that_it_is_for_nothing_is_wrong() {
        let mut hindrance = Hindrance::default();
        hindrance.note(denied());
        assert_eq!((hindrance.news(), hindrance.complaint()), (None, None));
        hindrance.matters(true);
        assert!(hindrance.complaint().is_some() && hindrance.news().is_some());
        hindrance.matters(false);
        assert_eq!((hindrance.news(), hindrance.complaint()), (None, None));
    }
}
