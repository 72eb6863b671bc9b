//! Plans run against a model of the kernel: they lead to the wanted state, and then there is nothing to do.

mod anchor;
mod model;
mod properties;
mod repairs;
mod routes;
mod wireguard;

use super::*;
use crate::base::mac::MacAddr;
use crate::base::options::Xdp;
use crate::dataplane::Stale;
use crate::flannel::lease::LeaseAttrs;
use crate::reconcile::desired::tests::{World, config, ip, net, source_nat};
use model::{Model, empty};

fn wanted() -> Desired {
    let peer = LeaseAttrs::vxlan(ip("192.168.0.2"), 1, MacAddr([2, 0, 0, 0, 0, 2]));
    World::default()
        .with("10.244.2.0/24", peer)
        .build()
        .unwrap()
}

#[test]
fn sysctls_of_the_node_are_claimed_before_the_programs_and_given_back_last() {
    let mut model = running();
    model.new_process();
    let shared = &mut model.actual.shared_sysctls;
    shared.unmet.clone_from(&wanted().node.shared_sysctls);
    shared.unwanted.insert("net/ipv4/x".to_owned());
    let words = words(&plan(&wanted(), &model.actual).unwrap());
    assert_eq!(
        words[0],
        "set the node's sysctl net/netfilter/nf_conntrack_tcp_be_liberal to 1"
    );
    assert_eq!(
        words.last().unwrap(),
        "give the node's sysctl net/ipv4/x back"
    );
    model.converge(&wanted());
}

fn words(actions: &[Action]) -> Vec<String> {
    let first = |a: &Action| a.to_string();
    actions.iter().map(first).collect()
}

/// The model after a first start.
fn running() -> Model {
    let mut model = Model::new(empty());
    model.converge(&wanted());
    model
}

#[test]
fn a_first_start_reads_as_a_story() {
    assert_eq!(
        words(&plan(&wanted(), &empty()).unwrap()),
        [
            "create flannel.1 (02:00:00:00:00:01, MTU 1450) with its far end flgro.1",
            "set the alias of flgro.1 to flannel-ebpf:coreos_com_network",
            "set the alias of flannel.1 to flannel-ebpf:coreos_com_network",
            "set the sysctl net/ipv6/conf/flannel.1/accept_ra to 0",
            "set the sysctl net/ipv6/conf/flannel.1/addr_gen_mode to 1",
            "set the sysctl net/ipv6/conf/flgro.1/disable_ipv6 to 1",
            "switch offloads of flannel.1: rx-gro on tx-gre-csum-segmentation off \
             tx-gre-segmentation off tx-gso-list off tx-ipxip4-segmentation off \
             tx-ipxip6-segmentation off tx-sctp-segmentation off \
             tx-udp_tnl-csum-segmentation off tx-udp_tnl-segmentation off",
            "switch offloads of flgro.1: tx-tcp-accecn-segmentation off \
             tx-tcp-ecn-segmentation off tx-tcp-mangleid-segmentation off \
             tx-tcp-segmentation off tx-tcp6-segmentation off",
            "load the programs for VNI 1 port 8472 at 192.168.0.1",
            "update peers: 10.244.2.0/24 at 192.168.0.2 (02:00:00:00:00:02)",
            "set flgro.1 up",
            "set flannel.1 up",
            "attach overlay_catch to ingress of flgro.1",
            "attach overlay_tx to egress of flannel.1",
            "attach overlay_rx to ingress of flannel.1",
            "add 10.244.1.0/32 to flannel.1",
            "add the route 10.244.2.0/24 by the tunnel",
            "attach uplink_rx to ingress of eth0",
            "end the proofs of all flows",
        ]
    );
}

/// A refusal stands for as long as the device is the one that refused: what is left out did not succeed.
#[test]
fn what_a_driver_has_refused_is_left_out_and_known() {
    let mut world = World::default();
    world.fast_path.xdp = Xdp::On;
    let desired = world.build().unwrap();
    let mut actual = empty();
    let left_out = |actual: &Actual| {
        let planned = plan(&desired, actual).unwrap();
        let untried = untried(&desired.node, actual, &planned);
        assert!(untried.iter().all(|it| !planned.contains(it)));
        words(&untried)
    };
    assert_eq!(left_out(&actual), [""; 0]);
    actual.programs.xdp_refused = true;
    let left_out = left_out(&actual);
    assert!(
        left_out
            .iter()
            .any(|it| it.starts_with("attach uplink_xdp to ")),
        "{left_out:?}"
    );
}

#[test]
fn nothing_is_to_do_twice() {
    assert_eq!(plan(&wanted(), &running().actual).unwrap(), []);
}

#[test]
fn a_new_process_swaps_the_programs_and_touches_nothing_else() {
    let mut model = running();
    model.new_process();
    assert_eq!(
        words(&plan(&wanted(), &model.actual).unwrap()),
        [
            "load the programs for VNI 1 port 8472 at 192.168.0.1",
            "attach overlay_catch to ingress of flgro.1",
            "attach overlay_tx to egress of flannel.1",
            "attach overlay_rx to ingress of flannel.1",
            "attach uplink_rx to ingress of eth0",
            "end the proofs of all flows",
        ]
    );
}

