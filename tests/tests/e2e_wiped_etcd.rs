//! An etcd that forgets everything while agents are down: who forwarded before forwards on, until all have their leases again.

#![cfg(test)]

use std::path::PathBuf;

use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp::assert_nothing_lost;
use rstest::rstest;

#[derive(Debug, Clone, Copy)]
enum Loss {
    Deleted,
    Restored,
}

impl Loss {
    /// Before anybody has a lease.
    fn prepare(self, lab: &Lab) -> Option<PathBuf> {
        match self {
            Self::Deleted => None,
            Self::Restored => Some(lab.etcd().backup()),
        }
    }

    fn strike(self, pair: &Pair<AnyDaemon>, backup: Option<PathBuf>) {
        let etcd = pair.lab.etcd();
        match backup {
            Some(backup) => etcd.restore(&backup),
            None => {
                let leases = format!("{}/subnets/", pair.net.prefix);
                etcd.ctl(&["del", "--prefix", &leases]);
            }
        }
        assert_eq!(etcd.leases(&pair.net), [], "{self:?}");
    }
}

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

#[rstest]
fn an_etcd_wiped_while_an_agent_restarts_costs_no_packet(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
    #[values(
        vxlan(),
        vxlan().direct_routing(),
        Network::host_gw("/coreos.com/network", "10.244.0.0/16")
    )]
    net: Network,
    #[values(Loss::Deleted, Loss::Restored)] loss: Loss,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let backup = loss.prepare(&lab);
    let mut pair = Pair::of_daemons_in(lab, net, mix, &[]);
    let (first, second) = (pair.one.subnet(), pair.two.subnet());
    let flows = pair.flows();
    pair.one.kill();
    pair.two.kill();
    loss.strike(&pair, backup);

    // The other one's lease is not there yet.
    pair.one.restart();
    assert_eq!(pair.lab.etcd().leases(&pair.net).len(), 1);
    pair.pod1.ping(pair.pod2.address()).count(20).succeeds();
    if let Some(agent) = pair.one.agent() {
        let log = agent.log();
        assert!(log.contains(&second.to_string()), "{log}");
    }
    pair.two.restart();
    pair.pod2.ping(pair.pod1.address()).count(20).succeeds();
    assert_nothing_lost(flows);
    assert_eq!((pair.one.subnet(), pair.two.subnet()), (first, second));
}
