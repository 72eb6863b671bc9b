//! What an operator looks at, each with the command that shows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flannel_common::maps;
use flannel_common::program::Program;
use flannel_tests::netns;
use flannel_tests::prelude::*;
use flannel_tests::process::Process;
use serde_json::Value;

use crate::screen::{note, transcript};

pub(crate) fn etcd(lab: &Lab, key: &str) {
    transcript(
        "etcd",
        &format!("etcdctl get {key}"),
        &lab.etcd().ctl(&["get", key]),
    );
}

pub(crate) fn leases(lab: &Lab, net: &Network) {
    let prefix = format!("{}/subnets/", net.prefix);
    let text = lab.etcd().ctl(&["get", "--prefix", &prefix]);
    transcript("etcd", &format!("etcdctl get --prefix {prefix}"), &text);
}

pub(crate) fn subnet_env(agent: &Agent) {
    let file = agent.daemon().subnet_file();
    let text = std::fs::read_to_string(file).expect("subnet.env of an agent that is ready");
    transcript("node1", "cat /run/flannel/subnet.env", &text);
}

pub(crate) fn kernel(agent: &Agent, net: &Network) {
    let device = net.device();
    for command in [
        format!("ip -d -o link show dev {device}"),
        format!("ip route show dev {device}"),
        "ip -d link show type vxlan".to_owned(),
    ] {
        transcript("node1", &command, &agent.exec(&command));
    }
    note("(nothing: there is none)");
}

pub(crate) fn peers(agent: &Agent) {
    let pin = pin(&agent.node().bpffs(), maps::PEERS);
    let command = format!("bpftool map dump pinned {}", pin.display());
    let text = agent.exec(&command);
    // Where it is on a node whose bpffs is in the usual place.
    let usual = pin
        .strip_prefix(agent.node().bpffs())
        .expect("a pin below the bpffs");
    let command = format!("bpftool map dump pinned /sys/fs/bpf/{}", usual.display());
    transcript("node1", &command, &text);
}

pub(crate) fn ping(from: &Pod, to: &Pod) {
    let report = from.ping(to.address()).count(5).succeeds();
    transcript(
        "client",
        &format!("ping -c 5 -i 0.01 {}", to.address()),
        &report.text,
    );
}

pub(crate) fn throughput(lab: &Lab, from: &Pod, to: &Pod) {
    let log = lab.folder().join("iperf3.log");
    let mut server = Process::spawn(
        "iperf3",
        to.command("iperf3 --server --one-off --forceflush"),
        &log,
    );
    eventually("iperf3 listens", SOON, || {
        server.log().contains("listening")
    });
    let command = format!("iperf3 --client {} --time 3 --interval 0", to.address());
    transcript("client", &command, &from.exec(&command));
    server.wait(Duration::from_secs(10));
}

/// Counters that are not zero, summed over the CPUs.
pub(crate) fn counters(agent: &Agent) {
    let pin = pin(&agent.node().bpffs(), maps::STATS);
    let text = agent.exec(&format!("bpftool --json map dump pinned {}", pin.display()));
    let dump: Value = serde_json::from_str(&text).expect("JSON from bpftool");
    for program in Program::ALL {
        for (reason, packets) in packets(&dump, program) {
            note(&format!(
                "{:<14} {reason:<14} {packets:>10} packets",
                program.name()
            ));
        }
    }
}

fn packets(dump: &Value, program: Program) -> BTreeMap<String, u64> {
    let entries = dump.as_array().into_iter().flatten();
    let entry = entries
        .map(|e| &e["formatted"])
        .find(|e| e["key"] == program as u32);
    let mut sums = BTreeMap::new();
    for cpu in entry
        .and_then(|e| e["values"].as_array())
        .into_iter()
        .flatten()
    {
        for (reason, count) in cpu["value"].as_object().into_iter().flatten() {
            let packets = count["packets"].as_u64().unwrap_or(0);
            if packets > 0 {
                *sums.entry(reason.clone()).or_insert(0) += packets;
            }
        }
    }
    sums
}

/// Finds a pinned map below a bpffs: how the folders in between are called is the agent's business.
fn pin(bpffs: &Path, name: &str) -> PathBuf {
    let text = netns::run(
        std::process::Command::new("find")
            .arg(bpffs)
            .args(["-name", name]),
    );
    PathBuf::from(
        text.lines()
            .next()
            .unwrap_or_else(|| panic!("no {name} below {}", bpffs.display())),
    )
}
