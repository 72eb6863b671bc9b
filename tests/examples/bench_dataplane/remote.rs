//! The coordinator's ends of two workers, one at each side of the overlay.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use flannel_tests::netns::Netns;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::job::{Job, Ready, Side, Stop};
use crate::sample::Sample;

/// A worker process inside a namespace.
#[derive(Debug)]
struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    name: String,
}

impl Worker {
    fn start(netns: &Netns, role: &str) -> Self {
        let program = std::env::current_exe().expect("our own path");
        let mut command = netns.command(program.to_str().expect("a path in UTF-8"));
        command.args(["worker", role]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("a piped output")),
            child,
            name: format!("{role} in {}", netns.name()),
        }
    }

    fn tell(&mut self, what: &impl Serialize) {
        let text = serde_json::to_string(what).expect("plain values");
        let input = self.input.as_mut().expect("open until it is dropped");
        writeln!(input, "{text}").unwrap_or_else(|e| panic!("tell the {}: {e}", self.name));
    }

    fn hear<T: DeserializeOwned>(&mut self) -> T {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("read a worker");
        serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("the {} ended or said {line:?}: {e}", self.name))
    }
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
    pub(crate) fn sample(&mut self, job: Job, client_core: usize, server_core: usize) -> Sample {
        let mut job = Job {
            core: server_core,
            server: self.address,
            ..job
        };
        self.server.tell(&job);
        job.ports = self.server.hear::<Ready>().ports;
        job.core = client_core;
        self.client.tell(&job);
        let client: Side = self.client.hear();
        self.server.tell(&Stop);
        let server: Side = self.server.hear();
        Sample::new(&job, &client, &server)
    }
}
