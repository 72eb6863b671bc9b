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

    /// Writes what has to say something else. Returns whether all is right now; what failed is logged,
    /// and tried again with the next call.
    pub(super) fn update(&mut self, wanted: &Wanted, mtu: u32) -> bool {
        let env = SubnetEnv {
            network: wanted.network.network,
            subnet: wanted.own.subnet,
            mtu,
            ip_masq: self.ip_masq,
        };
        // Whoever finds the network may rely on the subnet file.
        self.update_subnet_file(&env) && self.update_cni(&env)
    }

    fn update_cni(&self, env: &SubnetEnv) -> bool {
        let Some(CniNetwork { folder, bridge }) = &self.cni else {
            return true;
        };
        match cni::write(folder, bridge, env) {
            Ok(written) => {
                if written {
                    tracing::info!("wrote {}", cni::path(folder).display());
                }
                true
            }
            Err(error) => {
                tracing::warn!("{error:#}");
                false
            }
        }
    }

    fn update_subnet_file(&mut self, env: &SubnetEnv) -> bool {
        // Compared with the disk, not only with our memory: CNI plugins fail without the file, and
        // whoever empties /run takes it away.
        if self.written.as_ref() == Some(env) && self.path.exists() {
            return true;
        }
        let is_gone = self.written.as_ref() == Some(env);
        match env.write(&self.path) {
            Ok(()) => {
                if is_gone {
                    crate::base::counters::drift_repaired("write_subnet_file");
                }
                tracing::info!(
                    subnet = %env.subnet,
                    mtu = env.mtu,
                    "wrote {}",
                    self.path.display()
                );
                self.written = Some(env.clone());
                true
            }
            Err(error) => {
                tracing::warn!("{error:#}");
                self.written = None;
                false
            }
        }
    }
}
