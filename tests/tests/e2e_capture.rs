//! `capture` writes what crosses our hooks, whole and with the verdict, in a file that others read; and nothing else happens
//! to the packets.

#![cfg(test)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use aya::maps::{Array, Map, MapData};
use flannel_agent::dataplane::Wire;
use flannel_common::event::Listen;
use flannel_common::maps::{LAYOUT_VERSION, LISTEN};
use flannel_tests::agent::command;
use flannel_tests::fast_path::{agents, fast_both_ways, received};
use flannel_tests::lab::Options;
use flannel_tests::netns::output;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::{no_tcx, talk, udp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;

fn pinned(node: &Node, name: &str) -> Map {
    let folder = node.bpffs().join("flannel/coreos_com_network");
    let path = folder.join(format!("v{LAYOUT_VERSION}/maps")).join(name);
    Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap()
}

fn listens(node: &Node) -> bool {
    let listen: Array<MapData, Wire<Listen>> = pinned(node, LISTEN).try_into().unwrap();
    listen.get(&0, 0).unwrap().0.until != 0
}

/// A capture into a file, that has begun.
struct Running {
    child: Child,
    file: PathBuf,
}

impl Running {
    fn start(node: &Node, flags: &[&str]) -> Self {
        let file = node.folder().join(format!("{}.pcapng", node.port()));
        let bpffs = format!("--bpffs={}", node.bpffs().display());
        let write = format!("--write={}", file.display());
        let all = [&["capture", &bpffs, &write][..], flags].concat();
        let child = command(node, &all).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the capture listens", SOON, || listens(node));
        Self { child, file }
    }

    /// Ended by itself, or as by Ctrl-C: what it wrote, and its last words.
    #[track_caller]
    fn end(mut self, node: &Node, interrupt: bool) -> Written {
        if interrupt {
            let pid = i32::try_from(self.child.id()).unwrap();
            kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
        }
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        assert!(!listens(node), "it has switched reports off");
        Written {
            lines: read(node, &self.file),
            bytes: std::fs::read(&self.file).unwrap(),
            said,
        }
    }
}

/// A line per packet, by a reader that is not ours.
fn read(node: &Node, file: &std::path::Path) -> Vec<String> {
    let file = file.display();
    let text = node.exec(&format!("tcpdump -nn -v -r {file}"));
    // What belongs to the packet before has no time.
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        match lines.last_mut() {
            Some(last) if !line.starts_with(|c: char| c.is_ascii_digit()) => {
                *last += line;
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

struct Written {
    lines: Vec<String>,
    bytes: Vec<u8>,
    said: String,
}

impl Written {
    /// Packets with a comment that begins so.
    fn comments(&self, text: &str) -> usize {
        let windows = self.bytes.windows(text.len());
        windows.filter(|window| *window == text.as_bytes()).count()
    }

    fn has_name(&self, device: &str) -> bool {
        self.comments(device) > 0
    }
}

#[rstest]
fn what_crosses_the_hooks_is_written_whole_and_with_the_verdict(
    #[values("tcx", "clsact")] hooks: &str,
) {
    let pair = match hooks {
        "tcx" => Pair::of_agents(),
        _ => without_tcx(),
    };
    let node = pair.two.node();
    let capture = Running::start(node, &[]);
    pair.pod1
        .ping(pair.pod2.address())
        .count(1)
        .whole(1200)
        .succeeds();
    let (one, two) = (pair.pod1.address(), pair.pod2.address());
    let written = capture.end(node, true);

    // In: decapsulated. Out: encapsulated, whole.
    let request = format!("{one} > {two}: ICMP echo request");
    let answer = format!("{two} > {one}: ICMP echo reply");
    let line = |text: &str| written.lines.iter().find(|line| line.contains(text));
    assert!(line(&request).is_some(), "{:#?}", written.lines);
    let sent = written
        .lines
        .iter()
        .find(|line| line.contains("VXLAN") || line.contains("OTV") || line.contains(".8472"));
    assert!(sent.is_some(), "{:#?}", written.lines);
    assert!(line(&answer).is_some(), "{:#?}", written.lines);
    assert!(!written.said.contains("truncated"), "{}", written.said);
    assert!(written.comments("uplink_rx: decap_") > 0);
    assert_eq!(written.comments("overlay_tx: encap (forward): "), 1);
    assert!(written.has_name("eth0") && written.has_name("flannel.1"));
    assert!(
        written.said.contains(" packets captured, 0 lost"),
        "{}",
        written.said
    );
}

fn without_tcx() -> Pair<Agent> {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let [one, two] = ["one", "two"].map(|name| {
        let node = lab.node(name);
        Agent::start_under(&no_tcx::wrapper(&node), node, &net, &[])
    });
    Pair::of(lab, net, one, two)
}

/// Each wish leaves out what does not meet it, also where it is inside the tunnel.
#[test]
fn filters_by_pod_peer_port_and_device() {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    let other = Pod::on(&pair.one, "other");
    let (pod, far) = (pair.pod1.address(), pair.pod2.address());
    let talk = || {
        for from in [&pair.pod1, &other] {
            from.ping(far).count(1).succeeds();
        }
    };
    let from = |address| format!("{address} > {far}: ICMP echo request");
    let encapsulated = |lines: &[String], address| {
        lines
            .iter()
            .filter(|line| line.contains(".8472") && line.contains(&from(address)))
            .count()
    };

    let far_node = pair.two.node().address();
    for (flags, count) in [
        (vec![format!("--pod={pod}")], 1),
        (vec![format!("--pod={pod}"), format!("--peer={far}")], 1),
        (vec![format!("--peer={far_node}")], 1),
        (
            vec![
                format!("--peer={far_node}"),
                "--device=flannel.1".to_owned(),
            ],
            1,
        ),
        (vec!["--peer=198.51.100.0/24".to_owned()], 0),
        (vec![format!("--pod={pod}"), "--port=53".to_owned()], 0),
        (vec![format!("--pod={pod}"), "--device=eth0".to_owned()], 0),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let capture = Running::start(node, &flags);
        talk();
        let written = capture.end(node, true);
        assert_eq!(
            encapsulated(&written.lines, pod),
            count,
            "{flags:?} {:#?}",
            written.lines
        );
        let others = usize::from(count > 0 && !flags[0].starts_with("--pod"));
        let other = encapsulated(&written.lines, other.address());
        assert_eq!(other, others, "{flags:?} {:#?}", written.lines);
    }
}

#[test]
fn drops_alone_end_after_a_count_and_say_what_to_do() {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    // A route of somebody's into the tunnel, to where no lease is.
    node.exec("ip route add 10.244.250.0/24 via 169.254.0.1 dev flannel.1 onlink");
    let capture = Running::start(node, &["--drops", "--count=1"]);
    pair.pod1.ping(pair.pod2.address()).count(1).succeeds();
    pair.pod1
        .ping("10.244.250.7".parse().unwrap())
        .count(1)
        .send();
    let written = capture.end(node, false);
    assert_eq!(written.lines.len(), 1, "{:#?}", written.lines);
    assert_eq!(written.comments("overlay_tx: no_peer (drop): "), 1);
}

/// A fast flow is seen at both ends, and by a pipe; what a program tells of its predecessor is there, too.
#[test]
fn fast_flows_are_seen_as_well_and_stay_fast() {
    let pair = agents(Options::default(), &[]);
    let mut talk = fast_both_ways(&pair, received);
    let node = pair.one.node();
    let before = received(&pair.one);
    let capture = Running::start(node, &[&format!("--pod={}", pair.pod1.address())]);
    talk.rounds(100);
    let written = capture.end(node, true);
    assert!(
        received(&pair.one) > before,
        "it is fast while somebody listens"
    );
    assert!(written.comments("pod_tx: fast_tx (forward)") > 0);
    assert!(
        written.comments("uplink_rx: fast_rx") > 0
            || written.comments("overlay_rx: fast_rx_gro") > 0
    );
}

#[test]
fn standard_output_is_for_a_pipe_and_one_listens_at_a_time() {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let mut child = command(node, &["capture", &bpffs, "--count=2", "--snaplen=60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    // The head is there at once: Wireshark waits for it.
    assert!(
        stdout
            .fill_buf()
            .unwrap()
            .starts_with(&[0x0a, 0x0d, 0x0d, 0x0a])
    );
    eventually("the capture listens", SOON, || listens(node));
    for command_line in [["monitor", &bpffs], ["capture", &bpffs]] {
        let mut second = command(node, &command_line);
        let second = output(&mut second);
        assert_eq!(second.status.code(), Some(2), "{second:?}");
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(said.contains("only one can"), "{said}");
    }
    pair.pod1.ping(pair.pod2.address()).count(2).succeeds();
    let mut bytes = Vec::new();
    stdout.read_to_end(&mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    let file = node.folder().join("piped.pcapng");
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(read(node, &file).len(), 2);
}

/// Whoever was killed leaves its program behind; in three seconds nobody goes there any more.
#[test]
fn a_capture_that_was_killed_costs_nothing_for_long() {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    let mut capture = Running::start(node, &[]);
    capture.child.kill().unwrap();
    capture.child.wait().unwrap();
    eventually("nobody is listened to", SOON, || {
        pair.pod1.ping(pair.pod2.address()).count(1).succeeds();
        !listens(node)
    });
    // And the next one finds its way.
    let capture = Running::start(node, &["--count=1"]);
    pair.pod1.ping(pair.pod2.address()).count(1).succeeds();
    assert_eq!(capture.end(node, false).lines.len(), 1);
}

#[test]
fn what_cannot_be_captured_is_said() {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    for (flag, text) in [
        ("--device=nothing0", "there is no device nothing0"),
        (
            "--write=/nowhere/x.pcapng",
            "cannot write /nowhere/x.pcapng",
        ),
        ("--peer=node2", "neither an IPv4 address nor a subnet"),
    ] {
        let refused = output(&mut command(node, &["capture", &bpffs, flag]));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(text), "{said}");
    }
    assert!(!listens(node));
}

/// What is translated goes on in a second program, and is told for both.
#[test]
fn what_leaves_for_the_outside_is_told_with_its_translation() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let agent = Agent::start_with(lab.node_behind_router("one"), &net, &["--ip-masq"]);
    let outside = lab.outside();
    let pod = Pod::on(&agent, "pod");
    let server = udp::Server::on(&outside);
    let to = outside.at(server.port());
    let talk = talk::Udp::open(server, &pod, to);
    talk.rounds(5);
    let node = agent.node();
    let capture = Running::start(node, &[&format!("--peer={}", outside.address())]);
    talk.rounds(20);
    let written = capture.end(node, true);
    for (comment, source) in [
        ("uplink_tx: snat (forward): ", node.address()),
        ("uplink_snat_rx: snat_reply (forward): ", outside.address()),
    ] {
        assert!(
            written.comments(comment) > 0,
            "{comment} {:#?}",
            written.lines
        );
        let from = format!("{source}.");
        assert!(
            written.lines.iter().any(|line| line.contains(&from)),
            "{:#?}",
            written.lines
        );
    }
}
