use flannel_agent::actual::{Device, Generation};

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
        let route = sh("ip route show 10.244.0.0/16");
        assert!(
            route.starts_with("10.244.0.0/16 dev flannel.1 proto 102 scope link src 10.244.1.0"),
            "{route}"
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

#[test]
fn a_foreign_route_to_the_network_is_named_and_left_alone() {
    let rig = Rig::new();
    rig.netns.run("ip route add 10.244.0.0/16 dev eth0");
    rig.agent(async |agent| {
        let error = agent.refusal().await;
        assert!(
            error.contains("10.244.0.0/16") && error.contains("not ours"),
            "{error}"
        );
        assert!(sh("ip route show 10.244.0.0/16").contains("dev eth0"));
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
    use flannel_agent::dataplane::{AttachMode, Dataplane, Options};

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
