//! The backend wireguard: among ours, and beside real flanneld, which is the control. The first test is for kernels without
//! WireGuard, all others for those that have it.

#![cfg(test)]

use flannel_tests::agent::{Daemon, command};
use flannel_tests::netns::output;
use flannel_tests::network::Backend;
use flannel_tests::pair::{Kind, Mix, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::stage::{Stage, seen};
use flannel_tests::udp::{self, assert_nothing_lost};
use flannel_tests::ways::carries_everything;
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";
/// MTU of the uplink, less what flannel reckons for WireGuard.
const MTU: u32 = 1500 - 80;

fn network() -> Network {
    Network::wireguard(PREFIX, CIDR)
}

fn pair(mix: Mix) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(network());
    Pair::of_daemons_in(lab, net, mix, &["--ip-masq"])
}

/// What the agent says of a node, and how it ends.
#[track_caller]
fn ask(node: &Node, words: &[&str]) -> (bool, String) {
    let folders = [
        format!("--bpffs={}", node.bpffs().display()),
        format!("--state-dir={}", node.state_dir().display()),
    ];
    let all: Vec<&str> = words
        .iter()
        .copied()
        .chain(folders.iter().map(String::as_str))
        .collect();
    let mut command = command(node, &all);
    command.env("WIREGUARD_KEY_FILE", node.key_file());
    let done = output(&mut command);
    let said = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Word for word as `wg show flannel-wg WHAT` has it.
fn wg(on: &(impl Host + ?Sized), what: &str) -> String {
    on.exec(&format!("wg show flannel-wg {what}"))
        .trim()
        .to_owned()
}

fn index(on: &(impl Host + ?Sized)) -> String {
    let link = on.exec("ip -o link show flannel-wg");
    link.split(':').next().expect("an index").to_owned()
}

/// Bytes from its only peer.
fn received(on: &(impl Host + ?Sized)) -> u64 {
    let transfer = wg(on, "transfer");
    let bytes = transfer.split_whitespace().nth(1);
    bytes.and_then(|bytes| bytes.parse().ok()).expect("a peer")
}

fn keys(pair: &Pair<AnyDaemon>) -> [String; 2] {
    [&pair.one, &pair.two].map(|member| wg(member.node(), "public-key"))
}

/// No device, no lease, and the words that help.
#[test]
fn a_kernel_without_it_is_named_with_the_way_out() {
    let lab = Lab::new();
    let net = lab.network(network());
    let node = lab.node("one");
    let etcd = format!("--etcd-endpoints={}", node.etcd());
    let doctor = ["doctor", "--pre", "-o=json", &etcd, "--iface=eth0"];
    if !node
        .try_exec("ip link add probe type wireguard")
        .stderr
        .is_empty()
    {
        let mut daemon = Daemon::spawn(&node, &net, &[]);
        assert!(!daemon.process().wait(SOON).success());
        let log = daemon.log();
        assert!(
            log.contains("this kernel has no WireGuard devices"),
            "{log}"
        );
        assert!(log.contains("modprobe wireguard"), "{log}");
        assert!(!node.key_file().exists());
        assert_eq!(lab.etcd().leases(&net), []);
        let (fine, said) = ask(&node, &doctor);
        assert!(
            !fine && said.contains("the kernel has no WireGuard devices"),
            "{said}"
        );
    } else {
        let (_, said) = ask(&node, &doctor);
        assert!(said.contains("the kernel has WireGuard devices"), "{said}");
    }
}

#[rstest]
#[case::ours(Mix::Ours)]
#[case::mixed(Mix::OursAndFlanneld)]
#[case::flanneld(Mix::Flanneld)]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn e4_pods_of_both_kinds_talk(#[case] mix: Mix) {
    let pair = pair(mix);
    carries_everything(&pair);
    let leases = pair.both_ways().map(
        |Way {
             from,
             client,
             server,
             ..
         }| {
            let to = server.address();
            assert_eq!(from.subnet_env().mtu, MTU);
            assert_eq!(client.ping(to).whole(MTU).succeeds().ttl, Some(62));
            assert_eq!(
                client.ping(to).count(1).whole(MTU + 1).told().too_big,
                Some(MTU)
            );
            from.node().ping(to).succeeds();
            assert_eq!(seen(client, server, to), client.address());
            let link = from.node().exec("ip -d link show flannel-wg");
            assert!(
                link.contains("wireguard") && link.contains(&format!("mtu {MTU}")),
                "{link}"
            );
            let route = from.node().exec(&format!("ip route show {CIDR}"));
            assert!(
                route.lines().count() == 1 && route.contains("dev flannel-wg"),
                "{route}"
            );
            assert_eq!(wg(from.node(), "listen-port"), "51820");
            let key = wg(from.node(), "public-key");
            let lease = pair
                .lab
                .etcd()
                .get(&pair.net.lease_key(from.subnet()))
                .expect("a lease");
            let lease = lease.replace(&from.node().address().to_string(), "IP");
            lease.replace(&key, "KEY")
        },
    );
    let expected = r#"{"PublicIP":"IP","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"KEY","Port":51820}}"#;
    assert_eq!(leases, [expected, expected]);
}

