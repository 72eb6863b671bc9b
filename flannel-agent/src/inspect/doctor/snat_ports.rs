//! The ports that pods' flows leave under, beside those that the node connects from.

use crate::node::mark::network_name;
use crate::node::net::{NetError, sysctl};
use crate::node::node_sysctls::NodeSysctls;
use crate::node::snat_ports::{PortChoice, Room, TooFew};
use crate::reconcile::desired::SourceNat;

use super::{Patient, Report};

/// Whether the node keeps enough of the ports that it connects from itself.
pub(super) fn check(
    patient: &Patient<'_>,
    snat: &SourceNat,
    tunnel: u16,
    devices: &str,
    report: &mut Report,
) {
    let sysctls = NodeSysctls::new(
        &patient.config.state_dir,
        &network_name(&patient.config.etcd.prefix),
    );
    let found = sysctl::local_port_range().and_then(|l| Ok((l, sysctls.reserved_ports()?)));
    match found {
        Ok((local, reserved)) => {
            let room = Room {
                local,
                reserved: &reserved,
                tunnel,
            };
            judge(snat.ports, &room, devices, report);
        }
        Err(error) => unread(&error, report),
    }
}

fn unread(error: &NetError, report: &mut Report) {
    let fix = match error {
        NetError::Damaged { file, .. } => {
            format!("rm {file}; the agent enters what it holds anew within 30 s")
        }
        _ => "mount /proc/sys, so that it can be looked at".to_owned(),
    };
    report.warning(error.to_string(), fix);
}

fn judge(choice: PortChoice, room: &Room<'_>, devices: &str, report: &mut Report) {
    let (low, high) = room.local;
    match room.complaint(choice) {
        Some(TooFew { ports, left, own, better, .. }) => report.failure(
            format!("source NAT from ports {ports} leaves the node {left} of its own {own} (net.ipv4.ip_local_port_range is {low} {high})"),
            format!("give --snat-ports={better}, or leave the flag out"),
        ),
        None => {
            let ports = choice.settle(room);
            // Whoever looks for the usual ones wants to know.
            let why = match choice {
                PortChoice::Auto if !ports.is_usual() => {
                    format!(": the node itself connects from {low} to {high}")
                }
                _ => String::new(),
            };
            report.ok(format!("source NAT from ports {ports} on {devices}{why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::tests::{bad, fine, odd, said};
    use crate::node::node_sysctls::Reserved;
    use crate::node::snat_ports::PortRange;

    #[test]
    fn a_damaged_file_is_not_a_missing_proc() {
        let damaged = NetError::Damaged {
            file: "/run/flannel/sysctls-1.json".to_owned(),
            reason: "EOF".to_owned(),
            lost: "the sysctls were before",
        };
        let what = "cannot read /run/flannel/sysctls-1.json: EOF; delete it, what the sysctls were before is lost";
        let fix = "rm /run/flannel/sysctls-1.json; the agent enters what it holds anew within 30 s";
        assert_eq!(said(|report| unread(&damaged, report)), odd(what, fix));
        let fix = "mount /proc/sys, so that it can be looked at";
        let error = NetError::NoInterface("x".to_owned());
        assert_eq!(
            said(|report| unread(&error, report)),
            odd("there is no network interface \"x\"", fix)
        );
    }

    #[test]
    fn a_node_needs_ports_of_its_own() {
        let reserved = Reserved::default();
        let told = |choice, local| {
            let room = Room {
                local,
                reserved: &reserved,
                tunnel: 8472,
            };
            said(|report| judge(choice, &room, "eth0", report))
        };
        let dynamic = (49_152, 65_535);
        assert_eq!(
            told(PortChoice::Auto, dynamic),
            fine(
                "source NAT from ports 32768-49151 on eth0: the node itself connects from 49152 to 65535"
            )
        );
        assert_eq!(
            told(PortChoice::Auto, (32_768, 60_999)),
            fine("source NAT from ports 49152-65535 on eth0")
        );
        let (min, max) = dynamic;
        assert_eq!(
            told(PortChoice::Fixed(PortRange { min, max }), dynamic),
            bad(
                "source NAT from ports 49152-65535 leaves the node 0 of its own 16384 (net.ipv4.ip_local_port_range is 49152 65535)",
                "give --snat-ports=32768-49151, or leave the flag out"
            )
        );
    }
}
