//! What has changed since a cursor, for any number of clients: each change is kept once, and written as JSON once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::stock::{SharedText, Stock};
use crate::flannel::remote::{events, snapshot};

/// So many changes are kept for clients that come late.
const LOG: usize = 4096;
/// And no more than these, in bytes: a lease may be as long as a request.
const LOG_BYTES: usize = 16 << 20;

/// One thing of which clients hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// As it is in a snapshot.
    pub(super) json: String,
    /// What of it matters to others; the rest is a renewal.
    pub(super) meaning: String,
}

/// An answer to a client with a cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Now(SharedText),
    /// Nothing has happened up to this revision.
    Wait(i64),
    /// The cursor is of a revision that was not heard of yet.
    Ahead,
}

/// Changes and state of the things named by `K`.
#[derive(Debug)]
pub(super) struct Feed<K> {
    /// `lease` or `network`.
    noun: &'static str,
    /// How a thing is told, as JSON, that is not there.
    gone: fn(&K) -> String,
    stock: Arc<Stock>,
    state: Mutex<State<K>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State<K> {
    /// `None` until the first list.
    revision: Option<i64>,
    /// The log has all that happened after this revision.
    since: i64,
    /// How often all cursors have lost their meaning.
    epoch: u64,
    /// Whose it is, where that is known.
    cluster: Option<u64>,
    items: BTreeMap<K, Item>,
    log: VecDeque<Change<K>>,
    log_bytes: usize,
    /// The snapshot of now.
    whole: Option<SharedText>,
    /// What was last told of all things, and after which revision.
    recent: Option<(i64, SharedText)>,
}

#[derive(Debug)]
struct Change<K> {
    revision: i64,
    key: K,
    /// Of interest to whoever watches this one alone.
    renewal: bool,
    json: String,
}

impl<K: Ord + Clone> Feed<K> {
    pub(super) fn new(noun: &'static str, gone: fn(&K) -> String, stock: &Arc<Stock>) -> Self {
        Self {
            noun,
            gone,
            stock: Arc::clone(stock),
            state: Mutex::new(State {
                revision: None,
                since: 0,
                epoch: 0,
                cluster: None,
                items: BTreeMap::new(),
                log: VecDeque::new(),
                log_bytes: 0,
                whole: None,
                recent: None,
            }),
            changed: watch::Sender::default(),
        }
    }

    /// Told of whatever is heard.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether anything was heard yet.
    pub(super) fn is_ready(&self) -> bool {
        self.state().revision.is_some()
    }