/// A sniffer watches the wire: no pod's packet comes out of it in clear.
#[rstest]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn the_table_of_masquerading_holds(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on_net(kind, network());
    let other = stage.neighbour();
    let (here, there) = (stage.pod.address(), other.pod.address());
    eventually("the neighbour is a peer", SOON, || {
        wg(stage.node.node(), "allowed-ips").contains(&other.node.subnet().to_string())
    });
    let server = stage.outside.address();
    assert_eq!(seen(&stage.pod, &stage.outside, server), stage.address());
    let node = other.node.node().address();
    assert_eq!(seen(&stage.pod, other.node.node(), node), stage.address());
    assert_eq!(seen(&stage.pod, &other.pod, there), here);
    assert_eq!(seen(&other.pod, &stage.pod, here), there);
    // Row 6: from outside by way of this node to another one's pod, under the device's address.
    stage.sniffer.allow_all(there);
    stage
        .outside
        .routes_to(&other.node.subnet().to_string(), &stage.node);
    assert_eq!(
        seen(&stage.outside, &other.pod, there),
        stage.node.subnet().base
    );
}

#[test]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn a_restart_loses_no_packet_and_no_handshake() {
    let mut pair = pair(Mix::Ours);
    let (place, before) = (index(pair.one.node()), received(pair.one.node()));
    let flows = pair.flows();
    pair.one.kill();
    pair.one.restart();
    assert!(pair.two.terminate().success());
    pair.two.restart();
    assert_nothing_lost(flows);
    assert_eq!(index(pair.one.node()), place);
    // A peer that is made anew begins with nothing.
    assert!(received(pair.one.node()) >= before);
    let log = pair.one.log();
    assert!(
        !log.contains("tell flannel-wg") && !log.contains("create flannel-wg"),
        "{log}"
    );
}

/// A router on the way gives a node's packets another port, which no lease names.
#[test]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn a_peer_behind_nat_stays_where_it_was_heard_over_a_restart() {
    let mut pair = pair(Mix::Ours);
    let two = pair.two.node();
    let address = two.address();
    two.exec(&format!(
        "iptables-nft -t nat -A POSTROUTING -p udp --sport 51820 -j SNAT --to-source {address}:40000"
    ));
    // What conntrack knows keeps its port.
    two.try_exec("conntrack -D -p udp --dport 51820");
    let moved = format!("{address}:40000");
    let endpoints = |pair: &Pair<AnyDaemon>| wg(pair.one.node(), "endpoints");
    eventually("the peer is heard from the other port", SOON, || {
        pair.pod2.ping(pair.pod1.address()).told();
        endpoints(&pair).ends_with(&moved)
    });
    pair.pod1.ping(pair.pod2.address()).succeeds();
    assert!(pair.one.terminate().success());
    pair.one.restart();
    assert!(endpoints(&pair).ends_with(&moved), "{}", endpoints(&pair));
    pair.pod1.ping(pair.pod2.address()).succeeds();
}

