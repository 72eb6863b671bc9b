//! Which networks there are, as far as it was heard.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// What is known of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Those with a configuration; `None` before the datastore has answered.
    pub names: Option<BTreeSet<String>>,
    /// Those whose configuration somebody was seen to delete. One that is only missing may be in a backup.
    pub deleted: BTreeSet<String>,
}

/// What was heard, from lists and from a watch.
#[derive(Debug, Default)]
pub(in crate::source) struct Roll {
    found: Found,
    /// In no list any more, though nobody was seen to delete them: they count until they are given up.
    missing: BTreeSet<String>,
}

impl Roll {
    /// All that there are by a list. Gives those that are missing since then.
    pub(in crate::source) fn list(&mut self, names: BTreeSet<String>) -> Vec<String> {
        let mut known = self.found.names.take().unwrap_or_default();
        let missing: BTreeSet<String> = known.difference(&names).cloned().collect();
        let new = missing.difference(&self.missing).cloned().collect();
        self.found.deleted.retain(|name| !names.contains(name));
        known.extend(names);
        self.found.names = Some(known);
        self.missing = missing;
        new
    }

    /// A configuration was written or deleted.
    pub(in crate::source) fn change(&mut self, name: String, is_there: bool) {
        let names = self.found.names.get_or_insert_default();
        self.missing.remove(&name);
        if is_there {
            self.found.deleted.remove(&name);
            names.insert(name);
        } else {
            names.remove(&name);
            self.found.deleted.insert(name);
        }
    }

    /// What is missing still counts no more. Whether there was anything.
    pub(in crate::source) fn give_up(&mut self) -> bool {
        let missing = std::mem::take(&mut self.missing);
        if let Some(names) = &mut self.found.names {
            names.retain(|name| !missing.contains(name));
        }
        !missing.is_empty()
    }

    pub(in crate::source) fn names(&self) -> BTreeSet<String> {
        self.found.names.clone().unwrap_or_default()
    }

    /// Told only if there is something new.
    pub(in crate::source) fn publish(&self, found: &watch::Sender<Found>) {
        found.send_if_modified(|told| {
            let differs = *told != self.found;
            if differs {
                *told = self.found.clone();
            }
            differs
        });
    }
}

/// Says so of those that a list lacks. `who` has listed them.
pub(in crate::source) fn name_missing(who: &str, missing: &[String]) {
    tracing::warn!(
        "{who} lacks networks that nobody was seen to delete: was it restored from a backup? they go on, and count for another {} s: {}",
        super::RESTORED.as_secs(),
        missing.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &str) -> BTreeSet<String> {
        of.split_whitespace().map(str::to_owned).collect()
    }

    fn found(there: &str, deleted: &str) -> Found {
        Found {
            names: Some(names(there)),
            deleted: names(deleted),
        }
    }

    #[test]
    fn what_a_list_lacks_counts_until_it_is_given_up_and_is_never_deleted() {
        let mut roll = Roll::default();
        assert_eq!(roll.found.names, None);
        assert!(roll.list(names("blue red")).is_empty());
        assert_eq!(roll.found, found("blue red", ""));
        assert!(!roll.give_up());
        assert_eq!(roll.list(names("blue green")), ["red"]);
        assert_eq!(roll.found, found("blue green red", ""));
        assert!(roll.list(names("blue green")).is_empty(), "it was named");
        assert!(roll.give_up());
        assert_eq!(roll.found, found("blue green", ""));
        assert!(!roll.give_up());
        assert!(roll.list(names("blue green red")).is_empty());
        assert_eq!(roll.found, found("blue green red", ""));
    }

    #[test]
    fn who_is_there_again_is_not_missing_any_more() {
        let mut roll = Roll::default();
        roll.list(names("blue red green"));
        roll.list(names(""));
        roll.change("red".to_owned(), true);
        roll.list(names("red blue"));
        assert!(roll.give_up());
        assert_eq!(roll.found, found("blue red", ""));
    }

    #[test]
    fn only_what_was_seen_to_be_deleted_is() {
        let mut roll = Roll::default();
        roll.list(names("blue red"));
        roll.change("blue".to_owned(), false);
        assert_eq!(roll.found, found("red", "blue"));
        // Also while it is missing; and it may come again.
        roll.list(names(""));
        roll.change("red".to_owned(), false);
        assert_eq!(roll.found, found("", "blue red"));
        roll.list(names("blue"));
        assert_eq!(roll.found, found("blue", "red"));
        roll.change("red".to_owned(), true);
        assert_eq!(roll.found, found("blue red", ""));
    }
}
