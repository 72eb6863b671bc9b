//! `cleanup`: takes a network off this node. Only what carries our mark goes; the subnet file and the lease
//! stay, so that whoever comes next – flanneld, or the agent again – gets the same subnet.

mod find;
mod step;

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::{Context as _, bail};

use crate::base::logging::describe;
use crate::dataplane::{self, Life};
use crate::node::mark;
use crate::node::net::Netlink;
use crate::settings::Config;
use find::Found;
pub use step::Step;

/// How a clean-up ends that found what it looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The node had nothing of the network.
    NothingToDo,
    Removed,
    /// A dry run: all of it is still there.
    WouldRemove,
}

/// Removes everything of the network that `config` names, and says what; a dry run only says.
///
/// # Errors
/// An agent that runs; what the kernel or iptables refuses, or nobody can do for want of iptables; what could not be looked at. The
/// rest is gone then.
pub fn main(config: &Config, dry_run: bool) -> anyhow::Result<Outcome> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(clean_each(config, dry_run))
}

/// What one refuses is no reason to leave the others.
async fn clean_each(config: &Config, dry_run: bool) -> anyhow::Result<Outcome> {
    let Some(networks) = &config.networks else {
        return clean(config, dry_run).await;
    };
    let mut outcome = Outcome::NothingToDo;
    let mut failed = Vec::new();
    for name in networks.known(config)? {
        let cleaned = match config.of_network(networks, &name) {
            Ok(config) => clean(&config, dry_run).await,
            Err(error) => Err(error.into()),
        };
        match cleaned {
            Ok(Outcome::NothingToDo) => {}
            Ok(done) => outcome = done,
            Err(error) => failed.push(describe(&error)),
        }
    }
    match failed.as_slice() {
        [] => Ok(outcome),
        failed => bail!("{}", failed.join("; ")),
    }
}

/// Takes a network off this node whose agent has ended; says so in the log.
///
/// # Errors
/// As [`main`].
pub async fn take_down(config: &Config) -> anyhow::Result<()> {
    let net = Netlink::open()?;
    let found = find::look(&net, config).await;
    let mut left = 0;
    for step in &found.steps {
        match step.perform(&net, config).await {
            Ok(()) => tracing::info!("removed {step}"),
            Err(error) => {
                tracing::warn!("cannot remove {step}: {}", describe(&error));
                left += 1;
            }
        }
    }
    for why in &found.unseen {
        tracing::warn!("{why}");
    }
    found.is_settled(&config.etcd.prefix, left)
}

async fn clean(config: &Config, dry_run: bool) -> anyhow::Result<Outcome> {
    let prefix = &config.etcd.prefix;
    if !dry_run && dataplane::life(&config.bpffs, &mark::network_name(prefix)) == Life::Lives {
        bail!(
            "an agent of {prefix} runs on this node and would make everything anew: stop it first"
        );
    }
    let net = Netlink::open()?;
    let found = find::look(&net, config).await;
    let (out, err) = (&mut io::stdout(), &mut io::stderr());
    let mut left = 0;
    for step in &found.steps {
        if dry_run {
            say(out, format_args!("would remove {step}"));
            continue;
        }
        // What one refuses is no reason to leave the rest.
        match step.perform(&net, config).await {
            Ok(()) => say(out, format_args!("removed {step}")),
            Err(error) => {
                say(
                    err,
                    format_args!("cannot remove {step}: {}", describe(&error)),
                );
                left += 1;
            }
        }
    }
    for why in &found.unseen {
        say(err, why);
    }
    if !dry_run {
        dataplane::remove_empty_folder(&config.bpffs);
    }
    found.is_settled(prefix, left)?;
    Ok(match (found.steps.is_empty(), dry_run) {
        (true, _) => {
            say(
                out,
                format_args!("nothing to do: nothing of {prefix} is on this node"),
            );
            Outcome::NothingToDo
        }
        (false, true) => Outcome::WouldRemove,
        (false, false) => Outcome::Removed,
    })
}

/// Nobody may read it (a closed pipe), or a disk may be full: no reason to leave a node half cleaned, as `println!` would, which panics.
fn say(out: &mut dyn Write, line: impl Display) {
    let _ = writeln!(out, "{line}");
}

impl Found {
    /// `left`: so many things could not be removed.
    fn is_settled(&self, prefix: &str, left: usize) -> anyhow::Result<()> {
        let all = self.steps.len();
        match (left, self.unseen.len()) {
            (0, 0) => Ok(()),
            (_, 0) => bail!("{left} of {all} things of {prefix} are still there"),
            (0, unseen) => {
                bail!("{unseen} places could not be looked at: more of {prefix} may be there")
            }
            (_, unseen) => bail!(
                "{left} of {all} things of {prefix} are still there, and {unseen} places could not be looked at"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_does_not_read_stops_nothing() {
        let mut full: &mut [u8] = &mut [0; 3];
        say(&mut full, "removed flannel.1");
        say(&mut full, "removed flgro.1");
        let mut out = Vec::new();
        say(&mut out, "removed flannel.1");
        assert_eq!(out, b"removed flannel.1\n");
    }
}
