//! Commands that look at the node and change nothing. They read what is pinned, so they work without an
//! agent, too.

mod bundle;
mod capture;
mod doctor;
mod flows;
mod look;
mod maps;
mod monitor;
mod nat;
mod output;
mod peers;
mod preview;
mod routes;
mod sealed;
mod several;
mod stats;
mod status;
mod trace;
mod wanted;

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::thread::sleep;

use clap::Subcommand;

use crate::base::logging::describe;
use crate::settings::Config;
pub use bundle::Debug as DebugTask;
pub use doctor::Doctor;
pub use look::Look;
pub use preview::Plan;

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// One screen: what this node is in its network, what is attached, and what needs attention
    ///
    /// Exit status: 0 all well; 1 it forwards, but something needs attention; 2 it does not forward, or
    /// cannot be looked at.
    Status(status::Command),
    /// The other nodes' subnets and how they are reached
    Peers(peers::Command),
    /// Routes into the network, ours and others
    Routes(Look),
    /// Flows that may skip the stack, or soon will
    Flows(flows::Flows),
    /// Flows that leave under the node's address, and for how long they are remembered
    Nat(nat::Nat),
    /// The BPF maps and how full they are; with a name, what is in one
    Maps(maps::Maps),
    /// Send a packet through copies of this node's programs: every decision, and nothing else changes
    ///
    /// Exit status: 0 our programs let it through; 1 it is dropped; 2 it cannot be traced.
    Trace(trace::Trace),
    /// Show packets as the programs decide about them, until interrupted; one monitor or capture at a time
    Monitor(monitor::Monitor),
    /// Write packets as the programs decide about them, whole and with hook and verdict as comments, until interrupted (pcapng)
    ///
    /// For example: flannel-agent capture --pod=10.244.1.2 | wireshark -k -i -
    Capture(capture::Capture),
    /// Packets by program and reason
    Stats(Look),
}

/// How a command ends that could look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Exit status 0.
    Fine,
    /// Exit status 1.
    Attention,
    /// Exit status 2, also that of a command that could not look.
    Broken,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(verdict as u8)
    }
}

/// Runs one command.
#[must_use]
pub fn run(inspect: &Inspect) -> ExitCode {
    end(repeat(inspect))
}

/// Runs `doctor` on a node with these settings.
#[must_use]
pub fn examine(doctor: &Doctor, config: &Config) -> ExitCode {
    let mut out = io::stdout().lock();
    let examine = |config: &Config, out: &mut dyn Write| doctor.examine(config, out);
    end(several::each(config, doctor.output, &mut out, examine))
}

/// Runs a `debug` command; `config`: what its flags mean, `shown`: as `config show` prints them.
#[must_use]
pub fn debug(task: &DebugTask, config: Result<&Config, &anyhow::Error>, shown: &str) -> ExitCode {
    let DebugTask::Bundle(bundle) = task;
    let mut out = io::stdout().lock();
    end(bundle.make(config, shown, &mut out))
}

/// Runs `plan` on a node with these settings.
#[must_use]
pub fn preview(plan: &Plan, config: &Config) -> ExitCode {
    let mut out = io::stdout().lock();
    let show = |config: &Config, out: &mut dyn Write| plan.show(config, out);
    end(several::each(config, plan.output, &mut out, show))
}

fn end(outcome: anyhow::Result<Verdict>) -> ExitCode {
    match outcome {
        Ok(verdict) => verdict.into(),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            Verdict::Broken.into()
        }
    }
}

/// Once, or until interrupted.
fn repeat(inspect: &Inspect) -> anyhow::Result<Verdict> {
    let look = inspect.look();
    let Some(pause) = look.pause() else {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let verdict = show(inspect, &mut out)?;
        out.flush()?;
        return Ok(verdict);
    };
    loop {
        // Whole before it is shown: a screen that is built up line by line flickers.
        let mut screen = Vec::new();
        if io::stdout().is_terminal() {
            screen.extend_from_slice(b"\x1b[H\x1b[2J");
        }
        show(inspect, &mut screen)?;
        let mut out = io::stdout().lock();
        out.write_all(&screen)?;
        out.flush()?;
        drop(out);
        sleep(pause);
    }
}

impl Inspect {
    pub(crate) fn look(&self) -> &Look {
        match self {
            Self::Routes(look) | Self::Stats(look) => look,
            Self::Peers(peers) => &peers.look,
            Self::Status(status) => &status.look,
            Self::Flows(flows) => &flows.look,
            Self::Nat(nat) => &nat.look,
            Self::Trace(trace) => &trace.look,
            Self::Monitor(monitor) => &monitor.look,
            Self::Capture(capture) => &capture.look,
            Self::Maps(maps) => &maps.look,
        }
    }
}

fn show(inspect: &Inspect, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    match inspect {
        Inspect::Status(status) => status.show(out),
        Inspect::Peers(peers) => peers.show(out),
        Inspect::Routes(look) => routes::show(look, out),
        Inspect::Flows(flows) => flows.show(out),
        Inspect::Nat(nat) => nat.show(out),
        Inspect::Trace(trace) => trace.show(out),
        Inspect::Monitor(monitor) => monitor.show(out),
        Inspect::Capture(capture) => capture.show(out),
        Inspect::Maps(maps) => maps.show(out),
        Inspect::Stats(look) => stats::show(look, out),
    }
}

/// `flannel-agent flows | head` is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
