//! The coordinator's ends of two workers, one at each side of the overlay.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use flannel_tests::netns::Netns;
use flannel_tests::process::die_with_parent;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::job::{Answer, Job, Ready, Side, Stop, Traffic};
use crate::sample::Sample;

/// Beyond the job's own time; workers give up on a silent peer after half of it.
const PATIENCE: Duration = Duration::from_secs(20);
/// For many flows, one after the other.
const FILL_PATIENCE: Duration = Duration::from_secs(60);

/// A worker process inside a namespace.
#[derive(Debug)]
struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    role: &'static str,
}

impl Worker {
    fn start(netns: &Netns, role: &'static str) -> Self {
        let program = std::env::current_exe().expect("our own path");
        let mut command = netns.command(program.to_str().expect("a path in UTF-8"));
        command.args(["worker", role]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        die_with_parent(&mut command);
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        Self {
            input: child.stdin.take(),
            lines: lines(child.stdout.take().expect("a piped output")),
            child,
            role,
        }
    }

    fn tell(&mut self, what: &impl Serialize) -> Result<(), String> {
        let text = serde_json::to_string(what).expect("plain values");
        let input = self.input.as_mut().expect("open until it is dropped");
        writeln!(input, "{text}").map_err(|e| format!("tell the {}: {e}", self.role))
    }

    fn hear<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T, String> {
        let role = self.role;
        let line = self.lines.recv_timeout(within).map_err(|e| match e {
            RecvTimeoutError::Timeout => {
                format!("the {role} said nothing for {} s", within.as_secs())
            }
            RecvTimeoutError::Disconnected => format!("the {role} ended"),
        })?;
        let answer: Answer<T> =
            serde_json::from_str(&line).map_err(|e| format!("the {role} said {line:?}: {e}"))?;
        answer.map_err(|e| format!("the {role}: {e}"))
    }
}

/// Read by a thread, which ends with the worker: a pipe has no time-out.
fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends with its input. One that hangs is killed.
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both sides of one mode.
#[derive(Debug)]
pub(crate) struct Ends {
    client: Worker,
    server: Worker,
    address: Ipv4Addr,
}

impl Ends {
    pub(crate) fn start(client: &Netns, server: &Netns, address: Ipv4Addr) -> Self {
        Self {
            client: Worker::start(client, "client"),
            server: Worker::start(server, "server"),
            address,
        }
    }

    /// Takes one sample; the two may share a core.
    ///
    /// # Errors
    /// When a side failed: then both are of no use any more.
    pub(crate) fn sample(
        &mut self,
        job: Job,
        client_core: usize,
        server_core: usize,
    ) -> Result<Sample, String> {
        let patience = match job.traffic {
            Traffic::Fill => FILL_PATIENCE,
            _ => job.warm_up + job.time + PATIENCE,
        };
        let mut job = Job {
            core: server_core,
            server: self.address,
            ..job
        };
        self.server.tell(&job)?;
        job.ports = self.server.hear::<Ready>(PATIENCE)?.ports;
        job.core = client_core;
        self.client.tell(&job)?;
        let client: Side = self.client.hear(patience)?;
        self.server.tell(&Stop)?;
        let server: Side = self.server.hear(PATIENCE)?;
        Sample::new(&job, &client, &server)
    }
}
