//! The hooks before the stack and behind it as a pair, with packets as they may come: in any order, changed on the way, of
//! other pods, on another CPU. What the programs do is what a [reference](model) says that knows docs/fast-path.md and bytes.
//!
//! `FLANNEL_HOOKS_SEED` is the first case's number, `FLANNEL_HOOKS_CASES` how many there are. A case that fails says its own.

#![cfg(test)]

mod clock;
mod draw;
mod frame;
mod hooks;
mod model;
mod path;
mod random;

use std::env;

use flannel_common::globals::{POD_HOOK_BRIDGE, POD_HOOK_PORT};
use flannel_tests::packet::Node;
use rstest::rstest;

use hooks::{Hooks, Tally};

/// A few seconds' worth.
const CASES: u64 = 200;

#[rstest]
#[case::at_ports(POD_HOOK_PORT)]
#[case::at_the_bridge(POD_HOOK_BRIDGE)]
fn only_the_packet_that_went_in_proves_and_what_was_seen_is_repeated(#[case] pod_hook: u8) {
    let (first, cases) = (
        number("FLANNEL_HOOKS_SEED", 0),
        number("FLANNEL_HOOKS_CASES", CASES),
    );
    let node = Node {
        pod_hook,
        snat_ports: (50_000, 50_063),
        ..Node::default()
    };
    let mut hooks = Hooks::new(node.load_snat_among_peers(), pod_hook == POD_HOOK_BRIDGE);
    for case in first..first + cases {
        hooks.case(case);
    }
    println!("{cases} cases: {:?}", hooks.tally);
    // The reference was asked, and agreed, about what matters.
    let Tally {
        fast,
        changed,
        proven,
        refused,
        unclear,
        ..
    } = hooks.tally;
    if cases >= CASES {
        assert!(fast.iter().all(|of_way| *of_way > 50), "{fast:?}");
        assert!(changed > 50 && proven > 100 && refused > 100);
        assert!(unclear < cases / 2, "{unclear} cases ended early");
    }
}

fn number(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}