/// As of a node that got another address, or of one that means harm: whoever has the key shows where he is.
#[test]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn a_second_lease_with_a_peer_s_key_does_not_end_the_first() {
    let pair = pair(Mix::Ours);
    let key = wg(pair.two.node(), "public-key");
    let subnet = pair.net.subnets().next().expect("the lowest");
    let lease = format!(
        r#"{{"PublicIP":"172.30.0.77","BackendType":"wireguard","BackendData":{{"PublicKey":"{key}","Port":7}}}}"#
    );
    let lease_key = pair.net.lease_key(subnet);
    pair.lab.etcd().put(&lease_key, &lease);
    let at = |endpoint: &str| wg(pair.one.node(), "endpoints").ends_with(endpoint);
    eventually("the newest is believed", SOON, || at("\t172.30.0.77:7"));
    let allowed = wg(pair.one.node(), "allowed-ips");
    for subnet in [subnet, pair.two.subnet()] {
        assert!(allowed.contains(&subnet.to_string()), "{allowed}");
    }
    // The first packet of its owner.
    pair.pod2.ping(pair.pod1.address()).succeeds();
    assert!(!at("\t172.30.0.77:7"));
    pair.pod1.ping(pair.pod2.address()).succeeds();
    pair.lab.etcd().delete(&lease_key);
    eventually("it has one subnet again", SOON, || {
        !wg(pair.one.node(), "allowed-ips").contains(&subnet.to_string())
    });
    pair.pod1.ping(pair.pod2.address()).succeeds();
}

/// flanneld removes its device when it ends in an orderly way; not when it is killed.
#[test]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn flannelds_device_is_taken_over_as_it_is_and_given_back() {
    let mut pair = pair(Mix::Flanneld);
    let (was, place) = (keys(&pair), index(pair.one.node()));
    let flow = udp::Flow::start(&pair.pod1, &pair.pod2, pair.pod2.address());
    pair.one.kill();
    let ours = Agent::start_with(pair.one.node_arc(), &pair.net, &["--ip-masq"]);
    flow.finish().assert_complete();
    assert_eq!((keys(&pair), index(&ours)), (was.clone(), place));
    let route = ours.exec(&format!("ip route show {CIDR}"));
    assert!(
        route.lines().count() == 1 && route.contains("proto 102"),
        "{route}"
    );
    carries_everything(&pair);

    drop(ours.stop());
    pair.one.restart();
    assert_eq!(keys(&pair), was);
    carries_everything(&pair);
}

/// No command, no log and no file for others has `secret`.
#[track_caller]
fn assert_secret(daemon: &dyn WithDaemon, secret: &str) {
    let node = daemon.node();
    let etcd = format!("--etcd-endpoints={}", node.etcd());
    let folder = node.folder().join("bundle");
    let to = format!("--to={}", folder.display());
    for words in [
        &["status"][..],
        &["status", "-o", "json"],
        &["peers"],
        &["peers", "-o", "json"],
        &["plan", &etcd, "--iface=eth0"],
        &["plan", &etcd, "--iface=eth0", "-o", "json"],
        &["doctor", &etcd, "--iface=eth0"],
    ] {
        let (_, said) = ask(node, words);
        assert!(!said.contains(secret), "{words:?}: {said}");
    }
    let (_, said) = ask(node, &["debug", "bundle", &to, &etcd, "--iface=eth0"]);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{error}: {said}"));
    for file in files {
        let path = file.expect("a file").path();
        let text = std::fs::read(&path).expect("what is in it");
        let mut parts = text.windows(secret.len());
        let has = parts.any(|part| part == secret.as_bytes());
        assert!(!has, "{}", path.display());
    }
    assert!(!daemon.log().contains(secret));
}

