//! For programs that build a lab outside the test runner: whatever ends them, nothing stays behind.

use std::env;
use std::process::{Command, ExitCode, ExitStatus, Termination};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::process::die_with_parent;
use crate::sweep;

const WORKER: &str = "FLANNEL_LAB_WORKER";

/// The child, for the signal handler.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// Runs `work` in a child process that is this same program, and removes what the child left.
pub fn run<T: Termination>(work: impl FnOnce() -> T) -> ExitCode {
    if env::var_os(WORKER).is_some() {
        return work().report();
    }
    // The child ends by these, and we stay to sweep. Not SIG_IGN: an ignored signal stays ignored across exec.
    for sig in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only reads an atomic and calls kill(2), which is safe in a signal handler.
        unsafe { signal(sig, SigHandler::Handler(pass_on)) }.expect("set a signal handler");
    }
    let program = env::current_exe().expect("our own path");
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1)).env(WORKER, "1");
    die_with_parent(&mut command);
    let status = command.spawn().and_then(|mut child| {
        CHILD.store(child.id().cast_signed(), Ordering::Relaxed);
        child.wait()
    });
    CHILD.store(0, Ordering::Relaxed);
    let status = status.unwrap_or_else(|e| panic!("run {command:?}: {e}"));
    sweep::dead_labs();
    report(status)
}

/// The child's own exit code; what ended it, where it has none.
fn report(status: ExitStatus) -> ExitCode {
    if let Some(code) = status.code() {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    eprintln!("ended early ({status}); what it had made is removed");
    ExitCode::FAILURE
}

/// Ctrl-C goes to both of us, but `kill` to one only.
extern "C" fn pass_on(signal: i32) {
    let child = CHILD.load(Ordering::Relaxed);
    if child > 0 {
        // SAFETY: a plain system call; no memory is passed.
        unsafe { libc::kill(child, signal) };
    }
}
