use flannel_agent::dataplane::Generation;
use flannel_agent::reconcile::actual::Device;

use crate::rig::{Rig, sh};

#[test]
fn everything_is_in_place_after_one_reconcile() {
    Rig::new().agent(async |agent| {
        let did = agent.converge().await;
        assert!(did[0].starts_with("create flannel.1"), "{did:?}");

        let link = sh("ip -d link show flannel.1");
        for part in [
            "flannel.1@flgro.1",
            "NOARP,UP,LOWER_UP",
            "mtu 1450",
            "link/ether 02:00:00:00:00:01",
            "alias flannel-ebpf:coreos_com_network",
            "addrgenmode none",
        ] {
            assert!(link.contains(part), "{part}: {link}");
        }
        let far = sh("ip link show flgro.1");
        assert!(
            far.contains("mtu 65535") && far.contains("NOARP,UP"),
            "{far}"
        );
        let address = sh("ip -4 addr show dev flannel.1");
        assert!(address.contains("inet 10.244.1.0/32"), "{address}");
        let route = sh("ip route show 10.244.2.0/24");
        assert_eq!(
            route.trim(),
            "10.244.2.0/24 via 169.254.0.1 dev flannel.1 proto 102 src 10.244.1.0 onlink",
        );
        assert_eq!(
            sh("ip route show 10.244.0.0/16"),
            "",
            "what nobody leases is not ours"
        );
        let offloads = sh("ethtool -k flannel.1");
        assert!(
            offloads.contains("generic-receive-offload: on"),
            "{offloads}"
        );
        assert!(offloads.contains("tx-tcp-segmentation: on"), "{offloads}");
        assert!(offloads.contains("tx-sctp-segmentation: off"), "{offloads}");
        let offloads = sh("ethtool -k flgro.1");
        assert!(offloads.contains("tx-tcp-segmentation: off"), "{offloads}");
        assert_eq!(sh("ip -6 addr show dev flgro.1"), "");
        assert_eq!(sh("ip -6 addr show dev flannel.1"), "");

        let desired = agent.desired().await;
        let actual = agent.dataplane.actual(&desired).await.unwrap();
        assert!(matches!(actual.device, Device::Ours(_)));
        assert_eq!(actual.programs.attached.len(), 3);
        let current = |g: &Generation| *g == Generation::Current;
        assert!(actual.programs.attached.values().all(current));
        assert_eq!(actual.peers, (&desired.peers).into());
    });
}

#[test]
fn a_foreign_device_of_our_name_is_named_and_left_alone() {
    let rig = Rig::new();
    rig.netns.run("ip link add flannel.1 type bridge");
    rig.agent(async |agent| {
        let error = agent.refusal().await;
        assert!(
            error.contains("flannel.1 is in the way") && error.contains("bridge"),
            "{error}"
        );
        sh("ip link show type bridge dev flannel.1");
    });
}

/// One to the whole network is behind ours because it is wider, one to a peer's subnet because it is put there.
#[test]
fn foreign_routes_stay_behind_ours() {
    let rig = Rig::new();
    for to in ["10.244.0.0/16", "10.244.2.0/24", "10.244.2.7/32"] {
        let route = format!("ip route add {to} dev eth0 proto static");
        rig.netns.run(&route);
    }
    rig.agent(async |agent| {
        let did = agent.converge().await;
        let in_front = "add the route 10.244.2.0/24 by the tunnel, in front of somebody else's (protocol 4), which stays";
        assert!(did.iter().any(|a| a == in_front), "{did:?}");
        let way = |to: &str| sh(&format!("ip route get {to}"));
        assert!(way("10.244.2.5").contains("dev flannel.1"));
        assert!(way("10.244.2.7").contains("dev eth0"));
        assert!(way("10.244.9.9").contains("dev eth0"));
        let desired = agent.desired_for(&Default::default()).await;
        agent.dataplane.reconcile(&desired).await.unwrap();
        assert!(way("10.244.2.5").contains("dev eth0"), "theirs is still there");
    });
}

#[test]
fn two_networks_share_a_node_but_not_a_vni() {
    let rig = Rig::new();
    rig.netns
        .run("ip link add flannel.1 type veth peer name flgro.1");
    rig.netns
        .run("ip link set flannel.1 alias flannel-ebpf:other_network");
    rig.agent(async |agent| {
        let error = agent.refusal().await;
        assert!(
            error.contains("other_network") && error.contains("VNI"),
            "{error}"
        );
    });
}

#[test]
fn without_bpffs_and_the_right_to_mount_the_error_says_what_to_do() {
    use flannel_agent::dataplane::{AttachMode, Options};
    use flannel_agent::reconcile::Dataplane;

    let rig = Rig::new();
    rig.netns.block_on(async || {
        // A plain file cannot become a mount point.
        let file = rig.bpffs().with_extension("file");
        std::fs::write(&file, b"").unwrap();
        let error = Dataplane::open(&Options {
            bpffs: file,
            network: "x".to_owned(),
            ebpf_object: None,
            attach: AttachMode::Auto,
            state_dir: rig.state_dir(),
            flow_entries: 8192,
            snat_entries: None,
        });
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("mount -t bpf") && error.contains("--bpffs"),
            "{error}"
        );
    });
}