#[test]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn keys_change_peers_go_and_secrets_stay_secret() {
    let mut pair = pair(Mix::Ours);
    let old = wg(pair.one.node(), "public-key");
    let file = pair.one.node().key_file();
    // An operator's new key, as wg prints it.
    let new = pair.one.exec("wg genkey");
    std::fs::remove_file(&file).expect("the old key");
    std::fs::write(&file, &new).expect("write the new one");
    assert!(pair.one.terminate().success());
    pair.one.restart();
    let key = wg(pair.one.node(), "public-key");
    assert_ne!(key, old);
    eventually("the peer knows the new key, and no other", SOON, || {
        wg(pair.two.node(), "peers") == key
    });
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);

    let other = pair.one.exec("wg genpsk");
    let subnet = pair.net.subnets().nth(200).expect("a free one");
    let lease = format!(
        r#"{{"PublicIP":"172.30.0.77","BackendType":"wireguard","BackendData":{{"PublicKey":"{}","Port":7}}}}"#,
        other.trim()
    );
    pair.lab.etcd().put(&pair.net.lease_key(subnet), &lease);
    let line = format!("{}\t172.30.0.77:7", other.trim());
    eventually("a new lease is a peer", SOON, || {
        wg(pair.one.node(), "endpoints").contains(&line)
    });
    pair.lab.etcd().delete(&pair.net.lease_key(subnet));
    eventually("who has no lease is none", SOON, || {
        wg(pair.one.node(), "peers").lines().count() == 1
    });

    assert_secret(&*pair.one, new.trim());
    let (_, said) = ask(pair.one.node(), &["peers"]);
    assert!(said.contains(&wg(pair.two.node(), "public-key")), "{said}");

    let etcd = format!("--etcd-endpoints={}", pair.one.node().etcd());
    assert!(pair.one.terminate().success());
    let (fine, said) = ask(pair.one.node(), &["cleanup", &etcd]);
    assert!(fine && said.contains("flannel-wg"), "{said}");
    assert!(
        pair.one
            .try_exec("ip link show flannel-wg")
            .stdout
            .is_empty()
    );
}

#[test]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn options_of_the_configuration_are_the_devices() {
    let lab = Lab::new();
    let psk = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    let net = network().port(7777).mtu(1400);
    let config = net.config().replace(
        r#""Type":"#,
        &format!(r#""PSK":"{psk}","PersistentKeepaliveInterval":25,"Mode":"auto","Type":"#),
    );
    lab.etcd().put(&format!("{PREFIX}/config"), &config);
    let one = Agent::start(lab.node("one"), &net);
    let two = RealFlanneld::start(lab.node("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    assert_eq!(pair.one.subnet_env().mtu, 1320);
    for node in [pair.one.node(), pair.two.node()] {
        assert_eq!(wg(node, "listen-port"), "7777");
        assert!(wg(node, "preshared-keys").ends_with(psk));
        assert!(wg(node, "persistent-keepalive").ends_with("25"));
    }
    assert_secret(&pair.one, psk);
}

#[test]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn another_backend_and_back() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan(PREFIX, CIDR));
    let mut pair = Pair::of_daemons_in(lab, net, Mix::Ours, &["--ip-masq"]);
    for net in [
        network(),
        Network::vxlan(PREFIX, CIDR),
        network(),
        Network::host_gw(PREFIX, CIDR),
    ] {
        let net = pair.lab.network(net);
        for daemon in [&mut pair.one, &mut pair.two] {
            assert!(daemon.terminate().success());
            daemon.restart();
        }
        pair.pod1.reaches(&pair.pod2);
        pair.pod2.reaches(&pair.pod1);
        let links = pair.one.exec("ip -br link");
        let has = |name: &str| links.lines().any(|line| line.starts_with(name));
        assert_eq!(has("flannel-wg"), net.device() == "flannel-wg", "{links}");
        assert_eq!(has("flannel.1"), net.backend == Backend::Vxlan, "{links}");
        let routes = pair.one.exec("ip route show proto 102");
        assert_eq!(routes.lines().count(), 1, "{routes}");
        pair.net = net;
    }
}
