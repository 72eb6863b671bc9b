//! The agent comes and goes, the table overflows, the address changes: what is established goes on.

#![cfg(test)]

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use flannel_tests::agent::Daemon;
use flannel_tests::mirror::{Client, Mirror};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;
use flannel_tests::stage::Stage;
use flannel_tests::udp::Flow;
use rstest::rstest;

const PORT: u16 = 7000;
/// Everything is looked at every 30 s.
const LOOKS: Duration = Duration::from_secs(60);

/// Flows of each kind to one server, and as whom they are seen.
struct Flows {
    clients: Vec<Client>,
    seen: Vec<std::net::SocketAddrV4>,
}

impl Flows {
    fn open(stage: &Stage<impl Member>, mirror: &Mirror) -> Self {
        let to = stage.outside.at(mirror.port());
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(Client::tcp(&stage.pod, to).unwrap());
            clients.push(Client::udp(&stage.pod, 0, to));
        }
        let seen = (0..).zip(&mut clients).map(|(n, client)| client.ask(n));
        Self {
            seen: seen.collect(),
            clients,
        }
    }

    /// Every one is answered, and seen as before.
    #[track_caller]
    fn go_on(&mut self) {
        for (n, (client, before)) in (1_000..).zip(self.clients.iter_mut().zip(&self.seen)) {
            assert_eq!(client.ask(n), *before);
        }
    }
}

#[rstest]
#[case::ours(Kind::Ours, &[])]
#[case::with_other_programs(Kind::Ours, &["--ip-masq", "--source-check=off"])]
#[case::with_other_exemptions(Kind::Ours, &["--ip-masq", "--snat-exempt=203.0.113.0/24"])]
#[case::flanneld(Kind::Flanneld, &[])]
fn flows_outlive_the_agent(#[case] kind: Kind, #[case] flags: &[&str]) {
    let mut stage = Stage::on(kind);
    if kind == Kind::Flanneld {
        // It takes its rules away and writes them anew at each start, and meanwhile pods leave as themselves.
        stage.sniffer.allow_all(stage.pod.address());
    }
    let mirror = Mirror::on(&stage.outside, PORT);
    let mut flows = Flows::open(&stage, &mirror);
    let steady = Flow::start(&stage.pod, &stage.outside, stage.outside.address());
    stage.node.kill();
    flows.go_on();
    // New ones need no agent, either.
    Flows::open(&stage, &mirror).go_on();
    if flags.is_empty() {
        stage.node.restart();
    } else {
        stage.node.restart_with(flags);
    }
    flows.go_on();
    Flows::open(&stage, &mirror).go_on();
    stage.node.terminate();
    flows.go_on();
    steady.finish().assert_complete();
}

/// What the pins held is open in the agent still, and pinned again by it: it has not to be found by its number, which takes
/// CAP_SYS_ADMIN.
#[rstest]
#[case::as_root("")]
#[case::without_sys_admin(
    "setpriv --bounding-set -all,+net_admin,+net_raw,+bpf,+perfmon --inh-caps -all"
)]
fn flows_outlive_pins_that_somebody_removes(#[case] rights: &str) {
    let stage = Stage::under(rights);
    let mirror = Mirror::on(&stage.outside, PORT);
    let mut flows = Flows::open(&stage, &mirror);
    let steady = Flow::start(&stage.pod, &stage.outside, stage.outside.address());
    let pins = stage.node.node().bpffs().join("flannel");
    std::fs::remove_dir_all(&pins).expect("remove the pins");
    flows.go_on();
    eventually("everything is pinned again", LOOKS, || pins.exists());
    flows.go_on();
    Flows::open(&stage, &mirror).go_on();
    steady.finish().assert_complete();
    let log = stage.node.log();
    assert!(!log.contains("loading the programs again"), "{log}");
}

