//! Kernels without tcx: filters at clsact, with fixed priority and handle.

use flannel_agent::base::options::FastPath;
use flannel_agent::dataplane::AttachMode;

use crate::rig::{Rig, sh};
use crate::snat::source_nat;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.attach = AttachMode::Clsact;
    rig
}

fn filters(device: &str, direction: &str) -> String {
    sh(&format!("tc filter show dev {device} {direction}"))
}

#[test]
fn programs_are_filters_and_stay_without_an_agent() {
    let rig = rig();
    rig.agent(async |agent| agent.converge().await);
    rig.netns.enter(|| {
        for (device, direction, program) in [
            ("flannel.1", "egress", "overlay_tx"),
            ("flgro.1", "ingress", "overlay_catch"),
            ("eth0", "ingress", "uplink_rx"),
        ] {
            let shown = filters(device, direction);
            assert!(
                shown.contains(program) && shown.contains("direct-action"),
                "{shown}"
            );
            assert!(shown.contains("pref 102"), "{shown}");
        }
    });
    assert_eq!(
        std::fs::read_dir(rig.pins().join("links")).unwrap().count(),
        0
    );
}

#[test]
fn a_new_agent_replaces_the_filters_in_place() {
    let rig = rig();
    rig.agent(async |agent| agent.converge().await);
    let did = rig.agent(async |agent| agent.converge().await);
    assert_eq!(did.len(), 4, "{did:?}");
    rig.netns.enter(|| {
        let shown = filters("eth0", "ingress");
        assert_eq!(
            shown.matches("handle 0x3000001 uplink_rx").count(),
            1,
            "{shown}"
        );
    });
}

#[test]
fn a_removed_filter_is_put_back() {
    rig().agent(async |agent| {
        agent.converge().await;
        sh("tc filter del dev eth0 ingress");
        assert_eq!(
            agent.converge().await,
            ["attach uplink_rx to ingress of eth0"]
        );
    });
}

#[test]
fn filters_with_another_handle_are_left_alone() {
    let rig = rig();
    rig.agent(async |agent| agent.converge().await);
    rig.netns.enter(|| {
        // As another network's agent would have it: same hook, same priority, another VNI.
        let pin = rig.bpffs().join("other");
        let shown = filters("eth0", "ingress");
        let mut words = shown.split_whitespace().skip_while(|word| *word != "id");
        let id = words.nth(1).unwrap();
        sh(&format!("bpftool prog pin id {id} {}", pin.display()));
        sh(&format!(
            "tc filter add dev eth0 ingress pref 102 handle 0x3000002 bpf direct-action \
             object-pinned {}",
            pin.display()
        ));
    });
    rig.agent(async |agent| {
        agent.converge().await;
        let shown = filters("eth0", "ingress");
        assert!(
            shown.contains("0x3000002") && shown.contains("0x3000001"),
            "{shown}"
        );
    });
}

#[test]
fn the_filter_at_yesterday_s_uplink_is_removed() {
    let mut rig = rig();
    rig.netns.run("ip link add eth1 type veth peer name far1");
    rig.netns.run("ip addr add 192.168.1.1/24 dev eth1");
    rig.netns.run("ip link set eth1 up");
    rig.agent(async |agent| agent.converge().await);
    rig.iface = "eth1";
    // Nor do peers' packets come and go by it any more.
    rig.netns.run("ip addr flush dev eth0");
    rig.agent(async |agent| {
        agent.converge().await;
        assert_eq!(filters("eth0", "ingress"), "");
        assert!(filters("eth1", "ingress").contains("uplink_rx"));
    });
}

#[test]
fn with_tcx_the_filters_of_a_former_agent_go_after_the_links_came() {
    let mut rig = rig();
    rig.agent(async |agent| agent.converge().await);
    rig.attach = AttachMode::Auto;
    rig.agent(async |agent| {
        let first = agent.reconcile().await;
        assert!(first.iter().any(|a| a.starts_with("attach")), "{first:?}");
        let second = agent.converge().await;
        assert!(
            second.iter().all(|a| a.starts_with("detach the filter")),
            "{second:?}"
        );
        assert_eq!(filters("eth0", "ingress"), "");
    });
    rig.link_pin("uplink_rx");
}

