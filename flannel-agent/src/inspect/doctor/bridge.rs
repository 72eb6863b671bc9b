//! The pods' bridge: whether it is of this node's lease.

mod ports;
mod strays;

use ipnet::Ipv4Net;

use super::{Patient, Report};
use crate::node::mark;
use crate::node::net::Link;
use crate::reconcile::logbook::Page;

/// `pods_mtu`: FLANNEL_MTU as it is to be; `None`: not known.
pub(super) fn check(patient: &Patient<'_>, pods_mtu: Option<u32>, report: &mut Report) {
    let name = &patient.config.fast_path.bridge;
    let Some(bridge) = patient.link(name) else {
        return;
    };
    ports::check(bridge, patient.links, pods_mtu, report);
    strays::check(bridge, patient.links, report);
    subnet(patient, bridge, report);
}

/// A bridge left from an earlier lease keeps its pods from everybody: the classic of flannel's trouble.
fn subnet(patient: &Patient<'_>, bridge: &Link, report: &mut Report) {
    let name = &bridge.name;
    let runs = || {
        let view = patient.view.as_ref();
        view.is_ok_and(|view| view.agent_runs().unwrap_or(false))
    };
    let subnet = match crate::flannel::subnet_env::read(patient.subnet_file()) {
        Ok(previous) => previous.subnet,
        Err(error) => {
            report.warning(format!("{error:#}"), "correct the file's permissions");
            return;
        }
    };
    let Some(subnet) = subnet else {
        report.warning(
            format!(
                "{} names no subnet, but {name} exists",
                patient.subnet_file().display()
            ),
            match runs() {
                true => "see in the agent's log why it could not write it (no space, read-only), or name its file with --subnet-file",
                false => "start the agent, or name its file with --subnet-file",
            },
        );
        return;
    };
    let config = patient.config;
    let network = mark::network_name(&config.etcd.prefix);
    let leased = Page::read(&config.state_dir, &network).and_then(|page| page.lease);
    let leased = leased.map(|lease| lease.subnet);
    let file = patient.subnet_file().display().to_string();
    let Some(subnet) = believe(&file, subnet, leased, runs(), report) else {
        return;
    };
    let addresses = patient.addresses.iter();
    let addresses = addresses.filter(|a| a.index == bridge.index);
    let nets: Vec<Ipv4Net> = addresses.map(|address| address.net).collect();
    judge_bridge(name, &nets, subnet, report);
}

/// The subnet that is this node's. The file is anybody's to write: pods are not to be ended for what it says alone.
fn believe(
    file: &str,
    written: Ipv4Net,
    leased: Option<Ipv4Net>,
    agent_runs: bool,
    report: &mut Report,
) -> Option<Ipv4Net> {
    let Some(leased) = leased.filter(|leased| leased.trunc() != written.trunc()) else {
        return Some(written);
    };
    let what = format!("{file} names the subnet {written}, but this node's lease is {leased}");
    if agent_runs {
        report.warning(
            what,
            "find out who else writes the file; the agent writes it anew within 30 s",
        );
        return Some(leased);
    }
    // Whoever ran since may have another lease.
    report.warning(what, "start the agent, which writes the file anew");
    None
}

/// A bridge may have further ranges of addresses besides.
fn judge_bridge(name: &str, nets: &[Ipv4Net], subnet: Ipv4Net, report: &mut Report) {
    match nets.iter().any(|net| subnet.contains(&net.addr())) {
        false if !nets.is_empty() => report.failure(
            format!(
                "{name} has the address {}, outside of this node's subnet {subnet}",
                nets[0]
            ),
            format!("drain the node, ip link del {name}, and start its pods anew"),
        ),
        _ => report.ok(format!("{name} is inside this node's subnet {subnet}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::tests::{bad, fine, odd, said};

    #[test]
    fn a_bridge_has_an_address_of_this_node_s_subnet_among_others() {
        let about = |nets: &[&str]| {
            let nets: Vec<Ipv4Net> = nets.iter().map(|net| net.parse().unwrap()).collect();
            let subnet = "10.244.1.0/24".parse().unwrap();
            said(|report| judge_bridge("cni0", &nets, subnet, report))
        };
        let well = fine("cni0 is inside this node's subnet 10.244.1.0/24");
        assert_eq!(about(&[]), well);
        assert_eq!(about(&["10.244.1.1/24"]), well);
        assert_eq!(about(&["10.99.1.1/24", "10.244.1.1/24"]), well);
        assert_eq!(
            about(&["10.244.9.1/24"]),
            bad(
                "cni0 has the address 10.244.9.1/24, outside of this node's subnet 10.244.1.0/24",
                "drain the node, ip link del cni0, and start its pods anew"
            )
        );
    }

    #[test]
    fn the_subnet_file_is_not_believed_against_the_lease() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let (file, leased) = (net("10.9.9.0/24"), net("10.244.1.0/24"));
        let about = |leased, runs| {
            let mut subnet = None;
            let said = said(|report| subnet = believe("subnet.env", file, leased, runs, report));
            (subnet, said)
        };
        assert_eq!(about(None, true), (Some(file), vec![]));
        assert_eq!(about(Some(file), true), (Some(file), vec![]));
        let what =
            "subnet.env names the subnet 10.9.9.0/24, but this node's lease is 10.244.1.0/24";
        assert_eq!(
            about(Some(leased), true),
            (
                Some(leased),
                odd(
                    what,
                    "find out who else writes the file; the agent writes it anew within 30 s"
                )
            )
        );
        assert_eq!(
            about(Some(leased), false),
            (
                None,
                odd(what, "start the agent, which writes the file anew")
            )
        );
    }
}
