//! Keeps the subnet file, and the CNI network if one is wanted, equal to what the node does.

use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::node::Wanted;
use crate::flannel::cni;
use crate::flannel::subnet_env::{self, SubnetEnv};

/// The file, and what it says since we wrote it.
#[derive(Debug)]
pub(super) struct SubnetFile {
    path: PathBuf,
    cni: Option<CniNetwork>,
    ip_masq: bool,
    written: Option<SubnetEnv>,
    /// Why something could not be written the last time.
    failure: Option<String>,
}

/// The CNI network that is wanted.
#[derive(Debug, Clone)]
pub(super) struct CniNetwork {
    pub(super) folder: PathBuf,
    pub(super) bridge: String,
}

impl SubnetFile {
    pub(super) fn new(path: PathBuf, cni: Option<CniNetwork>, ip_masq: bool) -> Self {
        Self {
            path,
            cni,
            ip_masq,
            written: None,
            failure: None,
        }
    }

    /// The subnet of the previous run. A file that cannot be read is no reason not to start.
    pub(super) fn previous_subnet(&self) -> Option<Ipv4Net> {
        match subnet_env::read(&self.path) {
            Ok(previous) => previous.subnet,
            Err(error) => {
                tracing::warn!("the previous subnet is unknown: {error:#}");
                None
            }
        }
    }

    /// Writes what has to say something else. What fails is logged when it begins, when it changes and when it is over; it is
    /// tried again with the next call.
    pub(super) fn update(&mut self, wanted: &Wanted, mtu: u32) {
        let env = SubnetEnv {
            network: wanted.network.network,
            subnet: wanted.own.subnet,
            mtu,
            ip_masq: self.ip_masq,
        };
        // Whoever finds the network may rely on the subnet file.
        let outcome = self.write(&env).and_then(|()| self.write_cni(&env));
        let failure = outcome.err().map(|error| format!("{error:#}"));
        match (&self.failure, &failure) {
            (before, Some(now)) if before.as_ref() != Some(now) => tracing::warn!("{now}"),
            (Some(before), None) => tracing::info!("not any more: {before}"),
            _ => {}
        }
        self.failure = failure;
    }

    /// Why something is not written.
    pub(super) fn complaint(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn write_cni(&self, env: &SubnetEnv) -> anyhow::Result<()> {
        let Some(CniNetwork { folder, bridge }) = &self.cni else {
            return Ok(());
        };
        if cni::write(folder, bridge, env)? {
            tracing::info!("wrote {}", cni::path(folder).display());
        }
        Ok(())
    }

    fn write(&mut self, env: &SubnetEnv) -> anyhow::Result<()> {
        // Compared with the disk, not only with our memory: CNI plugins fail without the file, and
        // whoever empties /run takes it away, and a flanneld that was started by mistake writes its own.
        let is_known = self.written.as_ref() == Some(env);
        if is_known && subnet_env::is_written(&self.path, env) {
            return Ok(());
        }
        self.written = None;
        env.write(&self.path)?;
        if is_known {
            crate::base::counters::drift_repaired("write_subnet_file");
        }
        tracing::info!(subnet = %env.subnet, mtu = env.mtu, "wrote {}", self.path.display());
        self.written = Some(env.clone());
        Ok(())
    }
}
