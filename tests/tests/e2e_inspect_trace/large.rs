//! What `trace` says of large packets of the connection, at the hop that is for them.

use std::net::Ipv4Addr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use flannel_common::flow::{Flow, FlowKey};
use flannel_tests::agent::command;
use flannel_tests::netns::run;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use serde_json::Value;

use super::{enter, hops, left_alone, masquerading, proof, trace};

/// While `wait` lasts, the bridge is seen to send large packets for the pod to its port, again and again.
fn with_bulk_for(node: &Node, pod: Ipv4Addr, wait: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let noted = Flow {
                    rx: proof(node, 1),
                    pod_mac: [2, 0, 0, 0, 0, 5],
                    ..Flow::EMPTY
                };
                enter(node, FlowKey::pod(pod.octets()), noted);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Also if the wait fails: the scope waits for its thread.
        let end = OnDrop(&over);
        wait();
        drop(end);
    });
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A busy machine takes seconds for one look.
const TRIES: Duration = Duration::from_secs(60);

/// What is said of large packets, at the hop that is for them.
#[track_caller]
fn large(trace: &Value) -> Value {
    let mut hops = trace["hops"].as_array().unwrap().iter();
    let hop = hops.find(|hop| hop["program"] == "bridge_rx").unwrap();
    assert_eq!(
        (&hop["place"], &hop["decision"]),
        (&"cni0 (egress)".into(), &"passes".into()),
        "the packet itself is not large: {trace}"
    );
    hop["large"].clone()
}

#[test]
fn large_packets_are_seen_to_go_past_the_bridge_or_why_not() {
    let pair = left_alone(Pair::of_agents());
    let node = pair.one.node();
    let (here, there) = (pair.pod1.address(), pair.pod2.address());
    let line = format!("{there} {here}");
    let says = |large: &Value, text| large["meaning"].as_str().is_some_and(|m| m.contains(text));

    let first = large(&trace(node, &line, 0));
    assert_eq!(first["decision"], "passes");
    assert!(
        says(&first, "no large packet has come for this pod yet"),
        "{first}"
    );
    let udp = large(&trace(node, &format!("{line} --proto=udp"), 0));
    assert_eq!(udp, Value::Null, "it is for TCP");

    with_bulk_for(node, here, || {
        eventually("large packets go past the bridge", TRIES, || {
            let large = large(&trace(node, &line, 0));
            large["decision"] == "takes" && large["reason"] == "past_bridge"
        });
    });
    eventually(
        "the port is not taken for the bridge's choice any more",
        TRIES,
        || {
            let large = large(&trace(node, &line, 0));
            large["decision"] == "passes" && says(&large, "in the last second")
        },
    );
    // The pod is known, and this connection is not: it begins.
    let syn = trace(node, &line, 0);
    assert_eq!(hops(&syn)[0].1, "decap_direct", "{syn}");
    assert_eq!(syn["end"], "delivered", "{syn}");

    let text = {
        let bpffs = format!("--bpffs={}", node.bpffs().display());
        let flags = ["trace", &there.to_string(), &here.to_string(), &bpffs];
        run(&mut command(node, &flags))
    };
    assert!(text.contains("\n  large packets of it: passes\n"), "{text}");
}

/// What the node sends itself, and what comes from outside, is not encapsulated: no bridge cuts it up.
#[test]
fn nothing_is_said_of_large_packets_that_did_not_come_through_the_tunnel() {
    let (_lab, agent, pod) = masquerading();
    let node = agent.node();
    let out = trace(node, &format!("198.51.100.9 {}", pod.address()), 0);
    assert_eq!(large(&out), Value::Null, "{out}");
    let out = trace(node, &format!("{} {}", node.address(), pod.address()), 0);
    assert_eq!(large(&out), Value::Null, "{out}");
}
