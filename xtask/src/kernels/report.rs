//! What the guest's test programs print, as the tests of one run on the host.

use std::time::Duration;

use anyhow::{Result, bail};

/// Counts, and what is being run.
#[derive(Debug, Default)]
pub(super) struct Report {
    kernel: String,
    program: Option<Program>,
    passed: usize,
    failed: Vec<String>,
    ignored: usize,
    filtered: usize,
}

/// One test program of the guest, while it runs.
#[derive(Debug)]
struct Program {
    name: String,
    /// Tests that it said it would run.
    announced: usize,
    seen: usize,
    failed: usize,
    /// Behind the list of results: what the failed ones printed.
    details: bool,
}

/// What to do after a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Done,
}

impl Report {
    pub(super) fn new(kernel: &str) -> Self {
        Self {
            kernel: format!("linux-{kernel}"),
            ..Self::default()
        }
    }

    /// Takes one line of the guest; what is to be shown goes to `show`.
    pub(super) fn line(&mut self, line: &str, show: &mut impl FnMut(&str)) -> Next {
        if let Some(word) = line.strip_prefix("@@ ") {
            return self.mark(word, show);
        }
        let Some(program) = &mut self.program else {
            // Before the first program: what mounting and loading modules complained of.
            show(line);
            return Next::Continue;
        };
        if program.details {
            // Not its closing line: there is one for all.
            match line.strip_prefix("test result: ") {
                Some(counts) => self.filtered += filtered(counts),
                None => show(line),
            }
            return Next::Continue;
        }
        if let Some(count) = announced(line) {
            program.announced += count;
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.filtered += filtered(counts);
        } else if line == "failures:" {
            program.details = true;
        } else if let Some((name, result)) = result(line) {
            let name = format!("{}::{}::{name}", self.kernel, program.name);
            show(&format!("test {name} ... {result}"));
            program.seen += 1;
            match result.split(',').next() {
                Some("ok") => self.passed += 1,
                Some("ignored") => self.ignored += 1,
                _ => {
                    program.failed += 1;
                    self.failed.push(name);
                }
            }
        } else if !line.is_empty() {
            show(line);
        }
        Next::Continue
    }

    fn mark(&mut self, word: &str, show: &mut impl FnMut(&str)) -> Next {
        let mut words = word.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("run"), Some(name), _) => {
                self.program = Some(Program {
                    name: name.to_owned(),
                    announced: 0,
                    seen: 0,
                    failed: 0,
                    details: false,
                });
            }
            (Some("end"), Some(_), Some(code)) => {
                if let Some(program) = self.program.take() {
                    self.end(&program, code, show);
                }
            }
            (Some("done"), ..) => return Next::Done,
            _ => {}
        }
        Next::Continue
    }

    /// A program that ended early, or with an error that no test explains, is a failure itself.
    fn end(&mut self, program: &Program, code: &str, show: &mut impl FnMut(&str)) {
        let explained = code == "0" || program.failed > 0;
        if program.announced == program.seen && explained {
            return;
        }
        let name = format!("{}::{}", self.kernel, program.name);
        show(&format!(
            "test {name} ... FAILED (exit code {code}, {} of {} tests reported)",
            program.seen, program.announced
        ));
        self.failed.push(name);
    }

    /// The closing line, as libtest writes it.
    pub(super) fn closing_line(&self, took: Duration) -> String {
        format!(
            "test result: {}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s",
            if self.failed.is_empty() {
                "ok"
            } else {
                "FAILED"
            },
            self.passed,
            self.failed.len(),
            self.ignored,
            self.filtered,
            took.as_secs_f32()
        )
    }

    /// # Errors
    /// Names what failed; a run of no test has failed as well.
    pub(super) fn verdict(&self) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("{} failed: {}", self.failed.len(), self.failed.join(", "));
        }
        if self.passed == 0 {
            bail!("no test ran on {}", self.kernel);
        }
        Ok(())
    }
}

/// `running 13 tests`
fn announced(line: &str) -> Option<usize> {
    let count = line.strip_prefix("running ")?;
    let count = count
        .strip_suffix(" tests")
        .or(count.strip_suffix(" test"))?;
    count.parse().ok()
}

/// `test a_name ... ok`
fn result(line: &str) -> Option<(&str, &str)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // The name of a test that must panic has a remark behind it.
    Some((name.split(' ').next()?, result))
}

/// Of `ok. 13 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; …`.
fn filtered(counts: &str) -> usize {
    counts
        .split("; ")
        .find_map(|count| count.strip_suffix(" filtered out")?.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report of what a guest printed, and what was shown of it.
    fn report(lines: &str) -> (Report, Vec<String>, Next) {
        let mut report = Report::new("6.1");
        let mut shown = Vec::new();
        let mut next = Next::Continue;
        for line in lines.lines() {
            next = report.line(line, &mut |line| shown.push(line.to_owned()));
        }
        (report, shown, next)
    }

    #[test]
    fn names_carry_kernel_and_program() {
        let (report, shown, next) = report(
            "@@ run packet_bridge\n\nrunning 2 tests\ntest one ... ok\ntest two ... ignored, needs bonding\n\n\
             test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 1.00s\n\
             \n@@ end packet_bridge 0\n@@ done",
        );
        assert_eq!(
            shown,
            [
                "test linux-6.1::packet_bridge::one ... ok",
                "test linux-6.1::packet_bridge::two ... ignored, needs bonding"
            ]
        );
        assert_eq!(next, Next::Done);
        assert_eq!(
            report.closing_line(Duration::from_millis(1500)),
            "test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 1.50s"
        );
        report.verdict().unwrap();
    }

    #[test]
    fn a_failed_test_shows_what_it_printed() {
        let (report, shown, _) = report(
            "@@ run e\nrunning 1 test\ntest one ... FAILED\n\nfailures:\n\n---- one stdout ----\nwhy\n\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s\n\
             @@ end e 101",
        );
        assert!(shown.contains(&"why".to_owned()), "{shown:?}");
        assert!(!shown.iter().any(|line| line.starts_with("test result")));
        let error = report.verdict().unwrap_err().to_string();
        assert_eq!(error, "1 failed: linux-6.1::e::one");
    }

    #[test]
    fn a_program_that_dies_or_loses_a_result_has_failed() {
        for lines in [
            "@@ run e\nrunning 2 tests\ntest one ... ok\n@@ end e 134",
            "@@ run e\nrunning 2 tests\ntest one ... ok\n@@ end e 0",
            "@@ run e\n@@ end e 127",
        ] {
            let (report, shown, _) = report(lines);
            assert!(report.verdict().is_err(), "{lines}");
            assert!(
                shown
                    .iter()
                    .any(|line| line.starts_with("test linux-6.1::e ... FAILED"))
            );
        }
    }

    #[test]
    fn nothing_run_is_no_success() {
        let (report, _, _) = report("@@ run e\nrunning 0 tests\n@@ end e 0\n@@ done");
        assert!(report.verdict().is_err());
    }
}
