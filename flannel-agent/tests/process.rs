//! The binary as supervisors see it: exit status, streams, signals. The signals need root: an agent
//! that lacks the capabilities ends before it waits for anything.

#![cfg(test)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flannel-agent"));
    command.env_clear().args(arguments);
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = agent(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// An agent that waits for an etcd that nobody runs.
struct Waiting {
    child: Child,
    log: BufReader<ChildStderr>,
    _bpffs: tempfile::TempDir,
}

impl Waiting {
    fn start() -> Self {
        let bpffs = tempfile::tempdir().unwrap();
        // In a mount and network namespace of its own: what it mounts and opens ends with it, and
        // no etcd can answer.
        let mut child = Command::new("unshare")
            .args(["--mount", "--net", env!("CARGO_BIN_EXE_flannel-agent")])
            .args([
                "--etcd-endpoints=http://127.0.0.1:2379",
                "--log-format=json",
            ])
            .arg("--bpffs")
            .arg(bpffs.path())
            // What an agent of this machine may have kept is not ours.
            .arg("--snapshot-dir=")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut waiting = Self {
            child,
            log,
            _bpffs: bpffs,
        };
        waiting.says("waiting for the network configuration");
        waiting
    }

    /// Reads the log up to a line with `text`.
    fn says(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let read = self.log.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "it ended without saying {text:?}");
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    fn ends(mut self) -> (Option<i32>, Option<i32>) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        (status.code(), status.signal())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Only a test that failed finds it alive.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn version_goes_to_stderr() {
    for flag in ["--version", "-version", "-V"] {
        let (code, stdout, stderr) = run(&[flag]);
        assert_eq!(code, Some(0));
        assert_eq!(stdout, "");
        assert_eq!(
            stderr,
            format!("flannel-agent v{}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn a_command_line_that_cannot_be_read_is_2() {
    for arguments in [
        ["--ifcae=eth0"].as_slice(),
        &["--healthz-port=port"],
        &["--config=/nowhere/agent.toml"],
        &["run"],
        &["config", "--iface=eth0"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn a_setting_that_cannot_be_used_is_1_and_one_log_line() {
    for (argument, named) in [
        ("--kube-subnet-mgr", "--kubeconfig-file"),
        ("--public-ip=nowhere", "--public-ip"),
        ("--etcd-endpoints=ftp://x", "--etcd-endpoints"),
        (
            "--subnet-lease-renew-margin=1440",
            "--subnet-lease-renew-margin",
        ),
    ] {
        let (code, stdout, stderr) = run(&[argument, "--log-format=json"]);
        assert_eq!(code, Some(1), "{stderr}");
        assert_eq!(stdout, "");
        let last: serde_json::Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        assert_eq!(last["level"], "ERROR");
        let message = last["message"].as_str().unwrap();
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn config_show_fails_when_a_setting_cannot_be_used() {
    let (code, stdout, _) = run(&["config", "show", "--etcd-prefix=/x"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("etcd-prefix = \"/x\""), "{stdout}");
    for wrong in ["--public-ip=nowhere", "--etcd-endpoints=ftp://x"] {
        let (code, stdout, stderr) = run(&["config", "show", wrong]);
        assert_eq!(code, Some(1));
        assert!(stdout.contains("etcd-prefix"), "{stdout}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn a_busy_health_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (code, _, stderr) = run(&["--healthz-ip=127.0.0.1", &format!("--healthz-port={port}")]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&format!("127.0.0.1:{port}")), "{stderr}");
    assert!(stderr.contains("--healthz-port"), "{stderr}");
}

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let waiting = Waiting::start();
        waiting.signal(signal);
        assert_eq!(waiting.ends(), (Some(0), None));
    }
}

#[test]
fn sighup_is_ignored() {
    let mut waiting = Waiting::start();
    waiting.signal(Signal::SIGHUP);
    waiting.says("SIGHUP ignored");
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.ends(), (Some(0), None));
}
