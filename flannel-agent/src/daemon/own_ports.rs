//! The ports that the node itself connects from, beside those that pods' flows leave under.

use std::time::Duration;

use tokio::time::sleep;

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

/// The kernel announces no change of a sysctl, and one of this may leave the node without a port to connect from.
const LOOK: Duration = Duration::from_secs(1);

/// What is told about them.
#[derive(Debug, Default)]
pub(super) struct OwnPorts {
    used: Option<PortRange>,
    too_few: Option<TooFew>,
    /// The last range that was seen.
    range: Option<(u16, u16)>,
}

impl OwnPorts {
    /// Until the range that the node connects from is another one; each is told once. Looks first, so that whoever is interrupted more
    /// often looks none the less.
    pub(super) async fn moved(&mut self, mut range: impl FnMut() -> Result<(u16, u16), NetError>) {
        loop {
            if let Ok(now) = range()
                && self.range.replace(now).is_some_and(|before| before != now)
            {
                return;
            }
            sleep(LOOK).await;
        }
    }

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
        self.range.get_or_insert(facts.local_ports);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_range_is_seen() {
        let (known, other) = ((32_768, 60_999), (49_152, 65_535));
        let mut ports = OwnPorts {
            range: Some(known),
            ..OwnPorts::default()
        };
        let mut seen = [known, other, other, known].into_iter();
        let mut range = || Ok(seen.next().expect("each change ends the wait"));
        ports.moved(&mut range).await;
        ports.moved(&mut range).await;
        assert_eq!(seen.next(), None);
    }
}
