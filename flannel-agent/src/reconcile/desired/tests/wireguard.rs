//! The kernel's WireGuard device.

use flannel_common::program::Program;

use super::*;
use crate::base::key::Psk;

const OWN: PublicKey = PublicKey([1; 32]);
const PEER: PublicKey = PublicKey([2; 32]);

fn world(options: &str) -> World {
    World {
        config: config(&format!(r#"{{"Type":"wireguard"{options}}}"#)),
        public_key: Some(OWN),
        ..World::default()
    }
}

fn lease(address: &str, key: PublicKey) -> LeaseAttrs {
    LeaseAttrs::wireguard(ip(address), Some(key), 7)
}

#[test]
fn options_and_leases_make_device_and_peers() {
    let psk = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    let options = format!(
        r#","ListenPort":9,"MTU":1400,"PersistentKeepaliveInterval":25,"Mode":"auto","PSK":"{psk}""#
    );
    let without_port = LeaseAttrs {
        backend_data: Some(serde_json::json!({ "PublicKey": PublicKey([3; 32]) }).into()),
        ..lease("192.168.0.3", PEER)
    };
    let world = world(&options).with("10.244.2.0/24", lease("192.168.0.2", PEER));
    let world = world.with("10.244.3.0/24", without_port);
    let desired = world.build().unwrap();
    let device = desired.node.wireguard.clone().unwrap();
    assert_eq!((device.port, device.mtu), (9, 1320));
    assert_eq!(device.public_key, Some(OWN));
    let peers = &desired.peers;
    assert!(peers.table.is_empty() && peers.ignored.is_empty());
    let peer = &peers.sealed[&PEER];
    assert_eq!(peer.endpoint, "192.168.0.2:7".parse().unwrap());
    assert_eq!(peer.allowed, [net("10.244.2.0/24")].into());
    assert_eq!(
        (peer.psk, peer.keepalive),
        (psk.parse::<Psk>().unwrap(), 25)
    );
    let port = peers.sealed[&PublicKey([3; 32])].endpoint.port();
    assert_eq!(port, 9, "without one in the lease: as our own");
    let routes: Routes = [(net("10.244.0.0/16"), Way::Tunnel)].into();
    assert_eq!(desired.routes, routes);
    for shown in [
        serde_json::to_string(&desired).unwrap(),
        format!("{desired:?}"),
    ] {
        assert!(!shown.contains(psk) && !shown.contains("133,"), "{shown}");
    }
}

#[test]
fn whoever_cannot_be_a_peer_is_ignored_and_named() {
    let world = world("")
        .with("10.244.2.0/24", lease("192.168.0.2", PEER))
        // The same node, with two subnets.
        .with("10.244.3.0/24", lease("192.168.0.2", PEER))
        .with("10.244.5.0/24", lease("192.168.0.5", OWN))
        .with(
            "10.244.6.0/24",
            LeaseAttrs::vxlan(ip("192.168.0.6"), 1, PEER_MAC),
        )
        .with("10.244.7.0/24", lease("192.168.0.1", PublicKey([7; 32])))
        .with("10.9.0.0/24", lease("192.168.0.9", PublicKey([9; 32])));
    let peers = world.build().unwrap().peers;
    let both = [net("10.244.2.0/24"), net("10.244.3.0/24")];
    assert_eq!(peers.sealed.len(), 1);
    assert_eq!(peers.sealed[&PEER].allowed, both.into());
    for (subnet, why) in [
        ("10.244.5.0/24", "this node's own"),
        ("10.244.6.0/24", "BackendType is \"vxlan\""),
        ("10.244.7.0/24", "an address of this node"),
        ("10.9.0.0/24", "not inside the network"),
    ] {
        let said = &peers.ignored[&net(subnet)];
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn what_leaves_by_the_device_is_translated_and_nothing_is_attached_without() {
    let bare = world("").build().unwrap().node;
    assert!(bare.programs.is_empty() && bare.attachments.is_empty());
    assert_eq!(bare.globals.fast_path, Mode::Off.value());

    let mut world = World {
        snat: Some(SourceNat {
            keeps_ports: false,
            ports: PortChoice::Auto,
            exempt: BTreeSet::new(),
        }),
        ..world("")
    };
    let node = world.build().unwrap().node;
    for device in ["eth0", "flannel-wg"] {
        let is_there = |program| {
            node.attachments
                .iter()
                .any(|a| a.program == program && a.device == device)
        };
        let leaving = match device {
            "flannel-wg" => Program::UplinkTxIp,
            _ => Program::UplinkTx,
        };
        assert!(
            is_there(leaving) && is_there(Program::UplinkSnatRx),
            "{device}"
        );
        assert_eq!(is_there(Program::FrameRx), device == "flannel-wg");
    }
    let ports = node.globals.snat_ports.unwrap();
    assert!(!ports.has(51_820), "{ports}: the tunnel's own packets");
    assert_eq!(node.globals.port, 51_820);
    assert!(node.outlets.is_empty(), "the device is not there yet");
    world.facts.wireguard = Some(7);
    let outlets = world.build().unwrap().node.outlets;
    assert_eq!(
        outlets[&7].addresses().collect::<Vec<_>>(),
        [ip("10.244.1.0")]
    );
}
