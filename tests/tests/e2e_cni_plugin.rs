//! The CNI plugin `flannel` with the real bridge and host-local plugins, beside our agent and beside flanneld.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;

use flannel_tests::cni_plugin::Plugin;
use flannel_tests::netns::Netns;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::{self, AnyDaemon};
use rstest::rstest;
use serde_json::{Value, json};

fn node(kind: Kind) -> (Lab, AnyDaemon) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let daemon = with_daemon::start(kind, lab.node("one"), &net, &[]);
    (lab, daemon)
}

fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().expect("an address");
    let address = text.split('/').next().expect("before the slash");
    address.parse().expect("IPv4")
}

/// What flannel's own plugin, v1.9.1, saves on this node for the same configuration.
fn gos_file(daemon: &AnyDaemon, folder: &Path, version: &str) -> String {
    let env = daemon.subnet_env();
    format!(
        r#"{{"cniVersion":"{version}","hairpinMode":true,"ipMasq":{},"ipam":{{"dataDir":"{}","ranges":[[{{"subnet":"{}"}}]],"routes":[{{"dst":"{}"}}],"type":"host-local"}},"isDefaultGateway":true,"isGateway":true,"mtu":{},"name":"cbr0","type":"bridge"}}"#,
        !env.ip_masq,
        folder.join("var/lib/cni/networks").display(),
        env.subnet(),
        env.network,
        env.mtu
    )
}

#[rstest]
fn pods_it_adds_reach_each_other_and_leave_nothing(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values("0.3.1", "1.0.0")] version: &str,
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = with_daemon::start(kind, lab.node("one"), &net, &[]);
    let two = with_daemon::start(kind, lab.node("two"), &net, &[]);
    let plugins = [Plugin::on(&one, version), Plugin::on(&two, version)];
    let pods = [
        one.node().pod_namespace("pod1"),
        two.node().pod_namespace("pod2"),
    ];
    let [result1, result2] = [0, 1].map(|n| plugins[n].add("pod", &pods[n]));
    assert!(one.subnet().contains(address(&result1)));
    assert_eq!(result1["cniVersion"], version);
    let folder = one.node().folder();
    let saved = fs::read_to_string(plugins[0].saved("pod")).unwrap();
    assert_eq!(saved, gos_file(&one, folder, version));
    eventually("the pods reach each other", SOON, || {
        pods[0].ping(address(&result2)).count(1).lossless()
    });
    pods[1]
        .ping(address(&result1))
        .whole(one.subnet_env().mtu)
        .succeeds();
    for (plugin, pod) in plugins.iter().zip(&pods) {
        plugin.del("pod", pod);
        assert!(!plugin.saved("pod").exists());
        assert_eq!(plugin.addresses(), Vec::<String>::new());
        assert!(!pod.exec("ip link").contains("eth0"));
        plugin.del("pod", pod);
    }
}

/// A pod that flannel's plugin added, deleted after the change to ours: all there is of it is its file.
#[rstest]
fn a_pod_of_flannels_own_plugin_is_deleted(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (_lab, one) = node(kind);
    let pod = one.node().pod_namespace("pod");
    let plugin = Plugin::on(&one, "0.3.1");
    plugin.add("pod", &pod);
    fs::write(
        plugin.saved("pod"),
        gos_file(&one, one.node().folder(), "0.3.1"),
    )
    .unwrap();
    // The daemon stopped, and its file went with it.
    fs::remove_file(one.subnet_file()).unwrap();
    plugin.del("pod", &pod);
    assert_eq!(plugin.addresses(), Vec::<String>::new());
    assert!(!plugin.saved("pod").exists());
}