#[test]
fn a_kernel_vxlan_device_forwards_until_its_successor_does() {
    let mut actual = empty();
    actual.device = Device::KernelTunnel {
        mac: None,
        up: true,
    };
    let words = words(&plan(&wanted(), &actual).unwrap());
    assert_eq!(words[0], "put the kernel device flannel.1 aside as flold.1");
    assert!(words[1].starts_with("create flannel.1"));
    let at = |word: &str| words.iter().position(|w| w.starts_with(word)).unwrap();
    let turn = at("take routes and addresses off flold.1");
    assert!(at("add the route") < turn, "{words:?}");
    assert_eq!(words[turn - 1], "attach uplink_rx to ingress of eth0");
    assert!(words[turn + 1].starts_with("replace the route"));
    assert_eq!(words.last().unwrap(), "delete flold.1");
}

#[test]
fn a_foreign_device_is_named_and_left_alone() {
    let mut actual = empty();
    actual.device = Device::Foreign {
        why: "it is a bridge".to_owned(),
    };
    let error = plan(&wanted(), &actual).unwrap_err().to_string();
    assert_eq!(error, "flannel.1 is in the way: it is a bridge");
}

#[test]
fn a_lost_pair_is_made_again() {
    let mut model = running();
    model.lose_pair();
    let actions = words(&plan(&wanted(), &model.actual).unwrap());
    assert!(actions[0].starts_with("create flannel.1"), "{actions:?}");
    assert!(actions.contains(&"load the programs for VNI 1 port 8472 at 192.168.0.1".to_owned()));
    model.converge(&wanted());
}

#[test]
fn drift_is_repaired_and_no_more() {
    let drifted = |change: fn(&mut Actual)| {
        let mut actual = running().actual;
        change(&mut actual);
        words(&plan(&wanted(), &actual).unwrap())
    };
    assert_eq!(
        drifted(|a| a.peers.table.clear()),
        ["update peers: 10.244.2.0/24 at 192.168.0.2 (02:00:00:00:00:02)"]
    );
    assert_eq!(
        drifted(|a| {
            a.peers.table.insert(net("10.244.9.0/24"), None);
        }),
        ["update peers: 10.244.9.0/24 gone"]
    );
    assert_eq!(
        drifted(|a| a.programs.attached.retain(|at, _| at.device != "eth0")),
        ["attach uplink_rx to ingress of eth0"]
    );
    assert_eq!(
        drifted(|a| model::pair(a).addresses.clear()),
        ["add 10.244.1.0/32 to flannel.1"]
    );
    assert_eq!(
        drifted(|a| a.routes.clear()),
        ["add the route 10.244.2.0/24 by the tunnel"]
    );
    assert_eq!(
        drifted(|a| model::pair(a).mtu = 1500),
        ["set the MTU of flannel.1 to 1450"]
    );
    assert_eq!(
        drifted(|a| model::pair(a).gso_max = Some(180_000)),
        ["set gso_ipv4_max_size of flannel.1 to 65536"]
    );
    assert_eq!(
        drifted(|a| model::pair(a).gso_max = Some(16_384)),
        Vec::<String>::new(),
        "who wants less has it"
    );
    assert_eq!(
        drifted(|a| {
            model::pair(a).addresses.insert(net("10.244.7.0/32"));
            model::pair(a).addresses.insert(net("192.0.2.1/32"));
        }),
        ["remove 10.244.7.0/32 from flannel.1"],
        "addresses outside the network are not ours to judge"
    );
    assert_eq!(
        drifted(|a| {
            model::pair(a).addresses.insert(net("10.9.1.0/32"));
        }),
        ["remove 10.9.1.0/32 from flannel.1"],
        "but for those of a subnet of another network"
    );
    assert_eq!(
        drifted(|a| {
            let index = model::pair(a).index;
            for to in ["10.9.0.0/16", "10.9.2.0/24"] {
                let source = Some(ip("10.9.1.0"));
                a.routes.push(model::held(net(to), index, None, source));
            }
            model::pair(a).addresses.insert(net("10.9.1.0/32"));
        }),
        [
            "remove the route 10.9.0.0/16, remove the route 10.9.2.0/24",
            "remove 10.9.1.0/32 from flannel.1",
        ],
        "the network was another one before"
    );
    assert_eq!(
        drifted(|a| {
            model::pair(a).up = false;
            a.routes.clear();
        }),
        [
            "set flannel.1 up",
            "add the route 10.244.2.0/24 by the tunnel",
        ]
    );
    assert_eq!(
        drifted(|a| {
            a.programs
                .stale
                .insert(Stale::Pin("uplink_rx-3".to_owned()));
            a.programs.old_layouts.insert("v0".to_owned(), true);
        }),
        ["detach uplink_rx-3", "remove the maps of layout v0"]
    );
}

