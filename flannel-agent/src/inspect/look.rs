//! Options that all commands share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::output::Format;
use crate::dataplane::view::{View, ViewError};

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
        let network = self.network.as_ref().or(self.etcd_prefix.as_ref());
        View::open(Path::new(&self.bpffs), network.map(String::as_str))
    }
}

/// Runs what has to ask the kernel over netlink, in this thread's network namespace.
pub(super) fn asking<T>(question: impl AsyncFnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(question())
}
