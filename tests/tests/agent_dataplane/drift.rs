//! What others change or remove is put right by the next look.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use flannel_agent::dataplane::Wire;
use flannel_common::maps::{PEERS, Peer};
use flannel_tests::wait::{SOON, eventually};
use rstest::rstest;

use crate::rig::{Agent, Rig, sh};

#[rstest]
#[case::address(
    "ip addr del 10.244.1.0/32 dev flannel.1",
    "add 10.244.1.0/32 to flannel.1"
)]
#[case::stray_address(
    "ip addr add 10.244.7.0/32 dev flannel.1",
    "remove 10.244.7.0/32 from flannel.1"
)]
#[case::route("ip route del 10.244.2.0/24", "add the route 10.244.2.0/24")]
#[case::other_source(
    "ip route change 10.244.2.0/24 via 169.254.0.1 dev flannel.1 proto 102 onlink",
    "replace the route 10.244.2.0/24"
)]
#[case::other_gateway(
    "ip route change 10.244.2.0/24 dev flannel.1 proto 102 src 10.244.1.0",
    "replace the route 10.244.2.0/24"
)]
#[case::somebody_else_s_in_front(
    "ip route prepend 10.244.2.0/24 dev lo proto static",
    "remove the route 10.244.2.0/24"
)]
#[case::somebody_else_s_in_its_place(
    "ip route replace 10.244.2.0/24 dev lo proto static",
    "add the route 10.244.2.0/24 by the tunnel, in front of somebody else's (protocol 4)"
)]
#[case::the_one_route_of_earlier_versions(
    "ip route add 10.244.0.0/16 dev flannel.1 proto 102 src 10.244.1.0",
    "remove the route 10.244.0.0/16"
)]
#[case::stray_route(
    "ip route add 10.244.9.0/24 dev flannel.1 proto 102",
    "remove the route 10.244.9.0/24"
)]
#[case::down("ip link set flannel.1 down", "set flannel.1 up")]
#[case::far_end_down("ip link set flgro.1 down", "set flgro.1 up")]
#[case::arp("ip link set flannel.1 arp on", "set flannel.1 up")]
#[case::mtu("ip link set flannel.1 mtu 1400", "set the MTU of flannel.1 to 1450")]
#[case::mac(
    "ip link set flannel.1 address 02:00:00:00:00:77",
    "set the MAC of flannel.1 to 02:00:00:00:00:01"
)]
#[case::alias("ip link set flgro.1 alias nothing", "set the alias of flgro.1")]
#[case::pair("ip link del flannel.1", "create flannel.1")]
#[case::pair_by_its_far_end("ip link del flgro.1", "create flannel.1")]
#[case::gro(
    "ethtool -K flannel.1 gro off",
    "switch offloads of flannel.1: rx-gro on"
)]
#[case::tso_of_the_far_end("ethtool -K flgro.1 tso on", "switch offloads of flgro.1: tx-tcp-")]
#[case::sysctl(
    "sysctl -qw net/ipv6/conf/flannel.1/accept_ra=1",
    "set the sysctl net/ipv6/conf/flannel.1/accept_ra to 0"
)]
fn changed_from_outside(#[case] command: &str, #[case] repair: &str) {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        sh(command);
        let did = agent.converge().await;
        assert!(did.iter().any(|a| a.starts_with(repair)), "{did:?}");
    });
}

#[test]
fn addresses_outside_the_network_are_not_ours_to_judge() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        sh("ip addr add 192.0.2.1/32 dev flannel.1");
        assert_eq!(agent.reconcile().await, <[&str; 0]>::default());
    });
}

#[rstest]
#[case("overlay_tx")]
#[case("overlay_catch")]
#[case("uplink_rx")]
fn a_program_that_was_detached_and_whose_pin_was_removed_is_attached_again(#[case] program: &str) {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let attached = async |agent: &Agent<'_>| {
            let desired = agent.desired().await;
            let actual = agent.dataplane.actual(&desired).await.unwrap();
            actual.programs.attached.len()
        };
        let pin = agent.rig.link_pin(program);
        // Removing the pin alone takes nothing off its hook while an agent runs.
        sh(&format!("bpftool link detach pinned {}", pin.display()));
        std::fs::remove_file(pin).unwrap();
        assert_eq!(attached(agent).await, 2);
        let (device, direction) = match program {
            "overlay_tx" => ("flannel.1", TcAttachType::Egress),
            "overlay_catch" => ("flgro.1", TcAttachType::Ingress),
            _ => ("eth0", TcAttachType::Ingress),
        };
        eventually("the hook is empty", SOON, || {
            let (_, programs) = SchedClassifier::query_tcx(device, direction).unwrap();
            programs.is_empty()
        });
        let did = agent.converge().await;
        assert_eq!(did.len(), 1, "{did:?}");
        assert!(did[0].starts_with(&format!("attach {program} ")), "{did:?}");
    });
}

#[test]
fn a_program_detached_by_hand_is_attached_again() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let pin = agent.rig.link_pin("uplink_rx");
        sh(&format!("bpftool link detach pinned {}", pin.display()));
        let did = agent.converge().await;
        assert_eq!(did, ["attach uplink_rx to ingress of eth0"]);
    });
}

#[test]
fn map_entries_changed_by_hand_are_put_right() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let pin = agent.rig.map_pin(PEERS);
        let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
        let mut map: LpmTrie<_, [u8; 4], Wire<Peer>> = map.try_into().unwrap();
        let key = Key::new(24, [10, 244, 2, 0]);
        let Wire(good) = map.get(&key, 0).unwrap();

        map.remove(&key).unwrap();
        agent.converge().await;
        assert_eq!(map.get(&key, 0).unwrap(), Wire(good));

        let bad = Peer { kind: 77, ..good };
        map.insert(&key, Wire(bad), 0).unwrap();
        map.insert(&Key::new(20, [10, 244, 16, 0]), Wire(bad), 0)
            .unwrap();
        agent.converge().await;
        assert_eq!(map.get(&key, 0).unwrap(), Wire(good));
        assert_eq!(map.iter().count(), 1);
    });
}

#[test]
fn a_moved_uplink_takes_the_program_along() {
    let mut rig = Rig::new();
    rig.netns.run("ip link add eth1 type veth peer name far1");
    rig.netns.run("ip addr add 192.168.1.1/24 dev eth1");
    rig.netns.run("ip link set eth1 up");
    rig.agent(async |agent| agent.converge().await);
    let old = rig.link_pin("uplink_rx");
    rig.iface = "eth1";
    // Nor do peers' packets come and go by it any more.
    rig.netns.run("ip addr flush dev eth0");
    rig.agent(async |agent| {
        let did = agent.converge().await;
        assert!(
            did.contains(&"attach uplink_rx to ingress of eth1".to_owned()),
            "{did:?}"
        );
        assert!(
            did.last().unwrap().starts_with("detach uplink_rx-"),
            "{did:?}"
        );
    });
    assert_ne!(rig.link_pin("uplink_rx"), old);
}

#[test]
fn an_uplink_that_was_made_anew_gets_its_program_back() {
    let rig = Rig::new();
    rig.agent(async |agent| {
        agent.converge().await;
        sh("ip link del eth0");
        sh("ip link add eth0 type veth peer name far0");
        sh("ip addr add 192.168.0.1/24 dev eth0");
        sh("ip link set eth0 up");
        let did = agent.converge().await;
        assert!(
            did.contains(&"attach uplink_rx to ingress of eth0".to_owned()),
            "{did:?}"
        );
        // The pin is the one of the new device.
        agent.rig.link_pin("uplink_rx");
    });
}
