//! Client–server mode between nodes: two that only a server tells of leases, and flanneld that asks etcd itself.

#![cfg(test)]

use std::sync::Arc;

use flannel_tests::agent::{self, http_status};
use flannel_tests::prelude::*;
use flannel_tests::process::Process;
use flannel_tests::several::Several;

const HEALTH: u16 = 8889;

/// Starts the server and waits until clients may come.
fn serve(node: &Node, net: &Network) -> Process {
    let flags = [
        format!("--listen={}:8888", node.address()),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--etcd-prefix={}", net.prefix),
        format!("--healthz-port={HEALTH}"),
    ];
    let flags = flags.each_ref().map(String::as_str);
    let process = node.spawn("server", agent::command(node, &flags));
    eventually("the server is ready", SOON, || {
        http_status(node, HEALTH, "/readyz") == Some(200)
    });
    process
}

#[test]
fn nodes_behind_a_server_and_flanneld_with_etcd_are_one_network() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let host = lab.node("server");
    let server = serve(&host, &net);
    let remote = format!("--remote={}:8888", host.address());
    // Nobody is there: what they know they have from the server.
    let flags = [&*remote, "--etcd-endpoints=http://127.0.0.1:1"];
    let (one, two) = ("one", "two");
    let [one, two] = [one, two].map(|name| Agent::start_with(lab.node(name), &net, &flags));
    let three = RealFlanneld::start(lab.node("three"), &net);
    let pods = [
        Pod::on(&one, "pod"),
        Pod::on(&two, "pod"),
        Pod::on(&three, "pod"),
    ];
    for from in &pods {
        for to in &pods {
            from.reaches(to);
        }
    }

    let ask = |words: &[&str]| {
        let prefix = format!("--etcd-prefix={}", net.prefix);
        let bpffs = format!("--bpffs={}", one.node().bpffs().display());
        let state = format!("--state-dir={}", one.node().state_dir().display());
        let subnet_file = format!("--subnet-file={}", Member::subnet_file(&one).display());
        let own = [
            &*remote,
            &prefix,
            &bpffs,
            &state,
            &subnet_file,
            "--iface=eth0",
        ];
        let words = [words, &own].concat();
        let output = agent::command(one.node(), &words).output().expect("run it");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = ask(&["doctor"]);
    let expected = format!("the server {}:8888", host.address());
    assert!(said.contains(&expected), "{said}");
    eventually("nothing is left to do", SOON, || {
        ask(&["plan"]).contains("nothing to do")
    });

    drop(server);
    pods[0].reaches(&pods[1]);
    pods[2].reaches(&pods[0]);
    let four = RealFlanneld::start(lab.node("four"), &net);
    let late = Pod::on(&four, "pod");
    let said = ask(&["doctor"]);
    assert!(said.contains("no server answers"), "{said}");
    let _server = serve(&host, &net);
    // Agents ask a server that is away every ten seconds at worst.
    eventually("the node that came meanwhile is reached", 3 * SOON, || {
        pods[0].ping(late.address()).count(1).send().received == 1
    });
    late.reaches(&pods[1]);
}

/// A node that asks no etcd serves what the server has, and whatever comes and goes there.
#[test]
fn networks_of_a_server_come_and_go() {
    let lab = Lab::new();
    let all = Network::vxlan("/many", "0.0.0.0/0");
    let blue = lab.network(Network::vxlan("/many/blue", "10.11.0.0/16").vni(7));
    let red = Network::vxlan("/many/red", "10.13.0.0/16").vni(9);
    let host = lab.node("server");
    let server = serve(&host, &all);
    let remote = format!("--remote={}:8888", host.address());
    let flags = [
        &*remote,
        "--watch-networks",
        "--etcd-endpoints=http://127.0.0.1:1",
    ];
    let node = Arc::new(lab.node("one"));
    let mut several = Several::spawn(&node, &all.prefix, &flags);
    several.serves("blue");
    let peer = RealFlanneld::start(lab.node("two"), &blue);
    let (pod, other) = (
        Pod::behind(&several.part(&blue), "b1", "br-blue"),
        Pod::on(&peer, "b2"),
    );
    pod.reaches(&other);
    lab.network(red.clone());
    several.serves("red");
    lab.etcd().delete("/many/red/config");
    eventually("red is off the node", SOON, || {
        let status = several.page("/readyz/red").map(|(status, _)| status);
        status == Some(404) && !several.part(&red).subnet_file().exists()
    });
    assert_eq!(lab.etcd().leases(&red), [], "its lease is given back");

    // Who does not know which networks there are is not ready; who knows them goes on without a server.
    drop(server);
    pod.reaches(&other);
    let late = Several::spawn(&Arc::new(lab.node("three")), &all.prefix, &flags);
    eventually("it says why it is not ready", SOON, || {
        late.page("/readyz")
            .is_some_and(|(status, text)| status == 503 && text.contains("is not known"))
    });
    assert_eq!(several.page("/readyz").map(|(status, _)| status), Some(200));
}
