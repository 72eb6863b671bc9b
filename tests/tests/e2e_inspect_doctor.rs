//! `doctor`: a healthy node passes, and each trouble that is made on purpose is found, with its repair.

#![cfg(test)]

use std::io::{Read as _, Write as _};
use std::process::Output;

use aya::programs::LinkOrder;
use aya::programs::tc::{SchedClassifier, TcAttachOptions, TcAttachType};
use flannel_tests::agent::command;
use flannel_tests::fast_path::hooked;
use flannel_tests::netns::output;
use flannel_tests::prelude::*;
use flannel_tests::{stranger, udp};
use serde_json::Value;

fn doctor(node: &Node, flags: &[&str]) -> Output {
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let etcd = format!("--etcd-endpoints={}", node.etcd());
    let iface = format!("--iface={}", Node::UPLINK);
    let all = [&["doctor", "-o", "json", &bpffs, &etcd, &iface][..], flags].concat();
    output(&mut command(node, &all))
}

/// Exit status and the lines: mark and text.
#[track_caller]
fn findings(node: &Node, flags: &[&str]) -> (Option<i32>, Vec<(String, String)>) {
    let output = doctor(node, flags);
    let checks: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let word = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    let lines = checks.as_array().unwrap().iter();
    let lines = lines.map(|check| (word(check, "mark"), word(check, "what")));
    (output.status.code(), lines.collect())
}

/// Everything that is not ok.
fn trouble(lines: &[(String, String)]) -> Vec<&str> {
    let odd = lines.iter().filter(|(mark, _)| mark != "ok");
    odd.map(|(_, what)| what.as_str()).collect()
}

struct Ward {
    lab: Lab,
    net: Network,
    agent: Agent,
}

impl Ward {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(flags: &[&str]) -> Self {
        let lab = Lab::new();
        let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
        let agent = Agent::start_with(lab.node("one"), &net, flags);
        Self { lab, net, agent }
    }

    #[track_caller]
    fn findings(&self, flags: &[&str]) -> (Option<i32>, Vec<(String, String)>) {
        let file = format!(
            "--subnet-file={}",
            self.agent.daemon().subnet_file().display()
        );
        findings(self.agent.node(), &[&[file.as_str()][..], flags].concat())
    }

    /// The one line that is not ok and contains `text`, with the exit status.
    #[track_caller]
    fn finds(&self, text: &str) -> Option<i32> {
        let (status, lines) = self.findings(&[]);
        let trouble = trouble(&lines);
        assert!(trouble.iter().any(|what| what.contains(text)), "{lines:#?}");
        status
    }
}

/// Once the agent has done what it saw last. Returns the lines.
#[track_caller]
fn all_is_well(
    findings: impl Fn() -> (Option<i32>, Vec<(String, String)>),
) -> Vec<(String, String)> {
    eventually_some("all is well", SOON, || {
        let (status, lines) = findings();
        ((status, trouble(&lines)) == (Some(0), vec![])).then_some(lines)
    })
}

#[test]
fn a_healthy_node_passes_before_and_after_its_start() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = std::sync::Arc::new(lab.node("one"));
    let (status, lines) = findings(&node, &["--pre"]);
    assert_eq!((status, trouble(&lines)), (Some(0), vec![]), "{lines:#?}");
    let (status, lines) = findings(&node, &[]);
    assert_eq!(status, Some(2), "{lines:#?}");

    let agent = Agent::start(node.clone(), &net);
    let pod = Pod::on(&agent, "pod");
    let file = format!("--subnet-file={}", agent.daemon().subnet_file().display());
    hooked(&agent);
    all_is_well(|| findings(&node, &[&file]));
    drop(pod);
}

#[test]
fn a_dead_agent_is_found() {
    let mut ward = Ward::new();
    ward.agent.kill();
    assert_eq!(ward.finds("no agent runs"), Some(1));
}

#[test]
fn a_node_that_does_not_forward_is_found() {
    let ward = Ward::new();
    ward.agent.node().sysctl("net.ipv4.ip_forward", 0);
    assert_eq!(ward.finds("net.ipv4.ip_forward is 0"), Some(2));
}

#[test]
fn a_bridge_of_an_earlier_lease_is_found() {
    let ward = Ward::new();
    ward.agent.node().ip_batch(&[
        "link add cni0 type bridge".to_owned(),
        "addr add 10.99.7.1/24 dev cni0".to_owned(),
    ]);
    assert_eq!(ward.finds("cni0 has the address 10.99.7.1/24"), Some(2));
}

