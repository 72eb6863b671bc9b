//! For programs that build a lab outside the test runner: whatever ends them, nothing stays behind.

use std::env;
use std::process::{Command, ExitCode, Termination};

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::sweep;

const WORKER: &str = "FLANNEL_LAB_WORKER";

/// Runs `work` in a child process that is this same program, and removes what the child left.
pub fn run<T: Termination>(work: impl FnOnce() -> T) -> ExitCode {
    if env::var_os(WORKER).is_some() {
        return work().report();
    }
    // Ctrl-C goes to both of us; the child ends by it, and we stay to sweep. The handler does nothing,
    // instead of SIG_IGN, because an ignored signal stays ignored across exec.
    for sig in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler is an empty function, which is safe in any context.
        unsafe { signal(sig, SigHandler::Handler(stay)) }.expect("set a signal handler");
    }
    let program = env::current_exe().expect("our own path");
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1)).env(WORKER, "1");
    let status = command.spawn().and_then(|mut child| child.wait());
    let status = status.unwrap_or_else(|e| panic!("run {command:?}: {e}"));
    sweep::dead_labs();
    if status.success() {
        return ExitCode::SUCCESS;
    }
    eprintln!("ended early ({status}); what it had made is removed");
    ExitCode::FAILURE
}

extern "C" fn stay(_signal: i32) {}