    pub(super) fn has(&self, key: &K) -> bool {
        self.state().items.contains_key(key)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// The id of the etcd that says all this.
    pub(super) fn cluster(&self) -> Option<u64> {
        self.state().cluster
    }

    /// From here on it is this one's. Whoever asks before it has told everything gets no answer that counts.
    pub(super) fn is_of(&self, cluster: u64) {
        self.state().cluster = Some(cluster);
    }

    /// Everything as it is at `revision`. `anew`: no cursor from before means anything.
    pub(super) fn replace(&self, revision: i64, items: BTreeMap<K, Item>, anew: bool) {
        let mut state = self.state();
        if anew || state.revision.is_none() {
            state.epoch += u64::from(state.revision.is_some());
            state.log.clear();
            state.log_bytes = 0;
            state.items = items;
            state.since = revision;
            state.revision = Some(revision);
            state.forget_answers();
        } else {
            let gone = state.items.keys().filter(|key| !items.contains_key(key));
            let mut changes: Vec<_> = gone.map(|key| (key.clone(), None)).collect();
            let items = items.into_iter();
            let new = items.filter(|(key, item)| state.items.get(key) != Some(item));
            changes.extend(new.map(|(key, item)| (key, Some(item))));
            self.apply(&mut state, revision, changes);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// These, and no others, have changed up to `revision`.
    pub(super) fn change(&self, revision: i64, changes: Vec<(K, Option<Item>)>) {
        let none = changes.is_empty();
        self.apply(&mut self.state(), revision, changes);
        // Whoever waits takes a new revision along when there is more to hear.
        if !none {
            self.changed.send_replace(());
        }
    }

    fn apply(&self, state: &mut State<K>, revision: i64, changes: Vec<(K, Option<Item>)>) {
        for (key, item) in changes {
            let before = match &item {
                Some(item) => state.items.insert(key.clone(), item.clone()),
                None => state.items.remove(&key),
            };
            let (kind, told) = match (&item, &before) {
                (Some(item), _) => ("added", item),
                (None, Some(before)) => ("removed", before),
                (None, None) => continue,
            };
            let meaning = |item: &Option<Item>| item.as_ref().map(|it| it.meaning.clone());
            let json = self.told(kind, &told.json);
            state.log_bytes += json.len();
            state.log.push_back(Change {
                revision,
                renewal: meaning(&item) == meaning(&before),
                key,
                json,
            });
        }
        while state.log.len() > LOG || state.log_bytes > LOG_BYTES {
            // All of one revision: half of it is no answer.
            let Some(revision) = state.log.front().map(|change| change.revision) else {
                break;
            };
            while let Some(old) = state.log.pop_front_if(|it| it.revision == revision) {
                state.log_bytes -= old.json.len();
            }
            state.since = state.since.max(revision);
        }
        state.revision = state.revision.max(Some(revision));
        state.forget_answers();
    }

    /// What to tell whoever knows all up to `cursor`, and asked in this `epoch`. `only`: of this thing alone.
    pub(super) fn answer(&self, cursor: Option<i64>, epoch: u64, only: Option<&K>) -> Answer {
        let mut state = self.state();
        let Some(revision) = state.revision else {
            return Answer::Wait(cursor.unwrap_or_default());
        };
        let Some(cursor) = cursor.filter(|it| *it >= state.since && epoch == state.epoch) else {
            return Answer::Now(match only {
                Some(key) => self.one(&state, revision, key),
                None => state.snapshot(revision, &self.stock),
            });
        };
        if cursor > revision {
            return Answer::Ahead;
        }
        if only.is_none()
            && let Some((_, told)) = state.recent.as_ref().filter(|(since, _)| *since == cursor)
            && !told.is_cut()
        {
            return Answer::Now(Arc::clone(told));
        }
        let first = state.log.partition_point(|it| it.revision <= cursor);
        let mut news = state.log.range(first..).filter(|change| match only {
            Some(key) => change.key == *key,
            None => !change.renewal,
        });
        let Some(next) = news.next() else {
            return Answer::Wait(revision);
        };
        let news = std::iter::once(next).chain(news);
        let text = events(news.map(|change| &*change.json), revision);
        let told = self.stock.keep(text);
        if only.is_none() {
            state.recent = Some((cursor, Arc::clone(&told)));
        }
        Answer::Now(told)
    }

    /// This thing alone, as it is. flannel 0.7's client breaks at a snapshot without it: it takes the first event, and there is none.
    fn one(&self, state: &State<K>, revision: i64, key: &K) -> SharedText {
        self.stock.keep(match state.items.get(key) {
            Some(item) => snapshot([&*item.json], revision),
            None => {
                let gone = self.told("removed", &(self.gone)(key));
                events([&*gone], revision)
            }
        })
    }

    /// An event.
    fn told(&self, kind: &str, json: &str) -> String {
        format!(r#"{{"type":"{kind}","{}":{json}}}"#, self.noun)
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> State<K> {
    fn forget_answers(&mut self) {
        self.whole = None;
        self.recent = None;
    }

    fn snapshot(&mut self, revision: i64, stock: &Arc<Stock>) -> SharedText {
        if let Some(whole) = self.whole.as_ref().filter(|whole| !whole.is_cut()) {
            return Arc::clone(whole);
        }
        let items = self.items.values().map(|item| &*item.json);
        let whole = stock.keep(snapshot(items, revision));
        self.whole = Some(Arc::clone(&whole));
        whole
    }
}

/// A feed that more than one task has.
pub(super) type SharedFeed<K> = Arc<Feed<K>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> Item {
        Item {
            json: json.to_owned(),
            meaning: json.trim_end_matches('\'').to_owned(),
        }
    }

    /// Has 1 and 2 at revision 10.
    fn feed() -> Feed<u8> {
        let feed = Feed::new("lease", u8::to_string, &Arc::default());
        let items = [(1, item("one")), (2, item("two"))];
        feed.replace(10, items.into(), false);
        feed
    }

    fn told(feed: &Feed<u8>, cursor: Option<i64>) -> String {
        told_of(feed, cursor, None)
    }

    fn told_of(feed: &Feed<u8>, cursor: Option<i64>, only: Option<&u8>) -> String {
        match feed.answer(cursor, 0, only) {
            Answer::Now(text) => String::from_utf8(text.bytes().to_vec()).unwrap(),
            other => format!("{other:?}"),
        }
    }

    const ALL: &str = r#"{"events":null,"snapshot":[one,two],"cursor":"10"}"#;

    #[test]
    fn without_a_cursor_all_is_told_and_with_one_what_came_since() {
        let feed = feed();
        assert_eq!(told(&feed, None), ALL);
        assert_eq!(told(&feed, Some(10)), "Wait(10)");
        feed.change(12, vec![(3, Some(item("three"))), (1, None)]);
        feed.change(15, vec![(4, Some(item("four")))]);
        let added = r#"{"type":"added","lease":three}"#;
        let removed = r#"{"type":"removed","lease":one}"#;
        let later = r#"{"type":"added","lease":four}"#;
        assert_eq!(
            told(&feed, Some(10)),
            format!(r#"{{"events":[{added},{removed},{later}],"snapshot":null,"cursor":"15"}}"#)
        );
        for cursor in [12, 14] {
            let expected = format!(r#"{{"events":[{later}],"snapshot":null,"cursor":"15"}}"#);
            assert_eq!(told(&feed, Some(cursor)), expected);
        }
        assert_eq!(told(&feed, Some(15)), "Wait(15)");
    }

    #[test]
    fn a_cursor_out_of_range_gets_everything() {
        let feed = feed();
        assert_eq!(told(&feed, Some(9)), ALL);
        assert_eq!(told(&feed, Some(-1)), ALL);
        assert_eq!(told(&feed, Some(11)), "Ahead");
    }

    #[test]
    fn an_old_cursor_falls_out_of_the_log_by_whole_revisions() {
        let feed = feed();
        for revision in 11..11 + i64::try_from(LOG).unwrap() {
            let value = item(&revision.to_string());
            let other = item(&format!("-{revision}"));
            feed.change(revision, vec![(1, Some(value)), (2, Some(other))]);
        }
        assert!(told(&feed, Some(10)).contains(r#""events":null"#));
        let kept = i64::try_from(LOG / 2).unwrap();
        let oldest = 10 + i64::try_from(LOG).unwrap() - kept;
        assert!(told(&feed, Some(oldest - 1)).contains(r#""events":null"#));
        let all = told(&feed, Some(oldest));
        assert_eq!(all.matches("added").count(), LOG);
    }

    #[test]
    fn long_changes_fall_out_of_the_log_sooner() {
        let feed = feed();
        let long = "x".repeat(LOG_BYTES / 8);
        for revision in 11..=30 {
            feed.change(
                revision,
                vec![(1, Some(item(&format!("{revision}{long}"))))],
            );
        }
        assert!(told(&feed, Some(20)).contains(r#""events":null"#));
        assert!(feed.state().log_bytes <= LOG_BYTES);
        let all = told(&feed, Some(23));
        assert_eq!(all.matches("added").count(), 7);
    }

    #[test]
    fn a_renewal_is_told_to_whoever_watches_that_lease_alone() {
        let feed = feed();
        feed.change(11, vec![(1, Some(item("one'")))]);
        assert_eq!(told(&feed, Some(10)), "Wait(11)");
        assert_eq!(
            told_of(&feed, Some(10), Some(&1)),
            r#"{"events":[{"type":"added","lease":one'}],"snapshot":null,"cursor":"11"}"#
        );
        assert_eq!(told_of(&feed, Some(10), Some(&2)), "Wait(11)");
        assert_eq!(
            told_of(&feed, None, Some(&1)),
            r#"{"events":null,"snapshot":[one'],"cursor":"11"}"#
        );
    }

    #[test]
    fn one_that_is_not_there_is_told_as_removed_also_to_a_cursor_out_of_range() {
        let feed = feed();
        for cursor in [None, Some(9), Some(-1)] {
            assert_eq!(
                told_of(&feed, cursor, Some(&7)),
                r#"{"events":[{"type":"removed","lease":7}],"snapshot":null,"cursor":"10"}"#
            );
        }
    }

    #[test]
    fn a_list_after_a_compaction_is_told_as_its_differences() {
        let feed = feed();
        let items = [(2, item("two")), (3, item("three"))];
        feed.replace(20, items.into(), false);
        let news = told(&feed, Some(10));
        assert!(
            news.contains(r#"{"type":"removed","lease":one},{"type":"added","lease":three}"#),
            "{news}"
        );
        assert!(
            !news.contains("two") && news.ends_with(r#""cursor":"20"}"#),
            "{news}"
        );
    }

    #[test]
    fn an_etcd_from_a_backup_takes_every_cursor_its_meaning() {
        let feed = feed();
        feed.replace(5, [(2, item("two"))].into(), true);
        let whole = r#"{"events":null,"snapshot":[two],"cursor":"5"}"#;
        // Whoever waits since before, though the revision would do.
        assert_eq!(told(&feed, Some(5)), whole);
        assert_eq!(feed.answer(Some(5), feed.epoch(), None), Answer::Wait(5));
    }

    #[test]
    fn nothing_is_told_before_the_first_list() {
        let feed: Feed<u8> = Feed::new("lease", u8::to_string, &Arc::default());
        assert!(!feed.is_ready());
        assert_eq!(told(&feed, Some(3)), "Wait(3)");
        assert_eq!(told(&feed, None), "Wait(0)");
    }
}
