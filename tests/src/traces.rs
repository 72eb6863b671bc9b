//! All that a network has left on a node, as text in which only what is drawn by lot is left out: so that a node that came from
//! another backend can be compared with one that never had it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::agent::Agent;
use crate::host::Host as _;
use crate::member::Member;

/// Sysctls that an agent may set, or that a device of its has.
const SYSCTLS: &str = "for each in ip_forward ip_local_reserved_ports \
    conf/{all,default,eth0,cni0}/{rp_filter,forwarding,accept_local,send_redirects,route_localnet,arp_ignore}; do \
    echo $each $(cat /proc/sys/net/ipv4/$each); done";

/// What `agent`'s node has of its network, and `peer`'s subnet in it. Pods' own devices are not in it.
///
/// # Panics
/// If the node cannot be asked.
pub fn of(agent: &Agent, peer: &dyn Member) -> String {
    let node = agent.node();
    let mut text = String::new();
    let mut names = BTreeSet::new();
    let links: Value = serde_json::from_str(&node.exec("ip -j -d link")).expect("JSON of ip");
    for link in links.as_array().expect("a list") {
        let name = link["ifname"].as_str().unwrap_or_default();
        if link["ifname"] != "eth0" && link["master"] == "cni0" {
            continue;
        }
        let kind = &link["linkinfo"]["info_kind"];
        // The bridge has its ports' MTU, which pods were given once.
        let mtu = match name {
            "cni0" => &Value::Null,
            _ => &link["mtu"],
        };
        let alias = &link["ifalias"];
        writeln!(text, "link {name} {kind} mtu {mtu} alias {alias}").expect("a string takes it");
        names.insert(name.to_owned());
    }
    for name in names.iter().filter(|name| *name != "lo") {
        for line in node.exec(&format!("ethtool -k {name}")).lines() {
            writeln!(text, "{name} {}", line.trim()).expect("a string takes it");
        }
    }
    let sorted = |command: &str| {
        let said = node.exec(command);
        let lines = said.lines().map(str::trim);
        // iptables-save says what time it is, and addresses have the device's index in front.
        let lines = lines.filter(|line| !line.starts_with('#'));
        let mut lines: Vec<&str> = lines.map(without_index).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    for command in [
        "ip -o -4 addr",
        "ip -4 route show table all",
        "ip rule",
        "ip neigh show nud permanent",
        "ss -Hlnu",
        "ss -Hlnw",
        "iptables-save -t filter",
        "iptables-save -t nat",
        "nft list ruleset",
    ] {
        writeln!(text, "── {command}\n{}", sorted(command)).expect("a string takes it");
    }
    let sysctls = run_shell(agent, SYSCTLS);
    writeln!(text, "── sysctls\n{sysctls}").expect("a string takes it");
    let mut pins = BTreeSet::new();
    files(&node.bpffs(), "", &mut pins);
    writeln!(text, "── pins\n{}", Vec::from_iter(pins).join("\n")).expect("a string takes it");
    let env = agent.subnet_env().text();
    writeln!(text, "── subnet.env\n{env}").expect("a string takes it");
    without_lots(&text, agent, peer)
}

fn without_index(line: &str) -> &str {
    match line.split_once(": ") {
        Some((index, rest)) if index.bytes().all(|it| it.is_ascii_digit()) => rest,
        _ => line,
    }
}

fn run_shell(agent: &Agent, script: &str) -> String {
    let mut command = agent.node().command("bash -c");
    let output = command.arg(script).output().expect("run bash");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of pins, without the index of a device.
fn files(folder: &Path, at: &str, found: &mut BTreeSet<String>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let short = match name.rsplit_once('-') {
            Some((short, index)) if index.bytes().all(|it| it.is_ascii_digit()) => short,
            _ => &name,
        };
        let path = format!("{at}/{short}");
        if is_folder {
            files(&entry.path(), &path, found);
        }
        found.insert(path);
    }
}

fn without_lots(text: &str, agent: &Agent, peer: &dyn Member) -> String {
    let (own, other) = (agent.subnet(), peer.subnet());
    // "10.244.7." of whatever is in it.
    let part = |subnet: crate::network::Subnet| {
        let octets = subnet.base.octets();
        format!("{}.{}.{}.", octets[0], octets[1], octets[2])
    };
    text.replace(&part(own), "OWN.")
        .replace(&part(other), "PEER.")
        .replace(&agent.node().address().to_string(), "NODE")
        .replace(&peer.node().address().to_string(), "PEER-NODE")
}