#[test]
fn a_bridge_that_is_down_and_pods_with_another_mtu_are_found() {
    let ward = Ward::new();
    let node = ward.agent.node();
    let pod = Pod::on(&ward.agent, "pod");
    hooked(&ward.agent);
    all_is_well(|| ward.findings(&[]));

    node.exec("ip link set cni0 down");
    assert_eq!(
        ward.finds("cni0 is down: nothing reaches its 1 pods"),
        Some(2)
    );
    node.exec("ip link set cni0 up");
    all_is_well(|| ward.findings(&[]));

    // As of a pod that was made before the uplink's MTU fell.
    node.exec(&format!("ip link set {} mtu 1500", pod.port()));
    assert_eq!(
        ward.finds("1 of 1 ports of cni0 have a larger MTU than FLANNEL_MTU, which is 1450"),
        Some(1)
    );
    node.exec(&format!("ip link set {} mtu 1450", pod.port()));
    node.exec("ip link set cni0 mtu 1500");
    assert_eq!(
        ward.finds("cni0 has the MTU 1500, and ports of it have 1450"),
        Some(1)
    );
}

#[test]
fn a_firewall_that_drops_is_found_unless_it_has_exceptions() {
    // Else the agent repairs it before it is found.
    let ward = Ward::with(&["--iptables-forward-rules=false"]);
    let node = ward.agent.node();
    node.exec("iptables -P FORWARD DROP");
    let net = "10.244.0.0/16";
    assert_eq!(ward.finds("drops by default"), Some(1));
    for end in ["-s", "-d"] {
        node.exec(&format!("iptables -A FORWARD {end} {net} -j ACCEPT"));
    }
    let (status, lines) = ward.findings(&[]);
    assert_eq!((status, trouble(&lines)), (Some(0), vec![]), "{lines:#?}");
}

#[test]
fn an_etcd_that_does_not_answer_and_a_missing_configuration_are_told_apart() {
    let ward = Ward::new();
    let (status, lines) = ward.findings(&["--etcd-prefix=/nothing/here"]);
    assert_eq!(status, Some(2));
    assert!(
        trouble(&lines)
            .iter()
            .any(|what| what.contains("/nothing/here/config does not exist")),
        "{lines:#?}"
    );
    // Nobody listens on this port.
    let (status, lines) = ward.findings(&["--etcd-endpoints=http://127.0.0.1:9"]);
    assert_eq!(status, Some(2));
    assert!(
        trouble(&lines)
            .iter()
            .any(|what| what.contains("127.0.0.1:9")),
        "{lines:#?}"
    );
    drop(ward.lab);
}

/// It takes connections and never says a word; the others serve.
#[test]
fn a_member_of_etcd_that_hangs_is_named_and_holds_up_nothing() {
    let ward = Ward::new();
    let node = ward.agent.node();
    let (hung, address) = node.netns().enter(|| {
        let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = hung.local_addr().unwrap();
        (hung, address)
    });
    let endpoints = format!("--etcd-endpoints=http://{address},{}", node.etcd());
    let (code, lines) = ward.findings(&[&endpoints]);
    let named = format!("http://{address} gives no answer: nothing in 3 s");
    assert_eq!(trouble(&lines), [named.as_str()], "{lines:?}");
    assert_eq!(code, Some(1));
    drop(hung);
}

#[test]
fn a_route_and_a_rule_that_lead_pods_packets_past_ours_are_named() {
    let ward = Ward::new();
    let peer = Agent::start(ward.lab.node("two"), &ward.net);
    let (node, subnet) = (ward.agent.node(), peer.subnet());
    eventually("there is a route", SOON, || {
        node.exec("ip route").contains(&subnet.to_string())
    });
    let past = format!("of the lease {subnet}, leaves by {} to", Node::UPLINK);
    let gateway = peer.node().address();
    let base = subnet.base;
    for (add, remove) in [
        (
            format!("ip route add {base}/25 via {gateway}"),
            format!("ip route del {base}/25"),
        ),
        (
            format!("ip rule add to {subnet} lookup 77 prio 100"),
            "ip rule del prio 100".to_owned(),
        ),
    ] {
        node.exec(&format!("ip route replace default via {gateway} table 77"));
        let (_, before) = ward.findings(&[]);
        assert!(
            !trouble(&before)
                .iter()
                .any(|what| what.contains("past our route")),
            "{before:?}"
        );
        node.exec(&add);
        assert_eq!(ward.finds(&past), Some(1));
        node.exec(&remove);
    }
}

#[test]
fn offloads_that_were_switched_by_hand_are_found() {
    let mut ward = Ward::new();
    // A live agent would repair it.
    ward.agent.kill();
    ward.agent.node().exec("ethtool -K flannel.1 gro off");
    assert_eq!(ward.finds("flannel.1 has rx-gro not on"), Some(1));
}

