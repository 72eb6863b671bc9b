//! The Kubernetes API as datastore: it is away, silent, restarted, or refuses.

#![cfg(test)]

use std::time::Duration;

use flannel_tests::kube_api::KubeApi;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp::assert_nothing_lost;
use flannel_tests::with_daemon::{spawn, start};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::json;

/// Waits between tries grow to 10 s while the API server is away.
const BACK: Duration = Duration::from_secs(60);

/// client-go's rise to 30 s after failures in a row, and each is drawn out by as much at random.
const BACK_OF_FLANNELD: Duration = Duration::from_secs(180);

fn patience_with(daemon: &AnyDaemon) -> Duration {
    match daemon.agent() {
        Some(_) => BACK,
        None => BACK_OF_FLANNELD,
    }
}

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn pair(mix: Mix) -> (KubeApi, Pair<AnyDaemon>) {
    let (lab, net) = (Lab::new(), vxlan());
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    api.add_node("two", &["10.244.2.0/24"]);
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let pair = Pair::of_daemons_in(lab, net, mix, &flags);
    (api, pair)
}

/// A Node that is flannel's, at an address where nobody is.
fn add_peer(api: &KubeApi, name: &str, cidr: &str) {
    let data = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}"#;
    api.add_peer(name, cidr, "172.30.0.99", data);
}

fn routes(member: &impl Member, subnet: &str) -> bool {
    let routes = member.node().exec("ip -4 route show");
    routes.lines().any(|line| line.starts_with(subnet))
}

#[track_caller]
fn says(daemon: &AnyDaemon, text: &str) {
    eventually(format!("the log says {text:?}"), BACK, || {
        daemon.log().contains(text)
    });
}

/// Its history begins anew each time (410 Gone), and what happened meanwhile is seen, as each fourth time shows.
#[rstest]
fn twenty_restarts_of_the_api_server_lose_no_packet(
    #[values(Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let (api, pair) = pair(mix);
    let flows = pair.flows();
    for round in 1..=20 {
        api.restart();
        if round % 4 != 0 {
            continue;
        }
        let (name, subnet) = (format!("n{round}"), format!("10.244.{}.0/24", 100 + round));
        add_peer(&api, &name, &subnet);
        for daemon in [&pair.one, &pair.two] {
            let what = format!("{} knows {name}", daemon.node().name());
            eventually(what, patience_with(daemon), || routes(daemon, &subnet));
        }
        api.delete_node(&name);
        for daemon in [&pair.one, &pair.two] {
            let what = format!("{} has forgotten {name}", daemon.node().name());
            eventually(what, patience_with(daemon), || !routes(daemon, &subnet));
        }
    }
    assert_nothing_lost(flows);
}

/// What goes while nobody listens is gone afterwards; what comes is there.
#[test]
fn what_happens_while_the_agent_sleeps_is_seen() {
    let (api, mut pair) = pair(Mix::Ours);
    add_peer(&api, "three", "10.244.3.0/24");
    eventually("three is known", SOON, || {
        routes(&pair.one, "10.244.3.0/24")
    });
    pair.one.kill();
    api.delete_node("three");
    add_peer(&api, "four", "10.244.4.0/24");
    api.restart();
    pair.one.restart();
    eventually("four is known", BACK, || routes(&pair.one, "10.244.4.0/24"));
    assert!(!routes(&pair.one, "10.244.3.0/24"));
}

#[test]
fn a_start_waits_for_the_api_server() {
    let (lab, net) = (Lab::new(), vxlan());
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    api.kill();
    let mut ours = spawn(Kind::Ours, lab.node("one"), &net, &flags);
    says(&ours, "does not answer");
    api.restart();
    ours.wait_until_ready();
}

/// It accepts, acknowledges, and says nothing: no FIN tells.
#[test]
fn a_silent_api_server_is_noticed() {
    let (api, pair) = pair(Mix::Ours);
    let flows = pair.flows();
    api.freeze();
    says(&pair.one, "following Nodes");
    api.thaw();
    add_peer(&api, "three", "10.244.3.0/24");
    eventually("three is known", BACK, || {
        routes(&pair.one, "10.244.3.0/24")
    });
    assert_nothing_lost(flows);
}

/// The same by a wire that is cut on the way, and mended.
#[test]
fn a_cut_way_to_the_api_server_is_noticed() {
    let (api, pair) = pair(Mix::Ours);
    let drop = "iptables -w -A OUTPUT -p tcp --sport 6443 -j DROP";
    api.netns().run(drop);
    says(&pair.one, "following Nodes");
    api.netns().run(&drop.replace("-A", "-D"));
    add_peer(&api, "three", "10.244.3.0/24");
    eventually("three is known", BACK, || {
        routes(&pair.one, "10.244.3.0/24")
    });
}

