//! Leases that others write: Windows nodes, flanneld of other versions.

#![cfg(test)]

use flannel_tests::agent::command;
use flannel_tests::doctor;
use flannel_tests::member::free_subnets;
use flannel_tests::netns::output;
use flannel_tests::pair::{Kind, join};
use flannel_tests::prelude::*;
use rstest::rstest;

/// What Windows nodes ask of the whole cluster.
fn windows() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
        .vni(4096)
        .port(4789)
}

/// As flanneld on Windows writes it: the MAC is the HNS network's, known only after the start.
#[rstest]
fn a_windows_peer_is_reached_and_its_late_mac_followed(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(windows());
    let ours = join(kind, lab.node("one"), &net);
    let theirs = KernelVxlan::join(lab.node("win"), &net);
    let (pod1, pod2) = (Pod::on(&ours, "pod1"), Pod::on(&theirs, "pod2"));
    theirs.change_mac("0e:2a:0a:f4:02:00");
    theirs.follow_leases();
    let wire = Capture::start(ours.node(), Node::UPLINK, "udp dst port 4789");
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    let frames = wire.packets(1);
    // Ethernet, IPv4 and UDP headers, then flags and VNI.
    for frame in &frames {
        assert_eq!(frame[42..50], [8, 0, 0, 0, 0, 0x10, 0, 0], "VNI 4096");
    }
}

/// `{ip}` and `{mac}` are the peer's.
#[rstest]
#[case::before_vni_was_written(
    r#"{"PublicIP":"{ip}","BackendType":"vxlan","BackendData":{"VtepMAC":"{mac}"}}"#
)]
#[case::with_fields_of_tomorrow(
    r#"{"Zone":"b","PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"{mac}","GBP":true},"Labels":{"a":["b"]}}"#
)]
#[case::dual_stack(
    r#"{"PublicIP":"{ip}","PublicIPv6":"2001:db8::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"{mac}"},"BackendV6Data":{"VNI":1,"VtepMAC":"{mac}"}}"#
)]
#[case::keys_in_another_case(
    r#"{"publicip":"{ip}","backendtype":"vxlan","backenddata":{"vni":1,"vtepmac":"{mac}"}}"#
)]
fn a_peer_of_any_age_is_reached(
    #[case] lease: &str,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let theirs = KernelVxlan::join(lab.node("old"), &net);
    let address = theirs.node().address().to_string();
    let lease = lease
        .replace("{ip}", &address)
        .replace("{mac}", &theirs.mac());
    lab.etcd().put(&net.lease_key(theirs.subnet()), &lease);
    let ours = join(kind, lab.node("one"), &net);
    theirs.follow_leases();
    let (pod1, pod2) = (Pod::on(&ours, "pod1"), Pod::on(&theirs, "pod2"));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
}

/// A node whose operator chose another backend is named, and disturbs nobody.
#[test]
fn leases_of_other_backends_are_named_and_left_alone() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start(lab.node("one"), &net);
    let free: [_; 2] = free_subnets(&net, &[&one]);
    let keys = free.map(|subnet| net.lease_key(subnet));
    let udp = r#"{"PublicIP":"172.30.0.61","BackendType":"udp"}"#;
    let wireguard = r#"{"PublicIP":"172.30.0.62","BackendType":"wireguard","BackendData":{"PublicKey":"bm90IGEga2V5"}}"#;
    lab.etcd().put(&keys[0], udp);
    lab.etcd().put(&keys[1], wireguard);
    for (subnet, backend) in free.iter().zip(["udp", "wireguard"]) {
        eventually(format!("{backend} is named"), SOON, || {
            let log = one.log();
            log.contains(&subnet.to_string()) && log.contains(backend)
        });
    }
    // By `status`, too, whose findings are doctor's.
    for subnet in free {
        let ignored = format!("the lease of {subnet} is ignored, and its pods are not reached");
        eventually("doctor names it", SOON, || {
            let said = doctor::ask(&one, &[]);
            let named = said.trouble().iter().any(|what| what.contains(&ignored));
            named && said.status == Some(1)
        });
    }
    let bpffs = format!("--bpffs={}", one.node().bpffs().display());
    let state = format!("--state-dir={}", one.node().state_dir().display());
    let shown = output(&mut command(one.node(), &["peers", &bpffs, &state]));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let first = format!("! the lease of {} is ignored: ", free[0]);
    assert!(shown.contains(&first), "{shown}");

    let two = Agent::start(lab.node("two"), &net);
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    assert_eq!(lab.etcd().get(&keys[0]).unwrap(), udp);
    for key in &keys {
        lab.etcd().delete(key);
    }
    eventually("nothing is ignored any more", SOON, || {
        let said = doctor::ask(&one, &[]);
        !said.trouble().iter().any(|what| what.contains("ignored"))
    });
}
