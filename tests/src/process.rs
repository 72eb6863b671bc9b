//! Long-running children: their output kept in a file, their life bound to ours.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::panicking;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::eventually_some;

/// A child process, killed on drop; its log is printed if the test is panicking by then.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    /// Where our part of the log begins: an earlier run may have written to the same file.
    begin: usize,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|e| panic!("log {}: {e}", log.display()));
        let begin = out.metadata().expect("the length of the log").len();
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("duplicate the log"))
            .stderr(out);
        die_with_parent(&mut command);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("start {name} ({command:?}): {e}"));
        Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
            begin: usize::try_from(begin).expect("fits"),
        }
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.begin..).unwrap_or_default()).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it still runs at the deadline.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("end of {}", self.name);
        eventually_some(what, deadline, || self.exited())
    }

    /// SIGTERM, then waits for the end.
    #[track_caller]
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(deadline)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        // Both fail only if it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("pids fit in i32");
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("{signal} to {pid}: {e}"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if panicking() {
            eprintln!("---- log of {}\n{}", self.name, self.log());
        }
    }
}

/// A test process that is killed takes its children along (the kernel's parent-death signal).
pub fn die_with_parent(command: &mut Command) {
    let arm = || -> io::Result<()> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: between fork and exec only the prctl system call is made: no allocation, no lock.
    unsafe { command.pre_exec(arm) };
}