/// Verb and object are named, and the right is waited for.
#[rstest]
#[case::patch("nodes/status", "patch", "patch nodes/status")]
#[case::list("nodes", "list", "list nodes")]
#[case::watch("nodes", "watch", "watch nodes")]
#[case::get("nodes", "get", "get nodes")]
fn a_missing_right_is_named(#[case] resource: &str, #[case] verb: &str, #[case] named: &str) {
    let (lab, net) = (Lab::new(), vxlan());
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    let role = |left_out: &str| {
        let verbs = |verbs: &[&str]| -> Vec<String> {
            let kept = verbs.iter().filter(|verb| **verb != left_out);
            kept.map(|verb| (*verb).to_owned()).collect()
        };
        let (all, status) = match resource {
            "nodes" => (verbs(&["get", "list", "watch"]), vec!["patch".to_owned()]),
            _ => (verbs(&["get", "list", "watch"]), verbs(&["patch"])),
        };
        let mut rules = vec![json!({"apiGroups": [""], "resources": ["nodes"], "verbs": all})];
        if !status.is_empty() {
            rules.push(json!({"apiGroups": [""], "resources": ["nodes/status"], "verbs": status}));
        }
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                          "metadata": {"name": "flannel"}, "rules": rules});
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/flannel";
        api.request("PUT", path, Some(&role.to_string()))
            .expect("replace the role");
    };
    role(verb);
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut ours = spawn(Kind::Ours, lab.node("one"), &net, &flags);
    says(&ours, &format!("the API server refuses to {named}"));
    role("");
    ours.wait_until_ready();
}

/// The old token is unknown from one moment to the next, in the middle of a watch.
#[test]
fn a_token_that_is_replaced_is_read_again() {
    let (api, pair) = pair(Mix::Ours);
    api.set_token("the-next-token");
    api.restart();
    add_peer(&api, "three", "10.244.3.0/24");
    eventually("three is known", BACK, || {
        routes(&pair.one, "10.244.3.0/24")
    });
    api.annotate("one", "public-ip", "192.0.2.99");
    let address = pair.one.node().address().to_string();
    eventually("the annotation is back", BACK, || {
        api.annotation("one", "public-ip").as_ref() == Some(&address)
    });
}

/// A change-over and back, with one API server all the time.
#[rstest]
fn a_node_changes_over_and_back(#[values(Kind::Ours, Kind::Flanneld)] first: Kind) {
    let second = match first {
        Kind::Ours => Kind::Flanneld,
        _ => Kind::Ours,
    };
    let (lab, net) = (Lab::new(), vxlan());
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    api.add_node("two", &["10.244.2.0/24"]);
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let one = start(first, lab.node("one"), &net, &flags);
    let two = start(Kind::Flanneld, lab.node("two"), &net, &flags);
    let mut pair = Pair::of(lab, net, one, two);
    for kind in [second, first] {
        pair.one.terminate();
        if kind == Kind::Flanneld {
            let cleanup = format!("--bpffs={}", pair.one.node().bpffs().display());
            let state = format!("--state-dir={}", pair.one.node().state_dir().display());
            let mut command =
                flannel_tests::agent::command(pair.one.node(), &["cleanup", &cleanup, &state]);
            flannel_tests::netns::run(&mut command);
        }
        let node = pair.one.node_arc();
        pair.one = start(kind, node, &pair.net, &flags);
        pair.pod1.reaches(&pair.pod2);
        pair.pod2.reaches(&pair.pod1);
    }
}

/// Asleep for longer than a watch's history is kept.
#[test]
fn an_agent_that_slept_through_a_restart_lists_anew() {
    let (lab, net) = (Lab::new(), vxlan());
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut one = Agent::start_with(lab.node("one"), &net, &flags);
    add_peer(&api, "three", "10.244.3.0/24");
    eventually("three is known", SOON, || routes(&one, "10.244.3.0/24"));
    one.daemon_mut().process().signal(Signal::SIGSTOP);
    api.delete_node("three");
    api.restart();
    add_peer(&api, "four", "10.244.4.0/24");
    one.daemon_mut().process().signal(Signal::SIGCONT);
    eventually("four is known, and three is not", BACK, || {
        routes(&one, "10.244.4.0/24") && !routes(&one, "10.244.3.0/24")
    });
}
