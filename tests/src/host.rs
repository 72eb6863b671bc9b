//! Anything with a network namespace of its own: a node, a pod, a server outside.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::process::{Command, Output};

use crate::netns::{Netns, output, run};
use crate::ping::Ping;

/// A machine of the lab. Everything that needs only its namespace is a method of this trait.
pub trait Host {
    fn netns(&self) -> &Netns;

    /// Runs a command line (split at white space) inside and returns what it printed.
    #[track_caller]
    fn exec(&self, line: &str) -> String {
        run(&mut self.command(line))
    }

    /// As [`Host::exec`], for commands that may fail.
    #[track_caller]
    fn try_exec(&self, line: &str) -> Output {
        output(&mut self.command(line))
    }

    /// The command that runs `line` (split at white space) inside.
    fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = self.netns().command(words.next().expect("a command"));
        command.args(words);
        command
    }

    /// A ping to `to`, to be refined and sent.
    fn ping(&self, to: Ipv4Addr) -> Ping<'_, Self> {
        Ping::new(self, to)
    }

    /// Sets a sysctl of this namespace; `name` with slashes or dots.
    #[track_caller]
    fn sysctl(&self, name: &str, value: impl Display) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = value.to_string();
        // /proc/sys/net shows the namespace of the thread that opens the file.
        self.netns().enter(|| {
            std::fs::write(&path, &value).unwrap_or_else(|e| panic!("{path} = {value}: {e}"));
        });
    }

    /// Runs `ip -batch` with one command a line.
    #[track_caller]
    fn ip_batch(&self, commands: &[String]) {
        batch(&mut self.command("ip -batch -"), commands);
    }
}

impl Host for Netns {
    fn netns(&self) -> &Netns {
        self
    }
}

/// Feeds `commands` to a tool that reads one a line.
///
/// # Panics
/// If the tool cannot be started or refuses a line.
#[track_caller]
pub fn batch(command: &mut Command, commands: &[String]) {
    use std::io::Write as _;
    use std::process::Stdio;

    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let text = commands.join("\n") + "\n";
    child
        .stdin
        .take()
        .expect("a piped stdin")
        .write_all(text.as_bytes())
        .unwrap_or_else(|e| panic!("write to {command:?}: {e}"));
    let output = child.wait_with_output().expect("wait for a child");
    assert!(
        output.status.success(),
        "{command:?} refused\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