/// With other ports: a flow that speaks goes on under one of them, and a connection ends rather than to hang. The kernel's NAT
/// has no ports of its own that could change.
#[test]
fn flows_under_ports_of_before_do_not_hang() {
    let mut stage = Stage::with(&["--snat-ports=50000-50999"]);
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let mut udp = Client::udp(&stage.pod, 0, to);
    let mut tcp = Client::tcp(&stage.pod, to).unwrap();
    for client in [&mut udp, &mut tcp] {
        let seen = client.ask(1);
        assert!((50_000..51_000).contains(&seen.port()), "{seen}");
    }
    stage.node.kill();
    stage
        .node
        .restart_with(&["--ip-masq", "--snat-ports=52000-52999"]);
    let seen = udp.ask(2);
    assert!((52_000..53_000).contains(&seen.port()), "{seen}");
    let error = tcp
        .try_ask(3)
        .expect_err("the server knows no such connection");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    let log = stage.node.log();
    assert!(log.contains("2 flows of pods had ports"), "{log}");
}

/// Four times as many flows as fit: the ones in use are not among those that make room.
#[test]
fn a_full_table_keeps_what_is_in_use() {
    let stage = Stage::with(&["--snat-entries=8192"]);
    let mirror = Mirror::on(&stage.outside, PORT);
    let mut flows = Flows::open(&stage, &mirror);
    let sink = flannel_tests::udp::Server::on(&stage.outside).into_socket();
    let sink = sink.local_addr().unwrap().port();
    for burst in 0..32 {
        stage.pod.netns().enter(|| {
            for _ in 0..512 {
                let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.send_to(&[burst], stage.outside.at(sink)).unwrap();
            }
        });
        flows.go_on();
    }
    // What is young fills a quarter of it and no more, whoever sends it, and that is full.
    let entries = SnatTable::of(&stage.node).entries().len();
    assert!((2_048 * 9 / 10..=8_192).contains(&entries), "{entries}");
}

#[test]
fn flows_outlive_another_size_of_the_table() {
    let mut stage = Stage::new();
    let mirror = Mirror::on(&stage.outside, PORT);
    let mut flows = Flows::open(&stage, &mirror);
    for entries in ["--snat-entries=16384", "--snat-entries=65536"] {
        stage.node.terminate();
        stage.node.restart_with(&["--ip-masq", entries]);
        flows.go_on();
        Flows::open(&stage, &mirror).go_on();
    }
}

/// Nobody sweeps the table of an agent that is gone.
#[test]
fn flows_that_are_over_are_not_carried_into_another_size_of_the_table() {
    let mut stage = Stage::new();
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let mut silent: Vec<_> = (0..20).map(|_| Client::udp(&stage.pod, 0, to)).collect();
    for client in &mut silent {
        client.ask(1);
    }
    let mut lively = Flows::open(&stage, &mirror);
    stage.node.terminate();
    let ports: Vec<u16> = silent.iter().map(Client::port).collect();
    let mut table = SnatTable::of(&stage.node);
    table.age(3_600, |key, own| key.proto == 17 && ports.contains(&own));
    stage
        .node
        .restart_with(&["--ip-masq", "--snat-entries=16384"]);
    lively.go_on();
    let log = stage.node.log();
    let carried = log
        .lines()
        .filter(|line| line.contains("carried into a table"));
    let entries = carried.filter_map(|line| line.split_once("\"entries\":")?.1.split(',').next());
    let entries: usize = entries
        .map(|n| n.trim().parse::<usize>().expect("a number"))
        .sum();
    // Both ways of those, and what is noted of the agent's own connections.
    assert!((12..40).contains(&entries), "{entries}");
}

