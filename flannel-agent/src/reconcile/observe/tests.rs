use super::*;
use crate::node::net::fixtures::veth;
use crate::reconcile::desired::tests::World;

fn wanted() -> Pair {
    World::default().build().unwrap().node.pair.unwrap()
}

const OURS: Option<&str> = Some("flannel-ebpf:coreos_com_network");

fn found(near: Option<&Link>, far: Option<&Link>) -> String {
    found_while(near, far, Life::Lives)
}

/// `life`: that of the agents of all other networks.
fn found_while(near: Option<&Link>, far: Option<&Link>, life: Life) -> String {
    match classify(&wanted(), near, far, &|_| life) {
        Found::Pair(..) => "pair".to_owned(),
        Found::Other(Device::Foreign { why }) => format!("foreign: {why}"),
        Found::Other(Device::Broken { device }) => format!("broken {device}"),
        Found::Other(other) => format!("{other:?}"),
    }
}

#[test]
fn ours_is_what_carries_our_mark_and_is_whole() {
    let near = veth(7, "flannel.1", Some(8), OURS);
    let far = veth(8, "flgro.1", Some(7), OURS);
    assert_eq!(found(None, None), "Absent");
    assert_eq!(found(Some(&near), Some(&far)), "pair");
    assert_eq!(found(Some(&near), None), "broken flannel.1");
    assert_eq!(found(None, Some(&far)), "broken flgro.1");
    let moved = veth(7, "flannel.1", None, OURS);
    assert_eq!(found(Some(&moved), Some(&far)), "broken flannel.1");
}

#[test]
fn a_pair_that_was_not_marked_in_time_is_ours() {
    let near = veth(7, "flannel.1", Some(8), None);
    let far = veth(8, "flgro.1", Some(7), None);
    assert_eq!(found(Some(&near), Some(&far)), "pair");
}

#[test]
fn what_is_not_ours_is_named() {
    let near = veth(7, "flannel.1", Some(8), Some("flannel-ebpf:other"));
    let far = veth(8, "flgro.1", Some(7), Some("flannel-ebpf:other"));
    let why = found(Some(&near), Some(&far));
    assert!(
        why.contains("network other, whose agent runs") && why.contains("VNI"),
        "{why}"
    );
    let why = found_while(Some(&near), Some(&far), Life::Stopped);
    let fix = "if --etcd-prefix was changed, run flannel-agent cleanup --etcd-prefix=other";
    assert!(why.contains("does not run") && why.contains(fix), "{why}");
    let why = found_while(Some(&near), Some(&far), Life::Unknown);
    assert!(
        why.contains("another --bpffs") && why.contains("VNI") && !why.contains("does not run"),
        "{why}"
    );
    let alone = veth(7, "flannel.1", Some(99), None);
    assert!(found(Some(&alone), None).contains("without our mark"));
    assert!(found(None, Some(&alone)).starts_with("foreign"));
    let bridge = Link {
        kind: Kind::Other("bridge".to_owned()),
        ..alone
    };
    assert!(found(Some(&bridge), None).contains("a bridge device"));
}

#[test]
fn a_kernel_vxlan_device_is_flanneld_s_whatever_its_vni() {
    let vxlan = Link {
        kind: Kind::Vxlan {
            vni: Some(9),
            port: Some(8472),
            lower: None,
        },
        ..veth(7, "flannel.1", None, None)
    };
    assert!(found(Some(&vxlan), None).starts_with("KernelTunnel"));
}
