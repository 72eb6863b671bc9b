//! The tests' own runner: what it is asked, and what it says meanwhile.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use flannel_tests::process::die_with_parent;

use super::choice::Choice;
use crate::kubectl::Kubectl;
use crate::machine::tools;

pub(super) const REPORT: &str = "report.json";
pub(super) const LOG: &str = "log.txt";

/// Runs what is chosen to its end; report and log are in `folder` then. `say` is given each line that the runner prints.
pub(super) fn run(
    kubectl: &Kubectl,
    choice: &Choice,
    folder: &Path,
    mut say: impl FnMut(&str),
) -> bool {
    let program = |name: &str| format!("{}/{name}", tools());
    // It leaves those behind that it has started, if it is killed: a namespace of processes takes them along.
    let mut command: Command = kubectl.api().netns().command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--"]);
    command.arg(program("ginkgo"));
    command.args(["-v", "--no-color", "--silence-skips", "--timeout=4h"]);
    command.arg(format!("--procs={}", choice.at_once));
    command.arg(format!("--output-dir={}", folder.display()));
    command.arg(format!("--json-report={REPORT}"));
    command.arg(format!("--focus={}", choice.focus()));
    command.args(choice.skips().map(|it| format!("--skip={it}")));
    command.arg(program("e2e.test"));
    // The nodes are nobody's cloud's.
    command.args(["--", "--provider=skeleton", "--num-nodes=2"]);
    command.arg(format!("--kubeconfig={}", kubectl.kubeconfig().display()));
    command.arg(format!("--kubectl-path={}", program("kubectl")));
    // What they leave there goes with the cluster.
    for variable in ["HOME", "TMPDIR"] {
        command.env(variable, kubectl.api().folder());
    }

    // One pipe for both, so that the order stays.
    let (output, input) = std::io::pipe().expect("a pipe");
    command.stdin(Stdio::null());
    command.stderr(input.try_clone().expect("another end of it"));
    command.stdout(input);
    die_with_parent(&mut command);
    let mut child = command.spawn().expect("start ginkgo");
    // It holds our ends of the pipe.
    drop(command);
    let mut log = File::create(folder.join(LOG)).expect("make the log");
    for line in BufReader::new(output).split(b'\n') {
        let mut line = line.expect("what ginkgo says");
        say(&String::from_utf8_lossy(&line));
        line.push(b'\n');
        log.write_all(&line).expect("write the log");
    }
    child.wait().expect("wait for ginkgo").success()
}

/// Reads which test has ended, and how, out of those lines.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The header of a test that has ended, whose name the next line says.
    ended: Option<String>,
    /// The name that was said last: where one test runs at a time it is said before, and not again if all is well.
    name: String,
}

impl Progress {
    /// What is to be shown.
    pub(super) fn read(&mut self, line: &str) -> Option<String> {
        let name = name(line);
        let said = self.ended.take().map(|header| {
            let name = name.as_ref().unwrap_or(&self.name);
            format!("test sig-network::{name} … {header}")
        });
        self.ended = header(line);
        if let Some(name) = name {
            self.name = name;
        }
        said
    }
}

/// `ok (1.2 s)` of `• [1.234 seconds]`.
fn header(line: &str) -> Option<String> {
    let rest = line.strip_prefix('•')?.strip_suffix(" seconds]")?;
    let (how, seconds) = rest.rsplit_once('[')?;
    let seconds: f64 = seconds.parse().ok()?;
    let how = match how.trim() {
        "" | "[SLOW TEST]" => "ok",
        _ => "FAILED",
    };
    Some(format!("{how} ({seconds:.1} s)"))
}

/// Without what all have in common, and without the labels behind it.
fn name(line: &str) -> Option<String> {
    let rest = line.strip_prefix("[sig-network] ")?;
    let name = rest
        .rsplit_once(" [sig-network")
        .map_or(rest, |(name, _)| name);
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[&str]) -> Vec<String> {
        let mut progress = Progress::default();
        lines
            .iter()
            .filter_map(|line| progress.read(line))
            .collect()
    }

    #[test]
    fn of_many_at_once_the_name_comes_behind() {
        let lines = [
            "------------------------------",
            "• [5.125 seconds]",
            "[sig-network] Services should serve [Conformance] [sig-network, Conformance]",
            "k8s.io/kubernetes/test/e2e/network/service.go:1",
            "------------------------------",
            "• [FAILED] [300.050 seconds]",
            "[sig-network] DNS [It] should answer [sig-network]",
        ];
        assert_eq!(
            shown(&lines),
            [
                "test sig-network::Services should serve [Conformance] … ok (5.1 s)",
                "test sig-network::DNS [It] should answer … FAILED (300.1 s)"
            ]
        );
    }

    #[test]
    fn of_one_at_a_time_it_comes_before() {
        let lines = [
            "[sig-network] Netpol should deny [Feature:NetworkPolicy] [sig-network, Feature:NetworkPolicy]",
            "  Nov 30 17:00:00.000: INFO: • nothing",
            "• [SLOW TEST] [61.000 seconds]",
            "------------------------------",
        ];
        assert_eq!(
            shown(&lines),
            ["test sig-network::Netpol should deny [Feature:NetworkPolicy] … ok (61.0 s)"]
        );
    }
}