#[test]
fn devices_where_packets_are_translated_are_named() {
    let ward = Ward::with(&["--ip-masq"]);
    let node = ward.agent.node();
    let (status, lines) = ward.findings(&["--ip-masq"]);
    assert_eq!((status, trouble(&lines)), (Some(0), vec![]));
    let on = "source NAT from ports 49152-65535 on eth0";
    assert!(lines.iter().any(|(_, what)| what == on), "{lines:?}");
    for line in [
        "ip tuntap add mode tun name tun7",
        "ip addr add 192.168.77.1/24 dev tun7",
        "ip link set tun7 up",
    ] {
        node.exec(line);
    }
    // A device without a link-layer header is served like any other.
    let with_tun = |what: &str| what.starts_with(on) && what.contains("tun7");
    eventually("the agent serves it", SOON, || {
        let (_, lines) = ward.findings(&["--ip-masq"]);
        lines.iter().any(|(_, what)| with_tun(what))
    });
    let lines = all_is_well(|| ward.findings(&["--ip-masq"]));
    assert!(lines.iter().any(|(_, what)| with_tun(what)), "{lines:?}");

    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let shown = output(&mut command(node, &["status", &bpffs]));
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("source NAT from ports 49152-65535"),
        "{shown}"
    );
}

#[test]
fn a_strict_rp_filter_is_found_on_the_tunnel_and_where_the_way_back_leads_elsewhere() {
    let ward = Ward::new();
    let node = ward.agent.node();
    let strict =
        |device: &str| node.exec(&format!("sysctl -qw net/ipv4/conf/{device}/rp_filter=1"));
    strict("flannel.1");
    assert_eq!(ward.finds("rp_filter is strict on flannel.1"), Some(1));
    node.exec("sysctl -qw net/ipv4/conf/flannel.1/rp_filter=2");

    strict(Node::UPLINK);
    let two = KernelVxlan::join(ward.lab.node("two"), ward.agent.net());
    let peer = two.node().address();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    eventually("the peer is known", SOON, || {
        let peers = output(&mut command(node, &["peers", &bpffs])).stdout;
        String::from_utf8(peers)
            .unwrap()
            .contains(&peer.to_string())
    });
    let (status, lines) = ward.findings(&[]);
    assert_eq!((status, trouble(&lines)), (Some(0), vec![]), "{lines:#?}");
    let fine = "rp_filter is strict on eth0, and the way back to the peers leads there";
    assert!(lines.iter().any(|(_, what)| what == fine), "{lines:#?}");

    node.ip_batch(&[
        "link add side type veth peer name far-side".to_owned(),
        "link set side up".to_owned(),
        format!("route add {peer}/32 dev side"),
    ]);
    assert_eq!(
        ward.finds(&format!("1 peers ({peer}, …) leads elsewhere")),
        Some(2)
    );
}

#[test]
fn programs_of_others_on_our_hooks_are_named_with_their_place() {
    let ward = Ward::new();
    let node = ward.agent.node();
    let (tc, xdp) = (node.bpffs().join("tc"), node.bpffs().join("xdp"));
    node.netns().enter(|| {
        stranger::pin(stranger::Kind::Tc, &tc);
        stranger::pin(stranger::Kind::Xdp, &xdp);
    });
    let uplink = Node::UPLINK;
    node.exec(&format!("tc qdisc add dev {uplink} clsact"));
    node.exec(&format!(
        "tc filter add dev {uplink} ingress pref 1 bpf direct-action object-pinned {}",
        tc.display()
    ));
    let (status, lines) = ward.findings(&[]);
    assert_eq!((status, trouble(&lines)), (Some(0), vec![]), "{lines:#?}");
    let said = |what: &str| {
        lines
            .iter()
            .any(|(_, line)| line.starts_with("the filter stranger") && line.ends_with(what))
    };
    assert!(
        said("pref 1) at ingress of eth0 runs after ours"),
        "{lines:#?}"
    );

    node.exec(&format!(
        "ip link set dev {uplink} xdpgeneric pinned {}",
        xdp.display()
    ));
    assert_eq!(ward.finds("the XDP program stranger"), Some(1));
    node.exec(&format!("ip link set dev {uplink} xdpgeneric off"));

    // In front of ours by the order of links.
    let first = node.netns().enter(|| {
        let mut program = SchedClassifier::from_pin(&tc).unwrap();
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = program.attach_with_options(uplink, TcAttachType::Ingress, options);
        program.take_link(link.unwrap()).unwrap()
    });
    assert_eq!(ward.finds("at ingress of eth0 runs before ours"), Some(1));
    drop(first);
}

