//! The hook at the pod bridge itself.

use super::*;
use crate::base::options::{Hook, Mode};

#[test]
fn large_packets_pass_the_bridge_where_pods_are_met_at_their_ports() {
    let at_bridge = |change: fn(&mut World)| {
        let mut world = World::default();
        world.facts.pod_ports = Ports::from([("vetha".to_owned(), 7)]);
        change(&mut world);
        let node = world.build().unwrap().node;
        let hooks: Vec<_> = node
            .attachments
            .into_iter()
            .filter(|a| a.program == Program::BridgeRx)
            .map(|a| (a.device, a.direction))
            .collect();
        assert!(hooks.is_empty() || node.programs.contains(&Program::BridgeRx));
        hooks
    };
    let cni0 = ("cni0".to_owned(), Direction::Egress);
    assert_eq!(at_bridge(|_| ()), [cni0]);
    let without: [fn(&mut World); 4] = [
        |world| world.fast_path.mode = Mode::Off,
        |world| world.fast_path.mode = Mode::Always,
        |world| world.fast_path.hook = Hook::Bridge,
        |world| world.facts.pod_ports.clear(),
    ];
    for change in without {
        assert_eq!(at_bridge(change), []);
    }
}