#[test]
fn connections_of_another_layout_are_carried_in_front_of_the_hooks_and_behind_them() {
    let world = World {
        snat: Some(source_nat(50_000, 60_000, &[])),
        ..World::default()
    };
    let desired = world.build().unwrap();
    let mut model = Model::new(empty());
    model.converge(&desired);
    let programs = &mut model.actual.programs;
    programs.loaded = None;
    programs.old_layouts.insert("v7".to_owned(), true);
    programs.old_layouts.insert("v9".to_owned(), false);
    let actions = words(&plan(&desired, &model.actual).unwrap());
    let carry = "carry translated connections over from layout v7";
    let places: Vec<usize> = (0..actions.len())
        .filter(|n| actions[*n] == carry)
        .collect();
    let [before, after] = places[..] else {
        panic!("{actions:#?}");
    };
    let hook = |action: &String| action.starts_with("attach ");
    assert!(!actions[..before].iter().any(hook), "{actions:#?}");
    assert!(!actions[after..].iter().any(hook), "{actions:#?}");
    assert_eq!(
        actions[after + 1..],
        [
            "remove the maps of layout v7",
            "remove the maps of layout v9"
        ]
    );
    assert!(!actions.iter().any(|a| a.contains("from layout v9")));
}

#[test]
fn a_moved_uplink_loads_anew_and_detaches_the_old_one_last() {
    let mut model = running();
    let mut world = World::default();
    world.uplink.name = "eth1".to_owned();
    world.uplink.index = 3;
    let desired = world.build().unwrap();
    model.move_uplink("eth0", 2);
    let actions = words(&plan(&desired, &model.actual).unwrap());
    assert_eq!(actions.last().unwrap(), "detach uplink_rx-2");
    assert!(actions.contains(&"attach uplink_rx to ingress of eth1".to_owned()));
    model.converge(&desired);
}

/// The node as another configuration of the network wants it.
fn under(backend: &str) -> Desired {
    let attrs = match backend.contains("host-gw") {
        true => LeaseAttrs::host_gw(ip("192.168.0.2")),
        false => LeaseAttrs::vxlan(ip("192.168.0.2"), 1, MacAddr([2, 0, 0, 0, 0, 2])),
    };
    let world = World {
        config: config(backend),
        ..World::default()
    };
    world.with("10.244.2.0/24", attrs).routed().build().unwrap()
}

#[test]
fn host_gw_is_programs_and_peers() {
    assert_eq!(
        words(&plan(&under(r#"{"Type":"host-gw"}"#), &empty()).unwrap()),
        [
            "load the programs at 192.168.0.1",
            "update peers: 10.244.2.0/24 at 192.168.0.2 (without tunnel)",
            "add the route 10.244.2.0/24 via 192.168.0.2",
            "attach direct_rx to ingress of eth0",
            "attach direct_tx to egress of eth0",
            "end the proofs of all flows",
        ]
    );
}

#[test]
fn a_tunnel_goes_last_when_routes_take_its_place() {
    let mut model = running();
    model.new_process();
    let wanted = under(r#"{"Type":"host-gw"}"#);
    model.look(&wanted);
    let words = words(&plan(&wanted, &model.actual).unwrap());
    assert_eq!(words.last().unwrap(), "delete flannel.1");
    let at = |word: &str| words.iter().position(|w| w.starts_with(word)).unwrap();
    assert!(at("take routes and addresses off flannel.1") < at("delete"));
    assert!(at("replace the route 10.244.2.0/24 via 192.168.0.2") < at("take routes"));
    model.converge(&wanted);
    model.new_process();
    model.converge(&self::wanted());
}

#[test]
fn another_vni_has_another_pair_and_the_old_one_forwards_until_then() {
    let mut model = running();
    model.new_process();
    let wanted = under(r#"{"Type":"vxlan","VNI":2}"#);
    model.look(&wanted);
    let words = words(&plan(&wanted, &model.actual).unwrap());
    assert!(words[0].starts_with("create flannel.2"), "{words:?}");
    let route = "replace the route 10.244.2.0/24 by the tunnel";
    let at = |word: &str| words.iter().position(|w| w.starts_with(word)).unwrap();
    assert!(at("attach overlay_tx to egress of flannel.2") < at(route));
    let turn = at("take routes and addresses off flannel.1");
    assert!(at(route) < turn);
    assert_eq!(
        words[turn + 1],
        route,
        "the kernel took it with the address"
    );
    assert_eq!(words.last().unwrap(), "delete flannel.1");
    model.converge(&wanted);
}

#[test]
fn many_changes_are_counted_not_listed() {
    let mut world = World::default();
    for host in 2..50 {
        let attrs = LeaseAttrs::vxlan(
            format!("192.168.0.{host}").parse().unwrap(),
            1,
            MacAddr([2, 0, 0, 0, 0, 2]),
        );
        world = world.with(&format!("10.244.{host}.0/24"), attrs);
    }
    let changes = PeerChanges::between(&world.build().unwrap().peers, &empty().peers);
    assert_eq!(changes.unwrap().to_string(), "write 48 peers and remove 0");
}
