//! What is being done, on standard error: one line that is written over on a terminal, else a line a round.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use crate::job::Traffic;
use crate::mode::Mode;

#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    expected: Duration,
    step: String,
    /// Of the last line, where lines are kept.
    round: Option<usize>,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new(expected: Duration) -> Self {
        Self {
            start: Instant::now(),
            expected,
            step: String::new(),
            round: None,
            terminal: stderr().is_terminal(),
        }
    }

    /// The `n`-th of `of` steps begins.
    pub(crate) fn begin(&mut self, n: usize, of: usize, name: &str) {
        self.step = format!("{n}/{of} {name}");
        self.round = None;
        self.line("");
    }

    /// The sample of one cell.
    pub(crate) fn show(&mut self, round: usize, rounds: usize, mode: Mode, traffic: Traffic) {
        let what = format!("; round {} of {rounds}", round + 1);
        if self.terminal {
            self.line(&format!("{what}, {}, {}", mode.name(), traffic.name()));
        } else if self.round != Some(round) {
            self.line(&what);
        }
        self.round = Some(round);
    }

    /// Before anything is printed that stays.
    pub(crate) fn clear(&self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }

    fn line(&self, what: &str) {
        let (now, expected) = (self.start.elapsed().as_secs(), self.expected.as_secs());
        let (end, begin) = if self.terminal {
            ("", "\r\x1b[K")
        } else {
            ("\n", "")
        };
        let step = &self.step;
        // Nobody to tell is no reason to stop.
        let _ = write!(
            stderr(),
            "{begin}{now} s of about {expected}: {step}{what}{end}"
        );
    }
}
