//! A node that ran flanneld: its kernel vxlan device gives way to our pair.

use flannel_agent::mac::MacAddr;
use flannel_agent::observe;

use crate::rig::{MAC, Rig, sh};

fn flanneld(rig: &Rig) {
    for line in [
        "ip link add flannel.1 address 02:00:00:00:00:01 mtu 1450 type vxlan id 1 \
         local 192.168.0.1 dev eth0 dstport 8472 nolearning",
        "ip link set flannel.1 up",
        "ip addr add 10.244.1.0/32 dev flannel.1",
        "ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:02 nud permanent dev flannel.1",
        "ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
    ] {
        rig.netns.run(line);
    }
}

#[test]
fn a_kernel_vxlan_device_gives_way_and_leaves_its_mac() {
    let rig = Rig::new();
    flanneld(&rig);
    rig.agent(async |agent| {
        let found = observe::vtep_mac(agent.dataplane.netlink(), 1)
            .await
            .unwrap();
        assert_eq!(found, Some(MAC));
        let did = agent.converge().await;
        assert_eq!(did[0], "put the kernel device flannel.1 aside as flold.1");
        assert!(did.contains(&"delete flold.1".to_owned()), "{did:?}");
        assert_eq!(sh("ip link show type vxlan"), "");
        assert_eq!(
            sh("ip route show 10.244.2.0/24"),
            "",
            "flanneld's routes went with its device"
        );
        let route = sh("ip route get 10.244.2.5");
        assert!(route.contains("dev flannel.1 src 10.244.1.0"), "{route}");
        let found = observe::vtep_mac(agent.dataplane.netlink(), 1)
            .await
            .unwrap();
        assert_eq!(found, Some(MAC));
    });
}

#[test]
fn a_replacement_that_was_cut_short_is_finished() {
    let rig = Rig::new();
    flanneld(&rig);
    rig.netns.run("ip link set flannel.1 name flold.1");
    let did = rig.agent(async |agent| agent.converge().await);
    assert!(did.contains(&"delete flold.1".to_owned()), "{did:?}");
    assert_eq!(rig.netns.run("ip link show type vxlan"), "");
}

#[test]
fn no_device_no_mac() {
    let rig = Rig::new();
    rig.netns.run("ip link add flannel.7 type bridge");
    rig.agent(async |agent| {
        let mac = async |vni| {
            observe::vtep_mac(agent.dataplane.netlink(), vni)
                .await
                .unwrap()
        };
        assert_eq!(mac(1).await, None::<MacAddr>);
        assert_eq!(mac(7).await, None, "not a tunnel's");
    });
}
