//! `cleanup`: takes a network off this node. Only what carries our mark goes; the subnet file and the lease
//! stay, so that whoever comes next – flanneld, or the agent again – gets the same subnet.

mod find;
mod step;

use anyhow::{Context as _, bail};

use crate::base::logging::describe;
use crate::dataplane;
use crate::node::mark;
use crate::node::net::Netlink;
use crate::settings::Config;
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
/// An agent that runs; what the kernel or iptables refuses, or nobody can do for want of iptables. The rest is gone then.
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
    let mut failures = 0;
    for step in find::steps(&net, config).await? {
        match step.perform(&net, config).await {
            Ok(()) => tracing::info!("removed {step}"),
            Err(error) => {
                tracing::warn!("cannot remove {step}: {}", describe(&error));
                failures += 1;
            }
        }
    }
    if failures > 0 {
        bail!(
            "{failures} things of {} are still there",
            config.etcd.prefix
        );
    }
    Ok(())
}

async fn clean(config: &Config, dry_run: bool) -> anyhow::Result<Outcome> {
    let prefix = &config.etcd.prefix;
    if !dry_run && dataplane::is_looked_after(&config.bpffs, &mark::network_name(prefix)) {
        bail!(
            "an agent of {prefix} runs on this node and would make everything anew: stop it first"
        );
    }
    let net = Netlink::open()?;
    let steps = find::steps(&net, config).await?;
    let mut failures = 0;
    for step in &steps {
        if dry_run {
            println!("would remove {step}");
            continue;
        }
        // What one refuses is no reason to leave the rest.
        match step.perform(&net, config).await {
            Ok(()) => println!("removed {step}"),
            Err(error) => {
                eprintln!("cannot remove {step}: {}", describe(&error));
                failures += 1;
            }
        }
    }
    if failures > 0 {
        bail!(
            "{failures} of {} things of {prefix} are still there",
            steps.len()
        );
    }
    Ok(match (steps.is_empty(), dry_run) {
        (true, _) => {
            println!("nothing to do: nothing of {prefix} is on this node");
            Outcome::NothingToDo
        }
        (false, true) => Outcome::WouldRemove,
        (false, false) => Outcome::Removed,
    })
}
