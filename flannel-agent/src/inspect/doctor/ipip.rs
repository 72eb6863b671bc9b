//! Who reads IPv4 in IPv4 besides the programs, with the backend ipip. Others may.

use flannel_common::header::PROTO_IPIP;

use super::bound::is_bound;
use super::{Patient, Report};
use crate::node::net::{KIND_IPIP, Kind, Link};

/// The kernel's ipip device for whatever no other one takes.
const FALLBACK: &str = "tunl0";

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    let table = std::fs::read_to_string("/proc/thread-self/net/raw").unwrap_or_default();
    let agent_runs = patient
        .view
        .as_ref()
        .is_ok_and(|v| v.agent_runs().unwrap_or(false));
    if agent_runs {
        reader(is_bound(&table, PROTO_IPIP.into()), report);
    }
    fallback(patient.link(FALLBACK), report);
}

fn reader(is_there: bool, report: &mut Report) {
    match is_there {
        true => report.ok("IPv4 in IPv4 (protocol 4) is read by the agent"),
        false => report.warning(
            "nobody reads IPv4 in IPv4 (protocol 4): fragmented tunnel packets are lost",
            "look into the agent's log why it could not open a raw socket",
        ),
    }
}

/// What the programs take never gets there.
fn fallback(device: Option<&Link>, report: &mut Report) {
    let is_it = |link: &&Link| link.up && link.kind == Kind::Other(KIND_IPIP.to_owned());
    if device.filter(is_it).is_some() {
        report.warning(
            format!("{FALLBACK} is up, and takes all of protocol 4 that no other device does: fragmented tunnel packets of peers come twice"),
            format!("ip link set {FALLBACK} down, if nobody needs it"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::tests::{fine, odd, said};
    use crate::node::net::fixtures::link;

    #[test]
    fn who_reads_is_said() {
        assert_eq!(
            said(|report| reader(true, report)),
            fine("IPv4 in IPv4 (protocol 4) is read by the agent")
        );
        assert_eq!(
            said(|report| reader(false, report)),
            odd(
                "nobody reads IPv4 in IPv4 (protocol 4): fragmented tunnel packets are lost",
                "look into the agent's log why it could not open a raw socket",
            )
        );
    }

    #[test]
    fn a_fallback_device_is_named_that_is_up() {
        let named = |up: bool| {
            let device = Link {
                up,
                kind: Kind::Other(KIND_IPIP.to_owned()),
                ..link(4, FALLBACK)
            };
            let mut report = Report::default();
            fallback(Some(&device), &mut report);
            report.checks.len()
        };
        assert_eq!((named(true), named(false)), (1, 0));
    }
}
