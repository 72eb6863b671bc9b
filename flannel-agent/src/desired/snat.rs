//! Source NAT: which hooks translate, from which ports, and for which destinations not.

use std::collections::BTreeSet;
use std::fmt;

use flannel_common::program::Program;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Attachment, DesiredError};
use crate::node_sysctls::{RESERVED_PORTS, Wish};

/// Source NAT as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceNat {
    pub ports: PortRange,
    /// Destinations to which pods keep their address.
    pub exempt: BTreeSet<Ipv4Net>,
}

/// Ports that flows of pods leave under; both ends count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PortRange {
    pub min: u16,
    pub max: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl SourceNat {
    /// A reply to a pod that used the tunnel's port would be taken for a tunnel packet.
    pub(super) fn check(&self, vxlan_port: u16) -> Result<(), DesiredError> {
        let PortRange { min, max } = self.ports;
        if (min..=max).contains(&vxlan_port) {
            return Err(DesiredError::SnatPorts {
                ports: self.ports,
                port: vxlan_port,
            });
        }
        Ok(())
    }

    /// The kernel must not give the node's own sockets ports that pods' flows leave under.
    pub(super) fn shared_sysctls(&self) -> (String, Wish) {
        let PortRange { min, max } = self.ports;
        (RESERVED_PORTS.to_owned(), Wish::Ports((min..=max).into()))
    }

    /// Programs without a hook, that others go on in.
    pub(super) fn programs() -> &'static [Program] {
        &Program::STEPS
    }

    /// Hooks on the device of the overlay, where there is one. Receiving first: a connection that comes in is noted before its
    /// answer could be taken for a flow of the pod's own.
    pub(super) fn on_overlay(device: Option<&str>) -> Vec<Attachment> {
        let hooks = |device| {
            [
                Attachment::ingress(Program::OverlaySnatRx, device),
                Attachment::egress(Program::OverlaySnatTx, device),
            ]
        };
        device.into_iter().flat_map(hooks).collect()
    }

    /// The same on a device by which packets leave the node.
    pub(super) fn on_device(device: &str) -> [Attachment; 2] {
        [
            Attachment::ingress(Program::UplinkSnatRx, device),
            Attachment::egress(Program::UplinkTx, device),
        ]
    }
}