/// flannel's plugin writes in place: whoever dies in the middle leaves half of a file.
#[test]
fn half_of_a_file_is_made_whole() {
    let (_lab, one) = node(Kind::Ours);
    let pod = one.node().pod_namespace("pod");
    let plugin = Plugin::on(&one, "0.3.1");
    plugin.add("pod", &pod);
    fs::write(plugin.saved("pod"), r#"{"cniVersion":"0.3.1","hair"#).unwrap();
    plugin.del("pod", &pod);
    assert_eq!(plugin.addresses(), Vec::<String>::new());
    // And without anything to make it from there is nothing that could be done.
    plugin.add("pod", &pod);
    fs::write(plugin.saved("pod"), "").unwrap();
    fs::remove_file(one.subnet_file()).unwrap();
    plugin.del("pod", &pod);
}

/// A delegate that fails at DEL is asked again.
#[test]
fn what_could_not_be_deleted_is_not_forgotten() {
    let (_lab, one) = node(Kind::Ours);
    let pod = one.node().pod_namespace("pod");
    let plugin = Plugin::on(&one, "0.3.1");
    plugin.add("pod", &pod);
    let broken = one.node().folder().join("broken");
    delegate(&broken, "echo '{\"code\":11,\"msg\":\"busy\"}'; exit 1");
    let plugin = plugin.with_delegates(&broken);
    assert_eq!(
        plugin.call("DEL", "pod", &pod).error(),
        (11, "busy".to_owned())
    );
    assert_eq!(plugin.addresses().len(), 1);
    fs::remove_file(broken.join("bridge")).unwrap();
    plugin.del("pod", &pod);
    assert_eq!(plugin.addresses(), Vec::<String>::new());
}

#[test]
fn check_finds_what_is_gone() {
    let (_lab, one) = node(Kind::Ours);
    let pod = one.node().pod_namespace("pod");
    let plugin = Plugin::on(&one, "0.4.0");
    let result = plugin.add("pod", &pod);
    let plugin = plugin.with("prevResult", result.clone());
    let said = plugin.call("CHECK", "pod", &pod);
    assert!(said.succeeded && said.stdout.is_empty(), "{}", said.stdout);
    pod.exec(&format!("ip addr del {}/24 dev eth0", address(&result)));
    assert!(!plugin.call("CHECK", "pod", &pod).succeeded);
    let (code, says) = plugin.call("CHECK", "nobody", &pod).error();
    assert_eq!(code, 3, "{says}");
    let (code, says) = Plugin::on(&one, "0.3.1").call("CHECK", "pod", &pod).error();
    assert_eq!(
        (code, says.as_str()),
        (1, "config version does not allow CHECK")
    );
}

#[test]
fn status_says_whether_a_pod_could_be_added() {
    let (_lab, one) = node(Kind::Ours);
    let pod = one.node().pod_namespace("pod");
    let old = Plugin::on(&one, "1.1.0");
    let (code, says) = old.call("STATUS", "", &pod).error();
    assert_eq!(code, 50);
    assert!(says.contains("bridge does not speak CNI 1.1.0"), "{says}");
    let delegates = one.node().folder().join("delegates");
    delegate(&delegates, NEW);
    let plugin = old.with_delegates(&delegates);
    let ready = plugin.call("STATUS", "", &pod);
    assert!(
        ready.succeeded && ready.stdout.is_empty(),
        "{}",
        ready.stdout
    );
    let text = fs::read_to_string(one.subnet_file()).unwrap();
    let half = text.find("FLANNEL_MTU").unwrap();
    fs::write(one.subnet_file(), &text[..half]).unwrap();
    let (code, says) = plugin.call("STATUS", "", &pod).error();
    assert_eq!(code, 50);
    assert!(says.contains("is missing"), "{says}");
    fs::remove_file(one.subnet_file()).unwrap();
    assert_eq!(plugin.call("STATUS", "", &pod).error().0, 50);
    let nobody = plugin.with("delegate", json!({"type": "nobody"}));
    fs::write(one.subnet_file(), text).unwrap();
    let (code, says) = nobody.call("STATUS", "", &pod).error();
    assert_eq!(code, 50);
    assert!(says.contains("failed to find plugin \"nobody\""), "{says}");
}

/// Of the files only those go whose container is no more, and only when the delegate is done with them.
#[test]
fn gc_forgets_who_is_no_more() {
    let (_lab, one) = node(Kind::Ours);
    let pod = one.node().pod_namespace("pod");
    let delegates = one.node().folder().join("delegates");
    let seen = one.node().folder().join("seen");
    let script = format!(
        "{NEW}; [ $CNI_COMMAND = VERSION ] || cat > {}",
        seen.display()
    );
    delegate(&delegates, &script);
    let plugin = Plugin::on(&one, "1.1.0").with_delegates(&delegates);
    fs::create_dir_all(plugin.data_dir()).unwrap();
    for container in ["alive", "dead"] {
        fs::write(
            plugin.saved(container),
            r#"{"name":"cbr0","type":"bridge"}"#,
        )
        .unwrap();
    }
    let (code, says) = plugin.call("GC", "", &pod).error();
    assert_eq!(code, 7, "{says}");
    let list = json!([{"containerID": "alive", "ifname": "eth0"}]);
    let plugin = plugin.with("cni.dev/valid-attachments", list.clone());
    let said = plugin.call("GC", "", &pod);
    assert!(said.succeeded, "{}", said.stdout);
    let given: Value = serde_json::from_slice(&fs::read(seen).unwrap()).unwrap();
    assert_eq!(given["cni.dev/valid-attachments"], list);
    assert!(plugin.saved("alive").exists() && !plugin.saved("dead").exists());
}

#[test]
fn a_subnet_file_that_says_little_is_named_and_nothing_is_done() {
    let (_lab, one) = node(Kind::Ours);
    let pod = one.node().pod_namespace("pod");
    let plugin = Plugin::on(&one, "0.3.1");
    fs::write(one.subnet_file(), "FLANNEL_NETWORK=10.244.0.0/16\n").unwrap();
    let (code, says) = plugin.call("ADD", "pod", &pod).error();
    assert_eq!(code, 999);
    let file = one.subnet_file();
    assert_eq!(
        says,
        format!(
            "failed to load flannel 'subnet.env' file: {} is missing FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ. Check the flannel pod log for this node.",
            file.display()
        )
    );
    assert!(!plugin.data_dir().exists());
    // Neither half of a pod: DEL comes after every ADD.
    plugin.del("pod", &pod);
}

/// What may be in the way of reading a file.
#[derive(Debug, Clone, Copy)]
enum InTheWay {
    Mode,
    Folder,
    DanglingLink,
    LinkToItself,
}

impl InTheWay {
    fn put(self, file: &Path) -> &'static str {
        match self {
            Self::Mode => fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap(),
            Self::Folder => {
                fs::remove_file(file).unwrap();
                fs::create_dir(file).unwrap();
            }
            Self::DanglingLink => {
                fs::remove_file(file).unwrap();
                std::os::unix::fs::symlink("gone", file).unwrap();
            }
            Self::LinkToItself => {
                fs::remove_file(file).unwrap();
                std::os::unix::fs::symlink(file, file).unwrap();
            }
        }
        match self {
            Self::Mode => "permission denied",
            Self::Folder => "is a directory",
            Self::DanglingLink => "no such file or directory",
            Self::LinkToItself => "too many levels of symbolic links",
        }
    }
}

