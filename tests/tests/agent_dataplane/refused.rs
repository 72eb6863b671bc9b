//! Routes that the kernel refuses: the others are made, proofs last, and it is said.

use std::net::Ipv4Addr;

use flannel_agent::base::options::FastPath;
use flannel_agent::flannel::lease::LeaseAttrs;

use crate::rig::{Agent, Rig, sh, words};

const HOST_GW: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;
const NOTHING: [&str; 0] = [];

/// One peer on the link, and one whose address is on none.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.config = HOST_GW;
    rig.fast_path = FastPath::default();
    rig.leases = [lease(2, "192.168.0.2"), lease(9, "198.51.100.9")].into();
    rig
}

fn lease(subnet: u8, public_ip: &str) -> (ipnet::Ipv4Net, LeaseAttrs) {
    let subnet = format!("10.244.{subnet}.0/24");
    let public_ip: Ipv4Addr = public_ip.parse().unwrap();
    (subnet.parse().unwrap(), LeaseAttrs::host_gw(public_ip))
}

/// What was done and what was refused, in words.
async fn reconcile(agent: &mut Agent<'_>) -> [Vec<String>; 2] {
    let desired = agent.desired().await;
    let report = agent.dataplane.reconcile(&desired).await.unwrap();
    let failed = report.failed.iter().map(|(action, _)| action.to_string());
    let done = report.done.iter().map(ToString::to_string);
    [done.collect(), failed.collect()]
}

#[test]
fn a_refused_route_ends_no_proofs_and_is_complained_of_until_it_is_taken() {
    rig().agent(async |agent| {
        let refused = "add the route 10.244.9.0/24 via 198.51.100.9";
        let [done, failed] = reconcile(agent).await;
        let other = "add the route 10.244.2.0/24 via 192.168.0.2".to_owned();
        assert!(done.contains(&other), "{done:?}");
        assert_eq!(failed, [refused]);
        for _ in 0..2 {
            let [done, failed] = reconcile(agent).await;
            assert_eq!(done, NOTHING);
            assert_eq!(failed, [refused]);
        }
        let complaint = agent.dataplane.complaint().unwrap();
        let named = "10.244.9.0/24: Network is unreachable";
        assert!(complaint.contains(named), "{complaint}");

        sh("ip route add 198.51.100.0/24 dev eth0");
        assert_eq!(reconcile(agent).await, [vec![refused.to_owned()], vec![]]);
        assert_eq!(agent.dataplane.complaint(), None);
        assert_eq!(reconcile(agent).await.concat(), NOTHING);
    });
}

#[test]
fn leases_of_others_change_beside_a_refused_one_without_a_look_at_everything() {
    rig().agent(async |agent| {
        reconcile(agent).await;
        let mut leases = agent.rig.leases.clone();
        leases.extend([lease(3, "192.168.0.3")]);
        // A full comparison would find it.
        sh("ip route del 10.244.2.0/24");
        let desired = agent.desired_for(&leases).await;
        let report = agent.dataplane.update_peers(&desired).await.unwrap();
        let added = words(&report);
        let route = "add the route 10.244.3.0/24 via 192.168.0.3".to_owned();
        assert!(added.contains(&route), "{added:?}");
        assert!(!sh("ip route").contains("10.244.2.0/24"), "compared all");
        assert!(agent.dataplane.complaint().is_some());
    });
}

#[test]
fn a_refused_lease_that_goes_or_moves_is_no_complaint_any_more() {
    rig().agent(async |agent| {
        reconcile(agent).await;
        let mut leases = agent.rig.leases.clone();
        leases.extend([lease(9, "192.168.0.9")]);
        let desired = agent.desired_for(&leases).await;
        agent.dataplane.update_peers(&desired).await.unwrap();
        assert_eq!(agent.dataplane.complaint(), None);
        assert!(sh("ip route show 10.244.9.0/24").contains("via 192.168.0.9"));

        let desired = agent.desired().await;
        agent.dataplane.update_peers(&desired).await.unwrap();
        let complaint = agent.dataplane.complaint();
        assert!(complaint.is_some(), "it moved back");
        leases.retain(|_, attrs| attrs.public_ip != Ipv4Addr::new(192, 168, 0, 9));
        let desired = agent.desired_for(&leases).await;
        agent.dataplane.update_peers(&desired).await.unwrap();
        assert_eq!(agent.dataplane.complaint(), None);
        assert_eq!(sh("ip route show 10.244.9.0/24"), "");
    });
}
