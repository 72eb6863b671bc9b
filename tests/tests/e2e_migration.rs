//! From flanneld to ours and back: same subnet, and connections between pods survive both ways.

#![cfg(test)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use flannel_tests::cleanup;
use flannel_tests::flannel_rules;
use flannel_tests::host::batch;
use flannel_tests::iptables::Iptables;
use flannel_tests::kernel_vxlan::mac;
use flannel_tests::netns::{output, run};
use flannel_tests::prelude::*;
use flannel_tests::udp::Flow;
use flannel_tests::{talk, tcp, udp};
use rstest::rstest;

/// A connection that stays open, with both of its ends.
struct Connection(TcpStream, TcpStream);

impl Connection {
    fn open(client: &Pod, server: &Pod) -> Self {
        let listener = server
            .netns()
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("listen"));
        let port = listener.local_addr().expect("a port").port();
        let client = client
            .netns()
            .enter(|| TcpStream::connect((server.address(), port)).expect("connect"));
        let (server, _) = listener.accept().expect("accept");
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(20)))
                .expect("a time-out");
        }
        Self(client, server)
    }

    /// A message each way.
    fn lives(&mut self) {
        let Self(client, server) = self;
        let mut buffer = [0; 4];
        client.write_all(b"ping").expect("send");
        server
            .read_exact(&mut buffer)
            .expect("the connection lives");
        assert_eq!(&buffer, b"ping");
        server.write_all(b"pong").expect("send");
        client
            .read_exact(&mut buffer)
            .expect("the connection lives");
        assert_eq!(&buffer, b"pong");
    }
}

/// A node's `/etc/cni/net.d`.
fn cni_conf_dir(node: &Node) -> std::path::PathBuf {
    node.folder().join("net.d")
}

/// `flannel-agent cleanup` with the flags that the agent had.
fn cleanup(agent: &Agent) -> std::process::Command {
    let mut command = cleanup::command(agent);
    command.arg(format!(
        "--cni-conf-dir={}",
        cni_conf_dir(agent.node()).display()
    ));
    command
}

#[test]
fn connections_survive_the_way_from_flanneld_and_back() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let old = RealFlanneld::start_with(lab.node("one"), &net, &["--ip-masq"]);
    let peer = RealFlanneld::start_with(lab.node("two"), &net, &["--ip-masq"]);
    old.follow_leases();
    let (pod1, pod2) = (Pod::on(&old, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);
    let mut connections = [
        Connection::open(&pod1, &pod2),
        Connection::open(&pod2, &pod1),
    ];
    let (subnet, mac) = (old.subnet(), mac(&old));
    let mut alive = || connections.iter_mut().for_each(Connection::lives);
    alive();

    let flow = Flow::start(&pod1, &pod2, pod2.address());
    let mut new = Agent::start(old.stop(), &net);
    assert_eq!(new.subnet(), subnet);
    alive();
    flow.finish().assert_complete();
    let link = new.exec("ip -d link show dev flannel.1");
    assert!(link.contains(&mac) && link.contains("veth"), "{link}");
    assert_eq!(new.exec("ip -d link show type vxlan"), "");

    assert!(new.terminate().success());
    alive();
    let before = output(cleanup(&new).arg("--dry-run"));
    assert_eq!(before.status.code(), Some(2), "{before:?}");
    assert!(new.exec("ip link show flannel.1").contains("flgro.1"));
    alive();
    let said = run(&mut cleanup(&new));
    assert!(said.contains("removed the device flannel."), "{said}");
    // The dry run names all that goes, and nothing else.
    let planned = String::from_utf8(before.stdout).unwrap();
    assert_eq!(planned.replace("would remove", "removed"), said);
    assert!(new.try_exec("ip link show flannel.1").stdout.is_empty());
    assert!(new.try_exec("ip link show flgro.1").stdout.is_empty());
    assert_eq!(new.exec("ip route show proto 102"), "");
    let said = run(&mut cleanup(&new));
    assert!(
        said.starts_with("nothing to do: nothing of /coreos.com/network"),
        "{said}"
    );
    run(cleanup(&new).arg("--dry-run"));

    let back = RealFlanneld::start_with(new.stop(), &net, &["--ip-masq"]);
    assert_eq!(back.subnet(), subnet);
    pod1.reaches(&pod2);
    alive();
}

