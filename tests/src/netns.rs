//! A network namespace by name, as `ip netns` keeps it.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sched::{CloneFlags, setns};

/// Where `ip netns` binds namespaces.
pub const FOLDER: &str = "/run/netns";

/// A namespace with `lo` up; removed on drop together with its links.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// # Panics
    /// Without root, or if the name is taken.
    pub fn create(name: &str) -> Self {
        run(Command::new("ip").args(["netns", "add", name]));
        let netns = Self {
            name: name.to_owned(),
            path: Path::new(FOLDER).join(name),
        };
        run(Command::new("ip").args(["-n", name, "link", "set", "lo", "up"]));
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run inside. `nsenter` and not `ip netns exec`: the latter mounts another
    /// `/sys`, which hides the bpffs mounts.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path.display()))
            .arg("--")
            .arg(program)
            // Not on the machine itself: agents of a lab have a folder of their own.
            .env("FLANNELD_SNAPSHOT_DIR", "");
        command
    }

    /// Runs `closure` on a thread inside this namespace. Sockets made there stay inside it.
    pub fn enter<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.settle();
                    closure()
                })
                .join()
        });
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Moves the calling thread here, for good.
    ///
    /// # Panics
    /// Without root.
    pub fn settle(&self) {
        let path = &self.path;
        let file = File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
        setns(file, CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|e| panic!("enter {}: {e}", path.display()));
    }

    /// As [`Self::enter`], for a future: everything it spawns stays inside, too.
    pub fn block_on<T: Send>(&self, future: impl AsyncFnOnce() -> T + Send) -> T {
        self.enter(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(future())
        })
    }

    /// Runs a command inside, to its end, and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a command");
        run(self.command(program).args(words))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // A drop must not panic; what stays is swept by the next lab.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
/// If it cannot be started or fails; the message holds the command and its output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, whatever that is.
///
/// # Panics
/// If it cannot be started.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("start {command:?}: {e}"))
}