#[test]
fn an_uplink_that_computes_no_checksums_is_found() {
    let ward = Ward::new();
    let node = ward.agent.node();
    node.exec(&format!("ethtool -K {} tx off", Node::UPLINK));
    assert_eq!(ward.finds("eth0 computes no checksums"), Some(1));
}

#[test]
fn a_strict_conntrack_beside_the_fast_path_is_found() {
    let mut ward = Ward::new();
    // A live agent would repair it.
    ward.agent.kill();
    let node = ward.agent.node();
    node.exec("sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=0");
    assert_eq!(ward.finds("conntrack is strict"), Some(1));
}

#[test]
fn a_rule_that_looks_at_single_packets_is_found() {
    let ward = Ward::new();
    let node = ward.agent.node();
    node.exec("iptables-nft -A FORWARD -m quota --quota 1000000 -j ACCEPT");
    assert_eq!(ward.finds("looks at single packets"), Some(1));
}

/// By their expressions, where no iptables lists them: those that forwarded packets meet, and each of them.
#[test]
fn a_rule_of_nftables_that_looks_at_single_packets_is_found() {
    let ward = Ward::new();
    let node = ward.agent.node();
    let found = "in the nftables chain inet mine";
    for line in [
        "add table inet mine",
        "add chain inet mine input { type filter hook input priority 0 ; }",
        "add rule inet mine input quota over 1 mbytes drop",
        "add chain inet mine watched { type filter hook forward priority 0 ; }",
        "add rule inet mine watched limit rate 1/second log prefix seen",
        "add rule inet mine watched ct state established accept",
        "add chain inet mine forward { type filter hook forward priority 1 ; }",
    ] {
        node.exec(&format!("nft {line}"));
    }
    let (_, lines) = ward.findings(&[]);
    assert!(
        !trouble(&lines).iter().any(|what| what.contains(found)),
        "{lines:#?}"
    );
    for rule in [
        "quota over 9 mbytes drop",
        "meta length 100 drop",
        "log group 5",
        "ct original bytes > 1000000 drop",
        "limit rate over 9000/second drop",
    ] {
        node.exec(&format!("nft add rule inet mine forward {rule}"));
    }
    let all = "inet mine forward look at single packets (ct bytes or packets, limit, log group, meta length, quota)";
    assert_eq!(ward.finds(all), Some(1));
}

#[test]
fn a_taken_port_a_missing_bpffs_and_a_tiny_mtu_are_found_before_the_start() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let taken = udp::Server::on_port(&node, net.port).into_socket();
    let (status, lines) = findings(&node, &["--pre"]);
    assert_eq!(status, Some(1), "{lines:#?}");
    assert!(
        trouble(&lines)[0].contains("UDP port 8472 is taken"),
        "{lines:#?}"
    );
    drop(taken);
    node.exec(&format!("ip link set {} mtu 600", Node::UPLINK));
    let (status, lines) = findings(&node, &["--pre", "--bpffs=/nowhere/bpf"]);
    assert_eq!(status, Some(2), "{lines:#?}");
    let all = trouble(&lines).join("\n");
    assert!(
        all.contains("/nowhere/bpf") && all.contains("MTU for pods: 550"),
        "{all}"
    );
}

/// Answers every connection as an etcd does whose clock stands still.
#[test]
fn a_clock_that_differs_is_found() {
    let lab = Lab::new();
    let node = lab.node("one");
    let listener = node
        .netns()
        .enter(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked);
            let date = "Thu, 01 Jan 1970 00:01:00 GMT";
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"
            );
        }
    });
    let flag = format!("--etcd-endpoints=http://127.0.0.1:{port}");
    let (status, lines) = findings(&node, &["--pre", &flag]);
    assert_eq!(status, Some(2), "it is no etcd: {lines:#?}");
    let said = format!("the clock of http://127.0.0.1:{port} differs by ");
    assert!(
        trouble(&lines).iter().any(|what| what.starts_with(&said)),
        "{lines:#?}"
    );
}

/// What the agent is going to load is what the verifier is asked about.
#[test]
fn an_object_of_ones_own_is_tried() {
    let lab = Lab::new();
    lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let object = node.folder().join("object");
    let flag = format!("--ebpf-object={}", object.display());
    let (_, lines) = findings(&node, &["--pre", &flag]);
    let missing = |(mark, what): &&(String, String)| {
        mark == "failure" && what.contains(&object.display().to_string())
    };
    assert_eq!(lines.iter().filter(missing).count(), 1, "{lines:#?}");

    std::fs::write(&object, "no program").unwrap();
    let (status, lines) = findings(&node, &["--pre", &flag]);
    let found = trouble(&lines);
    assert!(
        status == Some(2)
            && found
                .iter()
                .any(|what| what.contains("the BPF object is not usable")),
        "{lines:#?}"
    );
}
