//! Options that all commands share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::output::Format;
use crate::dataplane::view::{self, View, ViewError};
use crate::node::mark;

/// What to look at, and how to show it.
#[derive(Debug, Clone, Args)]
pub struct Look {
    /// Where the bpf file system is mounted
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Name or etcd prefix of the network; needed when this node is in several. Of the agent's flags, which may all be there,
    /// --etcd-prefix says it, too
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    #[arg(long, value_name = "PREFIX", hide = true)]
    pub etcd_prefix: Option<String>,
    /// For people or for programs
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// Show it again and again, with so many seconds in between
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
}

impl Look {
    pub(super) fn pause(&self) -> Option<Duration> {
        self.watch.map(Duration::from_secs)
    }

    pub(super) fn view(&self) -> Result<View, ViewError> {
        let folder = Path::new(&self.bpffs);
        if let (Some(network), Some(prefix)) = (&self.network, &self.etcd_prefix) {
            // One of several that have their keys under the prefix.
            let whole = mark::network_name(&format!("{prefix}/{network}"));
            if view::networks(folder)?.contains(&whole) {
                return View::open(folder, Some(&whole));
            }
        }
        if let (Some(name), None) = (&self.network, &self.etcd_prefix)
            && let Some(whole) = below_any_prefix(&view::networks(folder)?, name)
        {
            return View::open(folder, Some(&whole));
        }
        let network = self.network.as_ref().or(self.etcd_prefix.as_ref());
        View::open(folder, network.map(String::as_str))
    }

    /// Each network that this node has, where none is chosen and there are several.
    pub(super) fn each(&self) -> Result<Vec<Self>, ViewError> {
        let only = |network: &str| Self {
            network: Some(network.to_owned()),
            etcd_prefix: None,
            ..self.clone()
        };
        match (self.view(), &self.network, &self.etcd_prefix) {
            (Err(ViewError::Several(found)), ..) => Ok(found.iter().map(|n| only(n)).collect()),
            // The prefix of several.
            (Err(ViewError::NoSuchNetwork { found, wanted, .. }), None, Some(_))
                if found.iter().any(|network| is_below(network, &wanted)) =>
            {
                let below = found.iter().filter(|network| is_below(network, &wanted));
                Ok(below.map(|network| only(network)).collect())
            }
            (view, ..) => view.map(|_| vec![self.clone()]),
        }
    }
}

/// Whether a network's keys may be under the prefix of this name.
fn is_below(network: &str, prefix: &str) -> bool {
    let rest = network.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.starts_with('_'))
}

/// The one network that `--networks` calls `name`, where none is called so in full.
fn below_any_prefix<'a>(
    found: impl IntoIterator<Item = &'a String> + Clone,
    name: &str,
) -> Option<String> {
    let name = mark::network_name(name);
    if found.clone().into_iter().any(|network| *network == name) {
        return None;
    }
    let is_meant = |network: &&String| {
        let prefix = network.strip_suffix(&name);
        prefix.is_some_and(|prefix| prefix.ends_with('_'))
    };
    let mut meant = found.into_iter().filter(is_meant);
    let first = meant.next()?;
    meant.next().is_none().then(|| first.clone())
}

/// Runs what has to ask the kernel over netlink, in this thread's network namespace.
pub(super) fn asking<T>(question: impl AsyncFnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(question())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_found_by_the_name_that_its_daemon_has_for_it() {
        let found = |name| {
            let all = [
                "coreos_com_network",
                "coreos_com_network_blue",
                "a_green",
                "b_green",
            ];
            below_any_prefix(&all.map(str::to_owned), name)
        };
        let blue = Some("coreos_com_network_blue".to_owned());
        assert_eq!(found("blue"), blue);
        assert_eq!(found("network"), Some("coreos_com_network".to_owned()));
        assert_eq!(found("green"), None, "which of the two?");
        assert_eq!(found("lue"), None);
        assert_eq!(found("/coreos.com/network"), None, "it is called so");
    }
}