/// The programs that run go on with the table that they have, and whatever comes into it meanwhile is worth as much.
#[test]
fn flows_outlive_a_start_with_another_size_that_fails() {
    let mut stage = Stage::new();
    let mirror = Mirror::on(&stage.outside, PORT);
    let mut before = Flows::open(&stage, &mirror);
    stage.node.terminate();
    let object = flag_of_refused_programs(stage.node.node());
    let flags = ["--ip-masq", "--snat-entries=16384", &object];
    let mut daemon = Daemon::spawn(stage.node.node(), &stage.net, &flags);
    let status = daemon.process().wait(LOOKS);
    assert!(!status.success() && daemon.log().contains("the program"));
    let mut meanwhile = Flows::open(&stage, &mirror);
    for flags in [&["--ip-masq"][..], &["--ip-masq", "--snat-entries=32768"]] {
        stage.node.restart_with(flags);
        before.go_on();
        meanwhile.go_on();
        Flows::open(&stage, &mirror).go_on();
        stage.node.terminate();
    }
    let pins = stage.node.node().bpffs().join("flannel");
    let networks = std::fs::read_dir(pins).expect("the pins").flatten();
    let folders = networks.flat_map(|network| std::fs::read_dir(network.path()).expect("pins"));
    let names: Vec<_> = folders.flatten().map(|folder| folder.file_name()).collect();
    let aside = |name: &OsString| name.to_string_lossy().starts_with("was");
    assert!(!names.iter().any(aside), "{names:?}");
}

/// Our object under another license: the kernel makes the maps, and takes no program.
fn flag_of_refused_programs(node: &Node) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut object = std::fs::read(tests.join("../target/bpf/flannel-ebpf")).expect("the object");
    let license = b"Dual MIT/GPL";
    let at = object.windows(license.len()).position(|at| at == license);
    let at = at.expect("a license");
    object[at..at + license.len()].copy_from_slice(b"All reserved");
    let file = node.folder().join("object");
    std::fs::write(&file, object).expect("write the object");
    format!("--ebpf-object={}", file.display())
}

/// The range is the programs' own: what left under another port has no way back.
#[test]
fn other_ports_end_what_left_under_the_old_ones() {
    let mut stage = Stage::with(&["--snat-ports=50000-50999"]);
    let mirror = Mirror::on(&stage.outside, PORT);
    let mut old = Client::tcp(&stage.pod, stage.outside.at(PORT)).unwrap();
    old.ask(1);
    stage.node.terminate();
    stage
        .node
        .restart_with(&["--ip-masq", "--snat-ports=51000-51999"]);
    assert!(old.try_ask(2).is_err());
    let mut new = Client::tcp(&stage.pod, stage.outside.at(mirror.port())).unwrap();
    assert!((51_000..52_000).contains(&new.ask(3).port()));
}

/// As with the kernel's MASQUERADE, connections of the old address end, and the next packet of a flow that can
/// begin anew does.
#[rstest]
fn new_flows_leave_under_a_new_address(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let (mut udp, mut tcp) = (
        Client::udp(&stage.pod, 0, to),
        Client::tcp(&stage.pod, to).unwrap(),
    );
    assert_eq!(*udp.ask(1).ip(), stage.address());
    tcp.ask(2);
    let new = Ipv4Addr::new(172, 30, 0, 99);
    let uplink = Node::UPLINK;
    // As systemd has it; else the second address goes with the first.
    stage
        .node
        .node()
        .sysctl("net.ipv4.conf.all.promote_secondaries", 1);
    stage.node.node().ip_batch(&[
        format!("addr add {new}/24 dev {uplink}"),
        format!("addr del {}/24 dev {uplink}", stage.address()),
        format!("route replace default via 172.30.0.254 dev {uplink}"),
    ]);
    eventually("a new flow leaves under the new address", SOON, || {
        let mut client = Client::udp(&stage.pod, 0, to);
        client.try_ask(3).is_ok_and(|seen| *seen.ip() == new)
    });
    assert_eq!(*Client::tcp(&stage.pod, to).unwrap().ask(4).ip(), new);
    // UDP does not know that it is another flow by now. (Programs that know the uplink's new address come right behind.)
    eventually("the old flow goes on under the new address", SOON, || {
        udp.try_ask(5).is_ok_and(|seen| *seen.ip() == new)
    });
    assert!(
        tcp.try_ask(6).is_err(),
        "the server knows no such connection"
    );
}
