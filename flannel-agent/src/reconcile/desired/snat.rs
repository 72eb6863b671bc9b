//! Source NAT: which hooks translate, from which ports, and for which destinations not.

use std::collections::BTreeSet;

use flannel_common::program::Program;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::DesiredError;
use crate::dataplane::Attachment;
use crate::node::node_sysctls::{RESERVED_PORTS, Wish};
use crate::node::snat_ports::{PortChoice, PortRange, Room};

/// Source NAT as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceNat {
    pub ports: PortChoice,
    /// A flow keeps its own port where that is free.
    pub keeps_ports: bool,
    /// Destinations to which pods keep their address.
    pub exempt: BTreeSet<Ipv4Net>,
}

impl SourceNat {
    /// A reply to a pod that used the tunnel's port would be taken for a tunnel packet.
    fn check(ports: PortRange, vxlan_port: u16) -> Result<(), DesiredError> {
        match ports.has(vxlan_port) {
            true => Err(DesiredError::SnatPorts {
                ports,
                port: vxlan_port,
            }),
            false => Ok(()),
        }
    }

    /// The ports that flows leave under on this node.
    pub(super) fn ports(&self, room: &Room<'_>) -> Result<PortRange, DesiredError> {
        let ports = self.ports.settle(room);
        Self::check(ports, room.tunnel)?;
        Ok(ports)
    }

    /// The kernel must not give the node's own sockets ports that pods' flows leave under.
    pub(super) fn shared_sysctls(PortRange { min, max }: PortRange) -> (String, Wish) {
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

    /// Whether it is one of [`Self::on_device`]'s.
    pub(crate) const fn is_on_devices(program: Program) -> bool {
        matches!(
            program,
            Program::UplinkSnatRx | Program::UplinkTx | Program::UplinkTxIp
        )
    }

    /// The same on a device by which packets leave the node; `bare`: without link-layer header.
    pub(super) fn on_device(device: &str, bare: bool) -> [Attachment; 2] {
        let leaving = match bare {
            true => Program::UplinkTx.without_frame(),
            false => Program::UplinkTx,
        };
        [
            Attachment::ingress(Program::UplinkSnatRx, device),
            Attachment::egress(leaving, device),
        ]
    }
}
