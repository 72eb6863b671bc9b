//! Leaves nothing behind, whatever ends the demo: a child does the work, we sweep up after it.

use std::process::{Command, ExitCode};

use flannel_tests::sweep;
use nix::sys::signal::{SigHandler, Signal, signal};

const WORKER: &str = "FLANNEL_DEMO_WORKER";

/// Runs `work` in a child process, and removes what the child left.
pub(crate) fn run(work: fn()) -> ExitCode {
    if std::env::var_os(WORKER).is_some() {
        work();
        return ExitCode::SUCCESS;
    }
    // Ctrl-C goes to both of us; the child ends by it, and we stay to sweep. The handler does nothing,
    // instead of SIG_IGN, because an ignored signal stays ignored across exec.
    for sig in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler is an empty function, which is safe in any context.
        unsafe { signal(sig, SigHandler::Handler(stay)) }.expect("set a signal handler");
    }
    let demo = std::env::current_exe().expect("our own path");
    let mut child = Command::new(demo)
        .env(WORKER, "1")
        .spawn()
        .expect("start the demo");
    let status = child.wait().expect("wait for the demo");
    sweep::dead_labs();
    if status.success() {
        println!("   namespaces, links, maps and programs are gone");
        return ExitCode::SUCCESS;
    }
    eprintln!("the demo ended early ({status}); what it had made is removed");
    ExitCode::FAILURE
}

extern "C" fn stay(_signal: i32) {}
