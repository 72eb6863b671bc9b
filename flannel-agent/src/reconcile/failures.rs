//! What fails in a round and does not end it: said when it begins, when it changes, and when it is over.

use std::collections::BTreeMap;

/// So many are named in a complaint.
const NAMED: usize = 4;

/// Who has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grade {
    /// What was only tried, and is no trouble.
    News,
    /// Somebody has to put it right.
    Trouble,
}

/// By their words.
#[derive(Debug, Default)]
pub(super) struct Failures {
    standing: BTreeMap<String, Grade>,
    round: BTreeMap<String, Grade>,
}

impl Failures {
    /// It failed in this round.
    pub(super) fn add(&mut self, text: String, grade: Grade) {
        if self.is_new(&text) {
            match grade {
                Grade::News => tracing::info!("{text}; going on without"),
                Grade::Trouble => tracing::warn!("{text}; going on without"),
            }
        }
        self.round.insert(text, grade);
    }

    fn is_new(&self, text: &str) -> bool {
        !self.standing.contains_key(text) && !self.round.contains_key(text)
    }

    /// What failed with these words in front was not tried again, for it would fail still.
    pub(super) fn stands(&mut self, words: &str) {
        let standing = self.standing.iter();
        let stands = standing.filter(|(text, _)| text.starts_with(words));
        let stands: Vec<_> = stands.map(|(text, grade)| (text.clone(), *grade)).collect();
        self.round.extend(stands);
    }

    /// The round ended, and tried everything but what [`Self::stands`].
    pub(super) fn tried_all(&mut self) {
        let round = std::mem::take(&mut self.round);
        let before = std::mem::replace(&mut self.standing, round);
        let over = before
            .keys()
            .filter(|text| !self.standing.contains_key(*text));
        for text in over {
            tracing::info!("not any more: {text}");
        }
    }

    /// The round ended, and what it did not come to may fail still.
    pub(super) fn tried_some(&mut self) {
        self.standing.append(&mut self.round);
    }

    /// What there is to put right, in one sentence.
    pub(super) fn complaint(&self) -> Option<String> {
        let troubles = self.standing.iter();
        let troubles = troubles.filter(|(_, grade)| **grade == Grade::Trouble);
        let troubles: Vec<&str> = troubles.map(|(text, _)| text.as_str()).collect();
        let named = troubles.get(..NAMED).unwrap_or(&troubles).join("; ");
        match troubles.len() {
            0 => None,
            1..=NAMED => Some(named),
            all => Some(format!("{named}; and {} more", all - NAMED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(failures: &mut Failures, text: &str) {
        failures.add(text.to_owned(), Grade::Trouble);
    }

    #[test]
    fn what_is_over_is_no_complaint_and_what_comes_back_is_one() {
        let mut failures = Failures::default();
        add(&mut failures, "cannot a: no");
        add(&mut failures, "cannot b: no");
        failures.tried_all();
        let both = Some("cannot a: no; cannot b: no".to_owned());
        assert_eq!(failures.complaint(), both);
        assert!(!failures.is_new("cannot b: no"));
        add(&mut failures, "cannot b: no");
        failures.tried_all();
        assert_eq!(failures.complaint(), Some("cannot b: no".to_owned()));
        failures.tried_all();
        assert_eq!(failures.complaint(), None);
        assert!(failures.is_new("cannot a: no"), "it is said again");
        add(&mut failures, "cannot a: no");
        failures.tried_all();
        assert_eq!(failures.complaint(), Some("cannot a: no".to_owned()));
    }

    #[test]
    fn what_a_round_did_not_come_to_stays() {
        let mut failures = Failures::default();
        add(&mut failures, "cannot b: no");
        failures.tried_all();
        add(&mut failures, "cannot a: no");
        failures.tried_some();
        let both = Some("cannot a: no; cannot b: no".to_owned());
        assert_eq!(failures.complaint(), both);
    }

    #[test]
    fn what_is_known_to_fail_still_is_not_over() {
        let mut failures = Failures::default();
        add(&mut failures, "cannot attach xdp to eth1: no");
        add(&mut failures, "cannot attach xdp to eth10: no");
        failures.tried_all();
        for _ in 0..2 {
            failures.stands("cannot attach xdp to eth1:");
            failures.tried_all();
            let standing = Some("cannot attach xdp to eth1: no".to_owned());
            assert_eq!(failures.complaint(), standing);
        }
        failures.tried_all();
        assert_eq!(failures.complaint(), None);
    }

    #[test]
    fn many_are_counted_and_news_is_none() {
        let mut failures = Failures::default();
        failures.add("cannot attach xdp: no".to_owned(), Grade::News);
        for n in 0..6 {
            add(&mut failures, &format!("{n}"));
        }
        failures.tried_all();
        let named = "0; 1; 2; 3; and 2 more".to_owned();
        assert_eq!(failures.complaint(), Some(named));
    }
}
