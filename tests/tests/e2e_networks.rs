//! Several networks in one daemon (`--networks`), as flannel had them up to 0.7. Beside it each network has nodes of real flanneld, one
//! process a network.

#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use flannel_tests::pair::{Kind, Mix};
use flannel_tests::prelude::*;
use flannel_tests::several::{Several, serve};
use rstest::rstest;

const PREFIX: &str = "/many";

fn blue() -> Network {
    Network::vxlan("/many/blue", "10.11.0.0/16").vni(7)
}

fn green() -> Network {
    Network::host_gw("/many/green", "10.12.0.0/16")
}

fn red() -> Network {
    Network::vxlan("/many/red", "10.13.0.0/16")
        .vni(9)
        .port(4789)
}

#[rstest]
fn two_networks_forward_and_do_not_disturb_each_other(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let lab = Lab::new();
    let nets = [blue(), green()].map(|net| lab.network(net));
    let (one, two) = mix.kinds();
    let hosts = ["one", "two"].map(|name| Arc::new(lab.node(name)));
    let join = |kind: Kind, host: &Arc<Node>| serve(kind, host, PREFIX, &[&nets[0], &nets[1]]);
    let (mut several, parts1) = join(one, &hosts[0]);
    let (_other, parts2) = join(two, &hosts[1]);
    let mut flows = Vec::new();
    let mut pods = Vec::new();
    for ((part1, part2), (name, mtu)) in parts1
        .iter()
        .zip(&parts2)
        .zip([("blue", 1450), ("green", 1500)])
    {
        part1.follow_leases();
        assert_eq!(part1.subnet_env().mtu, mtu);
        let bridge = format!("br-{name}");
        let (pod1, pod2) = (
            Pod::behind(part1, &format!("{name}1"), &bridge),
            Pod::behind(part2, &format!("{name}2"), &bridge),
        );
        pod1.reaches(&pod2);
        pod2.reaches(&pod1);
        flows.push(flannel_tests::udp::Flow::start(
            &pod1,
            &pod2,
            pod2.address(),
        ));
        pods.push((pod1, pod2));
    }
    let host = hosts[0].as_ref();
    let device = "flannel.7";
    host.ping(pods[0].1.address()).bound_to(&device).succeeds();
    let missed = host
        .ping(pods[1].1.address())
        .count(1)
        .bound_to(&device)
        .send();
    assert_eq!(missed.received, 0, "green is not behind blue's device");

    // Forwarding goes on while the daemon is away, and when it is back.
    if let Some(several) = &mut several {
        several.kill();
        several.restart();
        several.serves("blue");
        several.serves("green");
        assert!(several.terminate().success());
    }
    for flow in flows {
        flow.finish().assert_complete();
    }
}

