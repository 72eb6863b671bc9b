//! What breaks around the agent: it forwards on with what it knows, and finds its way back by itself.

#![cfg(test)]

use std::time::Duration;

use flannel_tests::agent::{Daemon, command};
use flannel_tests::netns::output;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::subnet_env::SubnetEnv;
use flannel_tests::udp::assert_nothing_lost;
use nix::sys::signal::Signal;
use rstest::rstest;

/// A look at everything, and time to do what it found.
const DRIFT: Duration = Duration::from_secs(45);

/// No more than what the agent cannot do without.
const WITHOUT_SYS_ADMIN: &str =
    "setpriv --bounding-set -all,+net_admin,+net_raw,+bpf,+perfmon --inh-caps -all";

/// A third node joins, and the running agents send to its pods.
fn a_new_node_is_seen(pair: &Pair<impl Member>) {
    let third = KernelVxlan::join(pair.lab.node("three"), &pair.net);
    let pod3 = Pod::on(&third, "pod3");
    pair.pod1.reaches(&pod3);
    pair.pod2.reaches(&pod3);
}

#[rstest]
fn an_etcd_that_hangs_disturbs_no_packet_and_is_followed_when_it_wakes(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    let flows = pair.flows();
    pair.lab.etcd().freeze();
    pair.pod1.ping(pair.pod2.address()).count(30).succeeds();
    pair.lab.etcd().thaw();
    a_new_node_is_seen(&pair);
    assert_nothing_lost(flows);
}

/// No packet between node and etcd, and no end of the connection either.
#[rstest]
fn a_node_cut_off_from_etcd_alone_forwards_on_and_catches_up(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    let flows = pair.flows();
    let rule = "OUTPUT -p tcp --dport 2379 -j DROP";
    let node = pair.one.node();
    node.exec(&format!("iptables -w -I {rule}"));
    let third = KernelVxlan::join(pair.lab.node("three"), &pair.net);
    let pod3 = Pod::on(&third, "pod3");
    pair.pod2.reaches(&pod3);
    node.exec(&format!("iptables -w -D {rule}"));
    pair.pod1.reaches(&pod3);
    assert_nothing_lost(flows);
}

/// The backup knows one lease, under a revision that the agents are long past.
#[test]
fn an_etcd_restored_from_an_older_backup_gets_the_leases_it_lost() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start(lab.node("one"), &net);
    let backup = lab.etcd().backup();
    let two = Agent::start(lab.node("two"), &net);
    for n in 0..50 {
        lab.etcd().put("/elsewhere", &n.to_string());
    }
    let pair = Pair::of(lab, net, one, two);
    let (first, second) = (pair.one.subnet(), pair.two.subnet());
    let flows = pair.flows();
    pair.lab.etcd().restore(&backup);
    eventually("both leases are there again", SOON, || {
        let leases = pair.lab.etcd().leases(&pair.net);
        let has = |subnet| leases.iter().any(|(found, _)| *found == subnet);
        has(first) && has(second)
    });
    a_new_node_is_seen(&pair);
    assert_nothing_lost(flows);
}

/// The kernel throws announcements away when nobody reads them; the one that mattered is among them.
#[test]
fn a_change_whose_announcement_was_lost_is_found() {
    let mut pair = Pair::of_agents();
    pair.one.daemon_mut().process().signal(Signal::SIGSTOP);
    let node = pair.one.node();
    let batch = node.folder().join("batch");
    // Some 400 bytes each; a socket holds 212,992 bytes (net.core.rmem_default).
    let lines: String = (0..4_000)
        .map(|n| {
            let address = format!("10.99.{}.{}/32", n / 250, n % 250 + 1);
            format!("address add {address} dev lo\naddress del {address} dev lo\n")
        })
        .collect();
    std::fs::write(&batch, lines).expect("write the batch");
    node.exec(&format!("ip -batch {}", batch.display()));
    node.exec(&format!("ip link set {} mtu 1400", Node::UPLINK));
    node.exec(&format!("ip -batch {}", batch.display()));
    pair.one.daemon_mut().process().signal(Signal::SIGCONT);
    eventually("the subnet file says 1350", SOON, || {
        let env = pair.one.daemon().subnet_env();
        env.is_some_and(|env| env.mtu == 1350)
    });
}

