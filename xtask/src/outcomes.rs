//! What failed, and while what ran, from what cargo and libtest print.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// Lines of a failure that are shown once more at the end.
const SHOWN: usize = 20;

/// One test program's failures.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The file's name in `tests/tests`, without its ending; `None`: unit tests, or those of the docs.
    pub(crate) file: Option<String>,
    pub(crate) tests: Vec<String>,
    /// While the program ran.
    pub(crate) span: (Instant, Instant),
    /// What each test said, as far as it is not a backtrace.
    words: BTreeMap<String, Vec<String>>,
}

/// What has been read so far.
#[derive(Debug)]
pub(crate) struct Outcomes {
    file: Option<String>,
    begun: Instant,
    /// What follows the last line `failures:`, in the end the list of them.
    listed: Vec<String>,
    /// Whose words are being read.
    speaker: Option<String>,
    words: BTreeMap<String, Vec<String>>,
    failed: Vec<Failed>,
    /// Programs that ended badly, in whatever way.
    bad: usize,
    is_whole: bool,
}

impl Outcomes {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            file: None,
            begun: now,
            listed: Vec::new(),
            speaker: None,
            words: BTreeMap::new(),
            failed: Vec::new(),
            bad: 0,
            is_whole: true,
        }
    }

    pub(crate) fn failed(&self) -> &[Failed] {
        &self.failed
    }

    /// Whether [`Self::failed`] has everything that went wrong: a program may crash.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_whole && self.bad == self.failed.len()
    }

    /// Takes a line of either's output.
    pub(crate) fn read(&mut self, line: &str, now: Instant) {
        let words = line.trim_start();
        if let Some(program) = words.strip_prefix("Running ") {
            let file = program.strip_prefix("tests/");
            let file = file.and_then(|file| Some(file.split_once(".rs")?.0));
            // A folder's program has its name.
            self.file = file.map(|file| file.trim_end_matches("/main").to_owned());
            self.begin(now);
        } else if words.starts_with("Doc-tests ") {
            self.file = None;
            self.begin(now);
        } else if line == "failures:" {
            self.listed.clear();
            self.speaker = None;
        } else if let Some(counts) = line.strip_prefix("test result: FAILED.") {
            let tests = std::mem::take(&mut self.listed);
            // A name that is not told whole would not be repeated.
            self.is_whole &= counts.contains(&format!(" {} failed;", tests.len()));
            self.failed.push(Failed {
                file: self.file.clone(),
                tests,
                span: (self.begun, now),
                words: std::mem::take(&mut self.words),
            });
        } else if line.starts_with("error: test failed") {
            self.bad += 1;
        } else {
            self.hear(line);
        }
    }

    fn begin(&mut self, now: Instant) {
        self.begun = now;
        self.listed.clear();
        self.speaker = None;
        self.words.clear();
    }

    fn hear(&mut self, line: &str) {
        let name = line.strip_prefix("---- ");
        if let Some(name) = name.and_then(|line| line.strip_suffix(" stdout ----")) {
            self.speaker = Some(name.to_owned());
        } else if line == "stack backtrace:" {
            self.speaker = None;
        } else if let Some(speaker) = &self.speaker {
            let words = self.words.entry(speaker.clone()).or_default();
            if words.len() < SHOWN && !line.is_empty() {
                words.push(line.to_owned());
            }
        } else if let Some(name) = line.strip_prefix("    ") {
            self.listed.push(name.to_owned());
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_deref().unwrap_or("unit tests");
        for test in &self.tests {
            writeln!(f, "failed: {file}, {test}")?;
            for line in self.words.get(test).into_iter().flatten() {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Outcomes {
        let now = Instant::now();
        let mut outcomes = Outcomes::new(now);
        text.lines().for_each(|line| outcomes.read(line, now));
        outcomes
    }

    #[test]
    fn failures_are_known_by_file_and_name() {
        let outcomes = read(
            "     Running unittests src/lib.rs (target/debug/deps/flannel_agent-66)
running 2 tests
test a ... 2026 a line of a log
FAILED

failures:

---- a stdout ----

thread 'a' panicked at src/a.rs:1:
no
stack backtrace:
   0: core
    at somewhere

failures:
    a

test result: FAILED. 1 passed; 1 failed; 0 ignored
error: test failed, to rerun pass `-p flannel-agent --lib`
     Running tests/e2e_x/main.rs (target/debug/deps/e2e_x-66)
running 3 tests
failures:
---- b::case_1 stdout ----
failures:
    of another program
    thread 'b' panicked
---- c stdout ----

failures:
    b::case_1
    c

test result: FAILED. 1 passed; 2 failed; 0 ignored
error: test failed, to rerun pass `-p flannel-tests --test e2e_x`
     Running tests/e2e_y.rs (target/debug/deps/e2e_y-66)
test result: ok. 1 passed",
        );
        assert!(outcomes.is_complete());
        let found: Vec<_> = outcomes
            .failed()
            .iter()
            .map(|failed| (failed.file.as_deref(), failed.tests.join(" ")))
            .collect();
        assert_eq!(
            found,
            [
                (None, "a".to_owned()),
                (Some("e2e_x"), "b::case_1 c".to_owned())
            ]
        );
        assert_eq!(
            outcomes.failed()[0].to_string(),
            "failed: unit tests, a\n    thread 'a' panicked at src/a.rs:1:\n    no\n"
        );
    }
    #[test]
    fn a_crash_is_no_failure_of_a_test() {
        let outcomes = read(
            "     Running tests/e2e_x.rs (target/debug/deps/e2e_x-66)
running 3 tests
error: test failed, to rerun pass `-p flannel-tests --test e2e_x`
Caused by:
  process didn't exit successfully: `e2e_x` (signal: 6, SIGABRT: process abort signal)",
        );
        assert!(outcomes.failed().is_empty());
        assert!(!outcomes.is_complete());
    }

    #[test]
    fn a_name_that_was_lost_is_missed() {
        let outcomes = read(
            "     Running tests/e2e_x.rs (target/debug/deps/e2e_x-66)
failures:
    a
a line of a daemon's    b

test result: FAILED. 1 passed; 2 failed; 0 ignored
error: test failed, to rerun pass `-p flannel-tests --test e2e_x`",
        );
        assert!(!outcomes.is_complete());
    }
}