/// flanneld's rules in nftables (`EnableNFTables`).
fn nft_masquerade(member: &KernelVxlan) {
    let (cluster, own) = (&member.net().cidr, member.subnet());
    let chain = "ip flannel-ipv4 postrtg";
    let lines = [
        "add table ip flannel-ipv4".to_owned(),
        format!("add chain {chain} {{ type nat hook postrouting priority srcnat; }}"),
        format!("add rule {chain} meta mark 0x4000 return"),
        format!("add rule {chain} ip saddr {own} ip daddr {cluster} return"),
        format!("add rule {chain} ip saddr {cluster} ip daddr {own} return"),
        format!("add rule {chain} ip saddr != {own} ip daddr {cluster} return"),
        format!(
            "add rule {chain} ip saddr {cluster} ip daddr != 224.0.0.0/4 masquerade fully-random"
        ),
    ];
    batch(&mut member.command("nft -f -"), &lines);
}

/// What masquerades on the node, by all three tools.
fn nat_rules(host: &impl Host) -> String {
    [
        "iptables-nft-save -t nat",
        "iptables-legacy-save -t nat",
        "nft list table ip flannel-ipv4",
    ]
    .map(|line| String::from_utf8(host.try_exec(line).stdout).expect("text"))
    .concat()
}

#[rstest]
#[case::iptables(|old: &KernelVxlan| flannel_rules::install(old, Iptables::Nft))]
#[case::legacy(|old: &KernelVxlan| flannel_rules::install(old, Iptables::Legacy))]
#[case::nftables(nft_masquerade)]
fn masquerading_is_taken_over_and_connections_to_the_outside_survive(
    #[case] install: fn(&KernelVxlan),
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let outside = lab.outside();
    let old = KernelVxlan::join(lab.node("one"), &net);
    install(&old);
    old.exec("iptables-nft -t nat -A POSTROUTING -s 10.99.0.0/16 -j MASQUERADE");
    let pod = Pod::on(&old, "pod");
    let server = tcp::Server::on(&outside);
    let to = outside.at(server.port());
    let mut talk = talk::Tcp::open(&server, &pod, to);
    talk.rounds(3);

    let mut new = Agent::start_with(old.stop(), &net, &["--ip-masq"]);
    let rules = nat_rules(&new);
    assert!(
        !rules.contains("FLANNEL") && !rules.contains("10.244."),
        "{rules}"
    );
    assert!(
        rules.contains("10.99.0.0/16"),
        "somebody else's stays: {rules}"
    );
    talk.rounds(3);
    let seen = server.exchange(&pod, to, 100_000);
    assert_eq!(seen.client.ip(), new.node().address());
    new.kill();
    talk.rounds(3);
    talk.close();
}

/// conntrack is there for the kernel's translating as long as some rule of the namespace wants it, and flanneld's may be the
/// only ones that do.
#[rstest]
#[case::iptables(|old: &KernelVxlan| flannel_rules::install(old, Iptables::Nft))]
#[case::legacy(|old: &KernelVxlan| flannel_rules::install(old, Iptables::Legacy))]
#[case::nftables(nft_masquerade)]
fn connections_to_the_outside_survive_where_nothing_else_tracks_them(
    #[case] install: fn(&KernelVxlan),
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let outside = lab.outside();
    let old = KernelVxlan::join(lab.node("one"), &net);
    install(&old);
    let pod = Pod::on(&old, "pod");
    let server = tcp::Server::on(&outside);
    let mut talk = talk::Tcp::open(&server, &pod, outside.at(server.port()));
    talk.rounds(3);
    let mut new = Agent::start_with(old.stop(), &net, &["--ip-masq"]);
    let is_held_once = |rules: &str| {
        assert_eq!(rules.matches("conntrack stays").count(), 1, "{rules}");
    };
    let rules = nat_rules(&new);
    assert!(!rules.contains("10.244."), "{rules}");
    is_held_once(&rules);
    talk.rounds(3);
    new.restart_with(&["--ip-masq"]);
    is_held_once(&nat_rules(&new));
    talk.rounds(3);
    talk.close();
    assert!(new.terminate().success());
    run(&mut cleanup(&new));
    let rules = nat_rules(&new);
    assert!(!rules.contains("conntrack stays"), "{rules}");
}