/// The kernel has one place for that and for clsact.
fn add_ingress_qdisc(device: &str) {
    sh(&format!("tc qdisc add dev {device} handle ffff: ingress"));
}

fn second_devices(rig: &Rig) {
    for n in [1, 2] {
        rig.netns
            .run(&format!("ip link add eth{n} type veth peer name far{n}"));
        rig.netns
            .run(&format!("ip addr add 198.51.{n}.1/24 dev eth{n}"));
        for end in ["eth", "far"] {
            rig.netns.run(&format!("ip link set {end}{n} up"));
        }
    }
}

#[test]
fn an_ingress_qdisc_on_one_device_leaves_the_others_their_programs() {
    let mut rig = rig();
    second_devices(&rig);
    rig.snat = Some(source_nat(&[]));
    rig.agent(async |agent| {
        add_ingress_qdisc("eth1");
        let desired = agent.desired().await;
        for _ in 0..2 {
            let report = agent.dataplane.reconcile(&desired).await.unwrap();
            let failed: Vec<_> = report.failed.iter().map(|(a, _)| a.to_string()).collect();
            assert_eq!(failed, ["attach uplink_tx to egress of eth1"]);
        }
        for device in ["eth0", "eth2"] {
            assert!(filters(device, "egress").contains("uplink_tx"), "{device}");
        }
        let complaint = agent.dataplane.complaint().unwrap();
        let advice = "eth1 has an ingress qdisc, which leaves no room for clsact";
        assert!(complaint.contains(advice), "{complaint}");

        sh("tc qdisc del dev eth1 ingress");
        agent.converge().await;
        assert!(filters("eth1", "egress").contains("uplink_tx"));
        assert_eq!(agent.dataplane.complaint(), None);
    });
}

#[test]
fn an_ingress_qdisc_on_the_uplink_leaves_the_tunnel_its_programs() {
    let mut rig = rig();
    second_devices(&rig);
    rig.snat = Some(source_nat(&[]));
    rig.agent(async |agent| {
        add_ingress_qdisc("eth0");
        let desired = agent.desired().await;
        let report = agent.dataplane.reconcile(&desired).await.unwrap();
        let failed: Vec<_> = report.failed.iter().map(|(a, _)| a.to_string()).collect();
        assert_eq!(failed, ["attach uplink_tx to egress of eth0"]);
        assert!(filters("eth0", "ingress").contains("uplink_rx"));
        assert!(!filters("eth0", "ingress").contains("uplink_tx"));
        assert!(filters("eth2", "egress").contains("uplink_tx"));
    });
}

#[test]
fn an_ingress_qdisc_on_the_bridge_leaves_pods_their_programs() {
    let mut rig = rig();
    rig.fast_path = FastPath::default();
    rig.agent(async |agent| {
        sh("ip link add cni0 type bridge");
        sh("ip link add vetha type veth peer name pod");
        sh("ip link set vetha master cni0");
        add_ingress_qdisc("cni0");
        let desired = agent.desired().await;
        let report = agent.dataplane.reconcile(&desired).await.unwrap();
        let failed: Vec<_> = report.failed.iter().map(|(a, _)| a.to_string()).collect();
        assert_eq!(failed, ["attach bridge_rx to egress of cni0"]);
        assert!(filters("vetha", "ingress").contains("pod_tx"));
        assert!(filters("vetha", "egress").contains("pod_rx"));
    });
}

#[test]
fn an_ingress_qdisc_on_the_tunnels_device_is_an_error() {
    rig().agent(async |agent| {
        agent.converge().await;
        sh("tc qdisc del dev flannel.1 clsact");
        add_ingress_qdisc("flannel.1");
        let error = agent.refusal().await;
        assert!(error.contains("flannel.1 has an ingress qdisc"), "{error}");
    });
}