/// Root reads what it likes, unless it lacks the right to.
const READS_BY_MODE: &str = "setpriv --bounding-set -dac_override,-dac_read_search --inh-caps -all";

#[rstest]
fn a_subnet_file_that_cannot_be_read_is_named_and_nothing_is_done(
    #[values(
        InTheWay::Mode,
        InTheWay::Folder,
        InTheWay::DanglingLink,
        InTheWay::LinkToItself
    )]
    in_the_way: InTheWay,
) {
    let (_lab, one) = node(Kind::Ours);
    let [old, new] = ["old", "new"].map(|name| one.node().pod_namespace(name));
    let plugin = Plugin::on(&one, "0.3.1").under(READS_BY_MODE);
    plugin.add("old", &old);
    let file = one.subnet_file();
    let why = in_the_way.put(&file);
    let named = |says: &str| {
        assert!(
            says.contains(&file.display().to_string()) && says.contains(why),
            "{says}"
        );
    };
    let (code, says) = plugin.call("ADD", "new", &new).error();
    assert_eq!(code, 999, "{says}");
    named(&says);
    assert!(!plugin.saved("new").exists());
    assert_eq!(plugin.addresses().len(), 1);
    let status = Plugin::on(&one, "1.1.0").under(READS_BY_MODE);
    let (code, says) = status.call("STATUS", "", &new).error();
    assert_eq!(code, 50, "{says}");
    named(&says);
    // Pods go without it.
    plugin.del("new", &new);
    plugin.del("old", &old);
    assert_eq!(plugin.addresses(), Vec::<String>::new());
}

/// The bridge plugin would put its veth's peer into the node itself.
#[test]
fn the_nodes_own_namespace_is_no_pod() {
    let (_lab, one) = node(Kind::Ours);
    let plugin = Plugin::on(&one, "0.3.1");
    for command in ["ADD", "DEL"] {
        let said = plugin.call_at(command, "pod", Path::new("/proc/self/ns/net"));
        assert_eq!(said.error().0, 8);
    }
    assert!(!plugin.data_dir().exists());
    // A namespace that is gone is nobody's.
    let said = plugin.call_at("DEL", "pod", Path::new("/var/run/netns/gone"));
    assert!(said.succeeded, "{}", said.stdout);
}

/// Two runtimes, or one that lost patience: whatever each of them is told, DEL leaves nothing.
#[test]
fn two_at_once_on_one_container_leave_nothing() {
    let (_lab, one) = node(Kind::Ours);
    let pod = one.node().pod_namespace("pod");
    let plugin = Plugin::on(&one, "0.3.1");
    let add = |pod: &Netns| plugin.call("ADD", "pod", pod).succeeded;
    let succeeded = thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| add(&pod)));
        both.map(|one| one.join().unwrap())
    });
    assert!(succeeded.contains(&true));
    assert!(plugin.saved("pod").exists());
    plugin.del("pod", &pod);
    assert_eq!(plugin.addresses(), Vec::<String>::new());
    assert_eq!(fs::read_dir(plugin.data_dir()).unwrap().count(), 0);
}

/// What a delegate of CNI 1.1 says: Debian 12's are older.
const NEW: &str =
    r#"[ $CNI_COMMAND != VERSION ] || echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}'"#;

/// A plugin `bridge` of this script, before the real one.
fn delegate(folder: &Path, script: &str) {
    fs::create_dir_all(folder).unwrap();
    let file = folder.join("bridge");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}