/// One that waits, one that is broken and one that is in another's way; then all are put right.
#[test]
fn one_that_fails_does_not_stop_the_others() {
    let lab = Lab::new();
    let [blue, red] = [blue(), red()].map(|net| lab.network(net));
    let etcd = lab.etcd();
    let pink = Network::vxlan("/many/pink", "10.14.0.0/16").vni(blue.vni);
    lab.network(pink.clone());
    let green = green();
    etcd.put("/many/green/config", r#"{"Network":"10.12.0.0"}"#);
    let host = Arc::new(lab.node("one"));
    let flag = "--networks=pale,green,blue,pink,red";
    let mut several = Several::spawn(&host, PREFIX, &[flag]);
    several.serves("blue");
    several.serves("red");
    let says = |several: &Several, words: &str| {
        eventually(format!("the log has {words}"), SOON, || {
            several.log().contains(words)
        });
    };
    says(&several, "etcd key /many/pale/config does not exist");
    says(&several, "etcd key /many/green/config is not usable");
    says(
        &several,
        "the network pink cannot be served beside blue: both would have the device flannel.7",
    );
    let (status, text) = several.page("/readyz").unwrap();
    assert_eq!(status, 503);
    for name in ["pale", "green", "pink: the network pink cannot"] {
        assert!(text.contains(&format!("\n{name}")), "{text}");
    }
    assert!(!text.contains("\nblue"), "{text}");
    assert_eq!(several.page("/healthz").unwrap().0, 200);
    let (_, metrics) = several.page("/metrics").unwrap();
    for network in ["blue", "red"] {
        let sample = format!("flannel_ebpf_peers{{network=\"{network}\",state=\"tunnel\"}} 0");
        assert!(metrics.contains(&sample), "{metrics}");
    }

    lab.network(green.clone());
    lab.network(pink.vni(8));
    for name in ["green", "pink"] {
        several.serves(name);
    }
    let other = Agent::start(lab.node("two"), &green);
    let (pod1, pod2) = (
        Pod::behind(&several.part(&green), "g1", "br-green"),
        Pod::on(&other, "g2"),
    );
    pod1.reaches(&pod2);
    let other = RealFlanneld::start(lab.node("three"), &red);
    let (pod1, pod2) = (
        Pod::behind(&several.part(&red), "r1", "br-red"),
        Pod::on(&other, "r2"),
    );
    pod1.reaches(&pod2);
}

/// Between two tries, too, its agent is there, and `status` has the reason.
#[test]
fn a_refused_network_is_said_to_be() {
    let lab = Lab::new();
    let blue = lab.network(blue());
    lab.network(Network::vxlan("/many/pink", "10.14.0.0/16").vni(blue.vni));
    let host = Arc::new(lab.node("one"));
    let mut several = Several::spawn(&host, PREFIX, &["--networks=blue,pink"]);
    several.serves("blue");
    let pink = || {
        let (_, text) = several.ask(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        status["many_pink"].clone()
    };
    let why = "the network pink cannot be served beside blue";
    let error = || pink()["error"]["error"].to_string();
    eventually("status has the reason", SOON, || error().contains(why));
    // Tries come more and more rarely: most of these are between two.
    for _ in 0..5 {
        let pink = pink();
        assert_eq!(pink["agent_running"], true, "{pink}");
        assert_eq!(pink["verdict"], "attention", "{pink}");
        let findings = pink["findings"].to_string();
        assert!(findings.contains(why), "{findings}");
        assert!(!findings.contains("no hook"), "{findings}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Its agent is there, but does nothing of the plan.
#[test]
fn what_a_plan_for_a_refused_network_waits_for_is_said() {
    let lab = Lab::new();
    lab.network(blue());
    lab.network(Network::vxlan("/many/pink", "10.11.0.0/17").vni(8));
    let host = Arc::new(lab.node("one"));
    let mut several = Several::spawn(&host, PREFIX, &["--networks=blue,pink"]);
    several.serves("blue");
    let why = "does not get on with them: the network pink cannot be served beside blue";
    eventually("the plan has the reason", SOON, || {
        let (_, plan) = several.ask(&["plan"]);
        let pink = plan.split_once("── pink ──").map(|(_, pink)| pink);
        pink.is_some_and(|pink| pink.contains(why) && !pink.contains("within 30 s"))
    });
}

/// With `--watch-networks` the daemon follows etcd, and takes off the node what was deleted there, but nothing because etcd is away.
#[test]
fn networks_come_and_go() {
    let lab = Lab::new();
    let [blue, green] = [blue(), green()].map(|net| lab.network(net));
    let (etcd, red) = (lab.etcd(), red());
    let host = Arc::new(lab.node("one"));
    // First, so that it is in whatever is kept for a start without etcd.
    let peer = RealFlanneld::start(lab.node("two"), &blue);
    let flags = ["--watch-networks", "--networks=blue,red"];
    let mut several = Several::spawn(&host, PREFIX, &flags);
    several.serves("blue");
    let (pod1, pod2) = (
        Pod::behind(&several.part(&blue), "b1", "br-blue"),
        Pod::on(&peer, "b2"),
    );
    pod1.reaches(&pod2);
    let flow = flannel_tests::udp::Flow::start(&pod1, &pod2, pod2.address());

    let has = |device: &str| {
        !host
            .try_exec(&format!("ip link show {device}"))
            .stdout
            .is_empty()
    };
    lab.network(red.clone());
    several.serves("red");
    assert!(has("flannel.9"));
    let (status, text) = several.ask(&["status", "-o", "json"]);
    assert!(matches!(status, Some(0 | 1)), "{status:?} {text}");
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    for network in ["many_blue", "many_red"] {
        assert_eq!(status[network]["agent_running"], true, "{text}");
    }
    let (_, text) = several.ask(&["plan"]);
    for network in ["── blue ──\nmany_blue: ", "── red ──\nmany_red: "] {
        assert!(text.contains(network), "{text}");
    }
    let bundle = format!("--to={}", host.folder().join("bundle").display());
    assert_eq!(several.ask(&["debug", "bundle", &bundle]).0, Some(0));
    for piece in [
        "config.toml",
        "blue.status.txt",
        "red.doctor.txt",
        "red.subnet.env",
    ] {
        assert!(host.folder().join("bundle").join(piece).exists(), "{piece}");
    }
    etcd.delete("/many/red/config");
    eventually("red is off the node", SOON, || {
        let (status, _) = several.page("/readyz/red").unwrap();
        !has("flannel.9") && !several.part(&red).subnet_file().exists() && status == 404
    });
    assert_eq!(etcd.leases(&red), [], "its lease is given back");
    assert_eq!(several.page("/readyz").unwrap().0, 200);
    assert_eq!(
        several.page(&format!("/readyz/{}", "green")).unwrap().0,
        404,
        "{} is none of those that may come",
        green.prefix
    );
    lab.network(red);
    several.serves("red");

    etcd.kill();
    several.kill();
    several.restart();
    eventually("it has noticed that etcd is away", SOON, || {
        several
            .log()
            .contains("cannot list the networks under /many/")
    });
    assert!(has("flannel.7") && has("flannel.9"));
    etcd.restart();
    several.serves("blue");
    several.serves("red");
    flow.finish().assert_complete();

    assert!(several.terminate().success());
    let (status, text) = several.ask(&["cleanup", "--networks=red"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(has("flannel.7") && !has("flannel.9"), "{text}");
    let (_, text) = several.ask(&["cleanup"]);
    assert!(!has("flannel.7"), "{text}");
}
