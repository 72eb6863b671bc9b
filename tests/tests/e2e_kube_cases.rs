//! flannel's own end-to-end cases (E1-E10), by their numbers: a real API server is the datastore, and each case is served by
//! ours, by ours beside real flanneld, and by real flanneld alone.

#![cfg(test)]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_tests::cleanup;
use flannel_tests::cluster_dns::{self, NameServer, resolve};
use flannel_tests::fast_path::hooked_if_ours;
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_api::KubeApi;
use flannel_tests::kube_proxy::{self, Service};
use flannel_tests::netns::run;
use flannel_tests::network::Backend;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp;
use flannel_tests::web::{self, WebServer};
use flannel_tests::with_daemon::start;
use rstest::rstest;

const CIDR: &str = "10.244.0.0/16";
const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const HTTP: u16 = 80;
/// Of the API server itself.
const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const KUBERNETES_NAME: &str = "kubernetes.default.svc.cluster.local";
const WEB_NAME: &str = "web.default.svc.cluster.local";

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", CIDR)
}

/// Nodes one and two with a podCIDR each; `prepare` does what is done to a node before its daemon comes.
fn pair(net: &Network, mix: Mix, prepare: impl Fn(&Node)) -> (KubeApi, Pair<AnyDaemon>) {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    api.add_node("two", &["10.244.2.0/24"]);
    let flags = api.flags(net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (first, second) = mix.kinds();
    let member = |kind, name| {
        let node = lab.node(name);
        prepare(&node);
        start(kind, node, net, &flags)
    };
    let (one, two) = (member(first, "one"), member(second, "two"));
    let pair = Pair::of(lab, net.clone(), one, two);
    if net.backend == Backend::Vxlan {
        hooked_if_ours(&pair.one);
        hooked_if_ours(&pair.two);
    }
    (api, pair)
}

/// Both Nodes are ready, pods of different nodes ping each other five times, and reach the outside as their node.
#[track_caller]
fn serves(api: &KubeApi, pair: &Pair<AnyDaemon>) {
    let outside = pair.lab.outside();
    for way in pair.both_ways() {
        let node = way.from.node();
        eventually("the Node has a network", SOON, || {
            api.network_unavailable(node.name())
                .is_some_and(|[status, ..]| status == "False")
        });
        way.client.ping(way.server.address()).count(5).succeeds();
        let seen = udp::exchange(way.client, &outside, outside.address(), 100);
        assert_eq!(seen.ip(), node.address(), "masqueraded");
    }
}

/// By volume in the place of ten seconds: how fast it is, nobody asks here.
#[track_caller]
fn iperf(pair: &Pair<AnyDaemon>) {
    const BYTES: u64 = 256 << 20;
    let (client, server) = (&pair.pod1, &pair.pod2);
    let mut serving = server.command("iperf3 --server --one-off");
    let null = std::process::Stdio::null;
    let mut serving = serving.stdout(null()).spawn().expect("run iperf3");
    let listens = || !server.exec("ss -Hlnt sport = :5201").is_empty();
    eventually("iperf3 listens", SOON, listens);
    let to = server.address();
    let said = client.exec(&format!("iperf3 --json --client {to} --bytes {BYTES}"));
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON of iperf3");
    let bytes = |way: &str| report["end"][way]["bytes"].as_u64().unwrap_or_default();
    assert!(bytes("sum_sent") >= BYTES, "{said}");
    // As the server counted it.
    assert!(bytes("sum_received") > 0, "{said}");
    assert!(serving.wait().expect("wait for iperf3").success());
}

/// A host's FORWARD chain that drops, as Docker leaves it.
fn drop_by_policy(node: &Node) {
    node.exec("iptables -P FORWARD DROP");
}

#[rstest]
fn e1_and_e5_vxlan(#[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix) {
    let (api, pair) = pair(&vxlan(), mix, drop_by_policy);
    serves(&api, &pair);
    iperf(&pair);
}

/// A table of flannel's own accepts nothing that iptables' chain drops, so that one does not.
#[rstest]
fn e2_and_e5_vxlan_with_nftables(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let (api, pair) = pair(&vxlan().nftables(), mix, |_| ());
    for member in [&pair.one, &pair.two] {
        let tables = member.node().exec("nft list tables");
        let of_flanneld = member.agent().is_none();
        assert_eq!(tables.contains("flannel-ipv4"), of_flanneld, "{tables}");
    }
    serves(&api, &pair);
    iperf(&pair);
}

#[rstest]
fn e3_and_e5_host_gw(#[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix) {
    let net = Network::host_gw("/coreos.com/network", CIDR);
    let (api, pair) = pair(&net, mix, drop_by_policy);
    serves(&api, &pair);
    iperf(&pair);
}

/// Of the others, those that need a kernel's device are tested by etcd: `e2e_ipip` and `e2e_wireguard`.
#[rstest]
fn e4_and_e5_udp(#[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix) {
    let net = Network::udp("/coreos.com/network", CIDR);
    let (api, pair) = pair(&net, mix, drop_by_policy);
    serves(&api, &pair);
    iperf(&pair);
}

/// kube-proxy translates at the client's node, there and back across the overlay.
#[rstest]
fn e7_names_and_services_are_served_by_pods_of_both_nodes(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let (_api, pair) = pair(&vxlan(), mix, drop_by_policy);
    let names = [(KUBERNETES_NAME, KUBERNETES), (WEB_NAME, WEB)];
    let pods = [&pair.pod1, &pair.pod2];
    let _answer = pods.map(|pod| NameServer::on(pod, &names));
    let at = |port| {
        pods.map(|pod| SocketAddrV4::new(pod.address(), port))
            .to_vec()
    };
    let dns = Service::new(DNS, cluster_dns::PORT, at(cluster_dns::PORT));
    let web = Service::new(WEB, HTTP, at(8080));
    let _serve = ["one", "two"]
        .into_iter()
        .zip(pods)
        .map(|(name, pod)| WebServer::on(pod, 8080, name))
        .collect::<Vec<_>>();
    for member in [&pair.one, &pair.two] {
        kube_proxy::install(&[&dns, &web], member.node(), Iptables::Nft, CIDR);
    }
    for client in pods {
        // Which of two answers is chance: as often as it takes to have met both.
        let mut met = BTreeSet::new();
        eventually("both pods answer for the Service", SOON, || {
            assert_eq!(resolve(client, DNS, KUBERNETES_NAME), Some(KUBERNETES));
            let address = resolve(client, DNS, WEB_NAME).expect("the Service's name");
            assert_eq!(address, WEB);
            met.insert(web::ask(client, WEB_NAME, HTTP, address));
            met.insert(web::ask(client, &WEB.to_string(), HTTP, WEB));
            met == BTreeSet::from(["one".to_owned(), "two".to_owned()])
        });
        assert_eq!(
            resolve(client, DNS, "nobody.default.svc.cluster.local"),
            None
        );
    }
}

/// Its successor may have its address, or another.
#[rstest]
fn e8_a_pod_that_is_made_anew_is_reached(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let (_api, pair) = pair(&vxlan(), mix, |_| ());
    let Pair {
        lab: _lab,
        one,
        two,
        pod1,
        pod2,
        ..
    } = pair;
    let mut there = pod2;
    for _ in 0..2 {
        there.delete(&two);
        there = Pod::on(&two, "pod2");
        pod1.reaches(&there);
        there.reaches(&pod1);
    }
    pod1.delete(&one);
    let here = Pod::on(&one, "pod1");
    here.reaches(&there);
    there.reaches(&here);
}

/// `kubectl rollout restart`, node by node.
#[rstest]
fn e9_a_restart_of_all_keeps_the_subnets(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let (_api, mut pair) = pair(&vxlan(), mix, |_| ());
    let line = |member: &AnyDaemon| {
        let env = member.subnet_env().text();
        let line = env.lines().find(|line| line.starts_with("FLANNEL_SUBNET="));
        line.expect("FLANNEL_SUBNET").to_owned()
    };
    for daemon in [&mut pair.one, &mut pair.two] {
        let before = line(daemon);
        daemon.terminate();
        daemon.restart();
        assert_eq!(line(daemon), before);
    }
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
}

#[derive(Debug, PartialEq)]
struct Rules {
    nat: String,
    filter: String,
}

fn rules(node: &Node) -> Rules {
    Rules {
        nat: node.exec("iptables -t nat -S"),
        filter: node.exec("iptables -S"),
    }
}

/// Those that masquerade go when flanneld starts that has them in nftables, and its others never do. Ours takes all over, and
/// `cleanup` leaves none.
#[rstest]
fn e10_rules_of_a_run_before_are_gone(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    let before = vxlan();
    let flags = api.flags(&before);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let node = lab.node("one");
    let bare = rules(&node);
    let old = RealFlanneld::start_with(node, &before, &flags);
    let with_rules = rules(old.node());
    assert!(with_rules.nat.contains(CIDR), "{with_rules:?}");
    assert!(with_rules.filter.contains(CIDR), "{with_rules:?}");
    let node = old.stop();
    let after = vxlan().nftables();
    let flags = api.flags(&after);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut daemon = start(kind, node, &after, &flags);
    eventually("nothing masquerades for the network", SOON, || {
        !rules(daemon.node()).nat.contains(CIDR)
    });
    if daemon.agent().is_some() {
        daemon.terminate();
        let agent = daemon.agent().expect("it is ours");
        run(&mut cleanup::command(agent));
        assert_eq!(rules(daemon.node()), bare);
    }
}
