//! How each network of a daemon is doing, where that serves several.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use super::{NOT_YET, Ready};
use crate::daemon::metrics::Exporter;

/// Shared by who serves the networks and who is asked about them.
#[derive(Debug, Clone, Default)]
pub(in crate::daemon) struct Board {
    notices: Arc<Mutex<BTreeMap<String, Notice>>>,
    /// Nobody has said yet which networks there are.
    unknown: Arc<AtomicBool>,
}

const UNKNOWN: &str = "which networks there are is not known: the datastore does not answer";

#[derive(Debug, Clone)]
struct Notice {
    ready: Ready,
    exporter: Exporter,
}

impl Board {
    /// Which networks there are is to be heard first: until then nobody is ready.
    pub(in crate::daemon) fn is_known(&self, known: bool) {
        self.unknown.store(!known, Ordering::Relaxed);
    }

    /// Another network is to be served.
    pub(in crate::daemon) fn put(&self, name: &str, ready: Ready, exporter: Exporter) {
        let notice = Notice { ready, exporter };
        self.notices().insert(name.to_owned(), notice);
    }

    /// It is not any more.
    pub(in crate::daemon) fn take(&self, name: &str) {
        self.notices().remove(name);
    }

    /// One line for `systemctl status`.
    pub(in crate::daemon) fn summary(&self) -> String {
        if self.unknown.load(Ordering::Relaxed) {
            return UNKNOWN.to_owned();
        }
        let notices = self.notices();
        let waiting: Vec<&str> = notices
            .iter()
            .filter(|(_, notice)| !notice.ready.get())
            .map(|(name, _)| name.as_str())
            .collect();
        let (all, ready) = (notices.len(), notices.len() - waiting.len());
        match waiting.as_slice() {
            [] => format!("{all} networks"),
            waiting => format!("{ready} of {all} networks; not {}", waiting.join(", ")),
        }
    }

    /// Ready are all, or there is none.
    pub(super) fn answer(&self) -> (StatusCode, String) {
        if self.unknown.load(Ordering::Relaxed) {
            let text = format!("{NOT_YET}: {UNKNOWN}\n");
            return (StatusCode::SERVICE_UNAVAILABLE, text);
        }
        let notices = self.notices();
        let others: Vec<String> = notices
            .iter()
            .filter_map(|(name, notice)| {
                let why = notice.ready.why_not()?;
                Some(match why.as_str() {
                    "" => format!("{name}\n"),
                    why => format!("{name}: {why}\n"),
                })
            })
            .collect();
        if others.is_empty() {
            return (StatusCode::OK, "flanneld is ready".to_owned());
        }
        let text = format!("{NOT_YET}:\n{}", others.concat());
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }

    pub(super) fn answer_of(&self, name: &str) -> Option<(StatusCode, String)> {
        Some(self.notices().get(name)?.ready.answer())
    }

    pub(super) fn metrics(&self) -> Result<String, std::fmt::Error> {
        let notices = self.notices().clone();
        let exporters = notices
            .into_iter()
            .map(|(name, notice)| (name, notice.exporter));
        Exporter::text_of(&exporters.collect())
    }

    fn notices(&self) -> MutexGuard<'_, BTreeMap<String, Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::Counters;

    #[test]
    fn each_answers_for_itself_and_all_for_all() {
        let board = Board::default();
        assert_eq!(board.answer().0, StatusCode::OK, "nothing is missing");
        board.is_known(false);
        let (status, text) = board.answer();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("does not answer"), "{text}");
        assert!(board.summary().contains("does not answer"));
        board.is_known(true);
        let readies = ["blue", "red"].map(|name| {
            let ready = Ready::default();
            let exporter = Exporter {
                bpffs: "/nowhere".into(),
                network: format!("/net/{name}"),
                counters: Counters::default(),
            };
            board.put(name, ready.clone(), exporter);
            ready
        });
        readies[0].set(true);
        readies[1].hinder("no key".to_owned());
        let (status, text) = board.answer();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "flanneld is not ready yet:\nred: no key\n");
        assert_eq!(board.summary(), "1 of 2 networks; not red");
        assert_eq!(board.answer_of("blue").unwrap().0, StatusCode::OK);
        let red = board.answer_of("red").unwrap();
        assert_eq!(red.1, "flanneld is not ready yet: no key\n");
        assert_eq!(board.answer_of("green"), None);
        board.take("red");
        assert_eq!(board.answer().0, StatusCode::OK);
        let text = board.metrics().unwrap();
        assert!(
            text.contains("flannel_ebpf_peers") || text.contains("network=\"blue\""),
            "{text}"
        );
    }
}
