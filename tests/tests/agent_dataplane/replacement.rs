//! A node that ran flanneld: its kernel vxlan device gives way to our pair.

use flannel_agent::base::mac::MacAddr;
use flannel_agent::flannel::backend::Wire;
use flannel_agent::reconcile::observe;
use flannel_tests::netns::output;
use flannel_tests::wait::{SOON, eventually};
use rstest::rstest;

use crate::rig::{MAC, Rig, sh};

fn flanneld(rig: &Rig) {
    for line in [
        "ip link add flannel.1 address 02:00:00:00:00:01 mtu 1450 type vxlan id 1 \
         local 192.168.0.1 dev eth0 dstport 8472 nolearning",
        "ip link set flannel.1 up",
        "ip addr add 10.244.1.0/32 dev flannel.1",
        "ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:02 nud permanent dev flannel.1",
        "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.168.0.2 self permanent",
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
        let found = observe::vtep_mac(agent.dataplane.netlink(), Wire::Vxlan { vni: 1 })
            .await
            .unwrap();
        assert_eq!(found, Some(MAC));
        let did = agent.converge().await;
        assert_eq!(did[0], "put the kernel device flannel.1 aside as flold.1");
        assert!(did.contains(&"delete flold.1".to_owned()), "{did:?}");
        assert_eq!(sh("ip link show type vxlan"), "");
        assert_eq!(
            sh("ip route show 10.244.2.0/24").trim(),
            "10.244.2.0/24 via 169.254.0.1 dev flannel.1 proto 102 src 10.244.1.0 onlink",
            "flanneld's route became ours"
        );
        let route = sh("ip route get 10.244.2.5");
        assert!(route.contains("dev flannel.1 src 10.244.1.0"), "{route}");
        let found = observe::vtep_mac(agent.dataplane.netlink(), Wire::Vxlan { vni: 1 })
            .await
            .unwrap();
        assert_eq!(found, Some(MAC));
    });
}

#[rstest]
#[case::without_rp_filter(0, 0)]
// Between two requests to the kernel a packet arrives by one device, and the route back leads to the other.
#[case::strict_rp_filter(1, 1)]
fn the_replacement_loses_no_packet_of_a_running_flow(#[case] rp_filter: u8, #[case] lost: u32) {
    /// Enough for four seconds.
    const PINGS: u32 = 2_000;
    let rig = Rig::alone();
    for conf in ["all", "default"] {
        let sysctl = format!("sysctl -qw net.ipv4.conf.{conf}.rp_filter={rp_filter}");
        rig.netns.run(&sysctl);
    }
    flanneld(&rig);
    let peer = rig.kernel_peer();
    let mut ping = peer.command("ping");
    // By number, and not until a time: the answer to the last one is waited for.
    ping.args(format!("-q -i 0.002 -c {PINGS} -W 5 -I 10.244.2.0 10.244.1.0").split_whitespace());
    rig.agent(async |agent| {
        let flow = tokio::task::spawn_blocking(move || output(&mut ping));
        eventually("packets flow", SOON, || received("flannel.1") > 0);
        agent.converge().await;
        assert!(!flow.is_finished(), "packets flow all the while");
        let said = String::from_utf8(flow.await.unwrap().stdout).unwrap();
        let numbers: Vec<u32> = said
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let (sent, arrived) = (numbers[0], numbers[1]);
        assert!(sent == PINGS && arrived + lost >= sent, "{said}");
    });
}

/// Packets that a device received.
fn received(device: &str) -> u64 {
    let table = sh("cat /proc/thread-self/net/dev");
    let line = table.lines().find_map(|l| l.trim().strip_prefix(device));
    let packets = line.and_then(|l| l.trim_start_matches(':').split_whitespace().nth(1));
    packets.unwrap().parse().unwrap()
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
            observe::vtep_mac(agent.dataplane.netlink(), Wire::Vxlan { vni })
                .await
                .unwrap()
        };
        assert_eq!(mac(1).await, None::<MacAddr>);
        assert_eq!(mac(7).await, None, "not a tunnel's");
    });
}