/// It is one for the node, and the last network takes it along.
#[test]
fn the_rule_for_conntrack_stays_for_other_networks() {
    let lab = Lab::new();
    let red = lab.network(Network::vxlan("/red/network", "10.11.0.0/16").vni(1));
    let blue = lab.network(Network::vxlan("/blue/network", "10.12.0.0/16").vni(2));
    let old = KernelVxlan::join(lab.node("one"), &blue);
    flannel_rules::install(&old, Iptables::Nft);
    let node = old.stop();
    let mut stays = Agent::start_with(node.clone(), &blue, &["--ip-masq"]);
    let mut gone = Agent::start_with(node.clone(), &red, &["--ip-masq"]);
    let is_held = || nat_rules(&*node).contains("conntrack stays");
    assert!(is_held());
    assert!(gone.terminate().success());
    run(&mut cleanup(&gone));
    assert!(is_held(), "blue's connections need it");
    assert!(stays.terminate().success());
    run(&mut cleanup(&stays));
    assert!(!is_held());
}

/// As flanneld, which removes its rules only to write them anew.
#[test]
fn without_ip_masq_flannelds_rules_stay() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let outside = lab.outside();
    let old = RealFlanneld::start_with(lab.node("one"), &net, &["--ip-masq"]);
    let pod = Pod::on(&old, "pod");
    let before = old.exec("iptables-nft -t nat -S");
    let new = Agent::start(old.stop(), &net);
    assert_eq!(new.exec("iptables-nft -t nat -S"), before);
    let seen = udp::exchange(&pod, &outside, outside.address(), 100);
    assert_eq!(seen.ip(), new.node().address());
}

#[test]
fn cleanup_of_host_gw_takes_its_routes_and_nobody_elses() {
    let lab = Lab::new();
    let net = lab.network(Network::host_gw("/coreos.com/network", "10.244.0.0/16"));
    let mut one = Agent::start(lab.node("one"), &net);
    let two = Agent::start(lab.node("two"), &net);
    let route = format!("ip route show {}", two.subnet());
    eventually("the route is there", SOON, || !one.exec(&route).is_empty());
    one.exec("ip route add 10.99.0.0/16 via 172.30.0.254");
    assert!(one.terminate().success());
    run(&mut cleanup(&one));
    assert_eq!(one.exec(&route), "");
    assert!(one.exec("ip route show 10.99.0.0/16").contains("via"));
}

/// What one look does not see is named, and the rest goes.
#[rstest]
#[case::subnet_file("subnet.env", "cannot look at the subnet file")]
#[case::sysctls("sysctls-", "cannot look at the node's sysctls")]
fn cleanup_goes_on_past_a_damaged_file(#[case] file: &str, #[case] said: &str) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let mut agent = Agent::start(lab.node("one"), &net);
    assert!(agent.terminate().success());
    let state = std::fs::read_dir(agent.node().state_dir()).unwrap();
    let state = state.map(|entry| entry.unwrap().path());
    let mut files = state.chain([agent.subnet_file()]);
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        // Nobody reads what is in a lock.
        name.starts_with(file) && !name.ends_with(".lock")
    };
    std::fs::write(files.find(is_it).unwrap(), b"\xff").unwrap();

    let planned = output(cleanup(&agent).arg("--dry-run"));
    assert_eq!(planned.status.code(), Some(1), "{planned:?}");
    let planned = String::from_utf8(planned.stdout).unwrap();
    assert!(
        planned.contains("would remove the device flannel.1"),
        "{planned}"
    );
    let cleaned = output(&mut cleanup(&agent));
    assert_eq!(cleaned.status.code(), Some(1), "{cleaned:?}");
    let text = String::from_utf8(cleaned.stderr).unwrap();
    assert!(text.contains(said), "{text}");
    assert!(agent.try_exec("ip link show flannel.1").stdout.is_empty());
    assert!(
        !agent
            .node()
            .bpffs()
            .join("flannel/coreos_com_network")
            .exists()
    );
}

#[test]
fn cleanup_of_one_network_leaves_the_other() {
    let lab = Lab::new();
    let red = lab.network(Network::vxlan("/red/network", "10.11.0.0/16").vni(1));
    let blue = lab.network(Network::vxlan("/blue/network", "10.12.0.0/16").vni(2));
    let node = std::sync::Arc::new(lab.node("one"));
    let mut gone = Agent::start(node.clone(), &red);
    let stays = Agent::start(node, &blue);
    let far = Agent::start(lab.node("two"), &blue);
    let (pod1, pod2) = (Pod::on(&stays, "pod1"), Pod::on(&far, "pod2"));
    pod1.reaches(&pod2);
    let flow = Flow::start(&pod1, &pod2, pod2.address());
    assert!(gone.terminate().success());
    run(&mut cleanup(&gone));
    assert!(
        output(&mut gone.command("ip link show flannel.1"))
            .stdout
            .is_empty()
    );
    flow.finish().assert_complete();
}