/// With the last open file below it go the pins, with those the links, and the programs leave their hooks.
#[test]
fn a_bpffs_unmounted_under_the_agent_is_made_good() {
    let pair = Pair::of_agents();
    let bpffs = pair.one.node().bpffs();
    nix::mount::umount2(&bpffs, nix::mount::MntFlags::MNT_DETACH).expect("unmount the bpffs");
    eventually("everything is pinned again", DRIFT, || {
        bpffs.join("flannel").exists()
    });
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
}

/// Without the right to mount it stays away, until somebody else mounts it: what is attached runs on meanwhile, and takes what changes.
#[test]
fn leases_are_followed_while_nothing_can_be_pinned() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start_under(WITHOUT_SYS_ADMIN, lab.node("one"), &net, &[]);
    let two = Agent::start(lab.node("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    let lacking = "lacks CAP_SYS_ADMIN";
    assert_eq!(pair.one.log().matches(lacking).count(), 1);
    assert!(!pair.two.log().contains(lacking));
    let doctor = |node: &Node| {
        let bpffs = format!("--bpffs={}", node.bpffs().display());
        let etcd = format!("--etcd-endpoints={}", node.etcd());
        let said = output(&mut command(node, &["doctor", &bpffs, &etcd]));
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let said = doctor(pair.one.node());
    assert!(said.contains(lacking), "{said}");
    let said = doctor(pair.two.node());
    assert!(!said.contains(lacking), "{said}");
    let bpffs = pair.one.node().bpffs();
    nix::mount::umount2(&bpffs, nix::mount::MntFlags::MNT_DETACH).expect("unmount the bpffs");
    let unpinned = "cannot be pinned again";
    eventually("it is said", DRIFT, || pair.one.log().contains(unpinned));
    a_new_node_is_seen(&pair);
    pair.pod1.reaches(&pair.pod2);
    assert_eq!(pair.one.log().matches(unpinned).count(), 1);

    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("bpf"), &bpffs, Some("bpf"), flags, Some("mode=700"))
        .expect("mount a BPF file system");
    eventually("everything is pinned again", DRIFT, || {
        pair.one.log().contains("pinned again what they held")
    });
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
}

#[rstest]
fn an_uplink_that_flaps_ends_up_forwarding(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let pair = Pair::new(mix);
    let (node, subnet) = (pair.one.node(), pair.one.subnet());
    for _ in 0..20 {
        node.exec(&format!("ip link set {} down", Node::UPLINK));
        node.exec(&format!("ip link set {} up", Node::UPLINK));
    }
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
    assert_eq!(pair.one.subnet(), subnet);
}

/// The file of the last run stays whole, the node forwards, and the log says what is wrong.
#[test]
fn a_full_disk_costs_the_subnet_file_alone_and_only_until_there_is_room() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let disk = node.folder().join("disk");
    std::fs::create_dir_all(&disk).expect("create a mount point");
    let small = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &disk, Some("tmpfs"), small, Some("size=64k"))
        .expect("mount a small tmpfs");
    let filler = disk.join("filler");
    let full = std::fs::write(&filler, vec![0; 1 << 20]);
    assert!(full.is_err(), "1 MiB into 64 KiB");

    let flag = format!("--subnet-file={}", disk.join("subnet.env").display());
    let two = KernelVxlan::join(lab.node("two"), &net);
    let daemon = Daemon::spawn(&node, &net, &[&flag]);
    eventually("the log names the file", SOON, || {
        let log = daemon.log();
        log.contains("subnet.env") && log.contains("No space left")
    });
    eventually("the node forwards all the same", SOON, || {
        let ours = lab.etcd().leases(&net).into_iter();
        let others = ours.filter(|(subnet, _)| *subnet != two.subnet());
        others.last().is_some_and(|(subnet, _)| {
            two.follow_leases();
            let ping = format!("ping -c1 -W1 {}", subnet.base);
            two.try_exec(&ping).status.success()
        })
    });
    assert!(!disk.join("subnet.env").exists());
    std::fs::remove_file(&filler).expect("make room");
    eventually("the file is written", DRIFT, || {
        SubnetEnv::read(&disk.join("subnet.env")).is_some()
    });
    drop(daemon);
    nix::mount::umount2(&disk, nix::mount::MntFlags::MNT_DETACH).expect("unmount the tmpfs");
}
