//! The ports that the node itself connects from, beside those that pods' flows leave under.

use crate::flannel::config::NetworkConfig;
use crate::node::net::{NetError, sysctl};
use crate::node::node_sysctls::{NodeSysctls, RESERVED_PORTS};
use crate::node::snat_ports::{PortRange, Room, TooFew};
use crate::reconcile::desired::{Facts, SourceNat};

/// Before the agent connects anywhere: gives back what an earlier one reserved, if that leaves the node no port to
/// connect from (`net.ipv4.ip_local_port_range` changed since), and refuses what would take them all.
///
/// # Errors
/// `--snat-ports` that the node cannot live with.
pub(super) fn prepare(sysctls: &NodeSysctls, snat: Option<&SourceNat>) -> anyhow::Result<()> {
    let found =
        || -> Result<_, NetError> { Ok((sysctl::local_port_range()?, sysctls.reserved_ports()?)) };
    let (local, reserved) = match found() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("whether the node keeps ports of its own is not known: {error}");
            return Ok(());
        }
    };
    let room = Room {
        local,
        reserved: &reserved,
        tunnel: 0,
    };
    if room.is_stifled() {
        tracing::warn!(
            "ports {} are not reserved any more: the node connects from {} to {}",
            reserved.held,
            local.0,
            local.1
        );
        if let Err(error) = sysctls.release(RESERVED_PORTS) {
            tracing::warn!("{error}");
        }
    }
    match snat.and_then(|snat| room.complaint(snat.ports)) {
        Some(too_few) => Err(too_few.into()),
        None => Ok(()),
    }
}

/// What is told about them.
#[derive(Debug, Default)]
pub(super) struct OwnPorts {
    used: Option<PortRange>,
    too_few: Option<TooFew>,
}

impl OwnPorts {
    /// After a look at the node: names what has changed for the worse. A range that an operator gave is used all the same:
    /// connections of pods rest on it.
    pub(super) fn judge(
        &mut self,
        snat: Option<&SourceNat>,
        facts: &Facts,
        network: &NetworkConfig,
    ) {
        let Some(snat) = snat else {
            return;
        };
        let room = facts.room(network.backend.udp_port().unwrap_or(0));
        let ports = snat.ports.settle(&room);
        if let Some(before) = self.used.replace(ports).filter(|before| *before != ports) {
            let (low, high) = facts.local_ports;
            tracing::warn!(
                "pods' flows leave under ports {ports}, no longer {before}: the node connects from {low} to {high}. \
                 Connections under the old ports end"
            );
        }
        let too_few = room.complaint(snat.ports);
        if let Some(too_few) = too_few.as_ref().filter(|_| too_few != self.too_few) {
            tracing::warn!("{too_few}");
        }
        self.too_few = too_few;
    }

    pub(super) fn complaint(&self) -> Option<String> {
        self.too_few.as_ref().map(ToString::to_string)
    }
}