const LIBERAL: &str = "cat /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

#[test]
fn cleanup_gives_back_what_the_last_agent_leaves() {
    let lab = Lab::new();
    let red = lab.network(Network::vxlan("/red/network", "10.11.0.0/16").vni(1));
    let blue = lab.network(Network::vxlan("/blue/network", "10.12.0.0/16").vni(2));
    let node = std::sync::Arc::new(lab.node("one"));
    assert_eq!(node.exec(LIBERAL).trim(), "0");
    let mut first = Agent::start(node.clone(), &red);
    let mut last = Agent::start(node.clone(), &blue);
    assert_eq!(node.exec(LIBERAL).trim(), "1");

    assert!(first.terminate().success());
    let said = run(&mut cleanup(&first));
    assert!(said.contains("nf_conntrack_tcp_be_liberal"), "{said}");
    assert_eq!(node.exec(LIBERAL).trim(), "1", "the other still needs it");
    assert!(last.terminate().success());
    run(&mut cleanup(&last));
    assert_eq!(node.exec(LIBERAL).trim(), "0");
    assert_eq!(std::fs::read_dir(node.state_dir()).unwrap().count(), 0);
    let said = run(&mut cleanup(&last));
    assert!(said.contains("nothing of /blue/network"), "{said}");
}

#[test]
fn a_fast_path_switched_off_gives_its_sysctl_back() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let mut agent = Agent::start(lab.node("one"), &net);
    agent.kill();
    agent.restart_with(&["--fast-path=off"]);
    assert_eq!(agent.exec(LIBERAL).trim(), "0");
}

#[test]
fn cleanup_takes_the_cni_network_that_we_wrote_and_no_other() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let folder = cni_conf_dir(&node);
    let flag = format!("--cni-conf-dir={}", folder.display());
    let mut agent = Agent::start_with(node, &net, &[&flag]);
    let file = folder.join("10-flannel.conflist");
    let theirs = r#"{"name":"cbr0","plugins":[{"type":"flannel"}]}"#;
    std::fs::write(folder.join("20-other.conflist"), theirs).unwrap();
    assert!(agent.terminate().success());
    let said = run(&mut cleanup(&agent));
    assert!(said.contains("10-flannel.conflist"), "{said}");
    assert!(!file.exists() && folder.join("20-other.conflist").exists());

    std::fs::write(&file, theirs).unwrap();
    let said = run(&mut cleanup(&agent));
    assert!(said.contains("nothing of /coreos.com/network"), "{said}");
    assert!(file.exists(), "flannel's own was taken");
}

#[test]
fn cleanup_under_a_running_agent_is_refused() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let agent = Agent::start(lab.node("one"), &net);
    let refused = output(&mut cleanup(&agent));
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("stop it first"), "{said}");
    assert!(agent.exec("ip link show flannel.1").contains("flannel.1"));
}

/// An address that no pod has, in a subnet that no bridge covers: without the route it goes round in circles.
#[test]
fn the_blackhole_route_ends_what_nobody_has_and_goes_with_cleanup() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let mut agent = Agent::start_with(lab.node("one"), &net, &["--ip-blackhole-route"]);
    let nobody = agent.subnet().address(77);
    let show = format!("ip route show {}", agent.subnet());
    eventually("the blackhole route", SOON, || {
        agent.exec(&show).contains("blackhole")
    });
    let refused = agent.try_exec(&format!("ip route get {nobody}"));
    assert!(!refused.status.success(), "{refused:?}");

    agent.exec(&format!("ip route del blackhole {}", agent.subnet()));
    eventually("it comes back", SOON, || {
        agent.exec(&show).contains("blackhole")
    });
    // The bridge's own route comes first.
    let pod = Pod::on(&agent, "pod");
    agent.ping(pod.address()).succeeds();
    assert!(agent.terminate().success());
    let said = run(&mut cleanup(&agent));
    assert!(said.contains("the blackhole route"), "{said}");
    assert!(!agent.exec(&show).contains("blackhole"));
}
