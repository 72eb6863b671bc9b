//! Pods that are not on the bridge any more: their ports exist, and lead nowhere. Which ports are pods' is known for sure where the container
//! runtime keeps the results of CNI plugins, with name and MAC of the port that the bridge plugin made.

use std::path::Path;

use serde::Deserialize;

use super::super::Report;
use crate::base::mac::MacAddr;
use crate::node::net::{Kind, Link};

/// libcni's `CacheDir`, as containerd and CRI-O have it.
const RESULTS: &str = "/var/lib/cni/results";
/// Ports that are named one by one.
const NAMED: usize = 3;

#[derive(Deserialize)]
struct Cached {
    result: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    interfaces: Vec<Interface>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    mac: String,
    /// Empty: on the node.
    #[serde(default)]
    sandbox: String,
}

/// A port that the bridge plugin made.
#[derive(Debug, PartialEq, Eq)]
struct Port {
    name: String,
    mac: MacAddr,
}

pub(super) fn check(bridge: &Link, links: &[Link], report: &mut Report) {
    judge(
        bridge,
        links,
        &made(Path::new(RESULTS), &bridge.name),
        report,
    );
}

/// What is on the node, beside the bridge itself, in each result that names it. What cannot be read says nothing.
fn made(folder: &Path, bridge: &str) -> Vec<Port> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let cached = files.filter_map(|file| {
        let text = std::fs::read(file.path()).ok()?;
        serde_json::from_slice::<Cached>(&text).ok()
    });
    let on_node = cached.map(|cached| {
        let interfaces = cached.result.interfaces.into_iter();
        interfaces.filter(|it| it.sandbox.is_empty()).collect()
    });
    let of_bridge = on_node.filter(|all: &Vec<Interface>| all.iter().any(|it| it.name == bridge));
    let ports = of_bridge.flatten().filter(|it| it.name != bridge);
    let ports = ports.filter_map(|Interface { name, mac, .. }| {
        let mac = mac.parse().ok()?;
        Some(Port { name, mac })
    });
    ports.collect()
}

fn judge(bridge: &Link, links: &[Link], made: &[Port], report: &mut Report) {
    let is_stray = |link: &&Link| {
        let of_pod =
            |port: &Port| link.name == port.name && link.mac.map(MacAddr) == Some(port.mac);
        link.kind == Kind::Veth && link.controller != Some(bridge.index) && made.iter().any(of_pod)
    };
    let strays: Vec<&Link> = links.iter().filter(is_stray).collect();
    let name = &bridge.name;
    for Link { name: port, .. } in strays.iter().take(NAMED) {
        report.warning(
            format!("{port} is the port of a pod that was put on {name}, and is not on it any more: the pod reaches nobody"),
            format!("ip link set {port} master {name}, and find out who took it off"),
        );
    }
    if let Some(more) = strays.len().checked_sub(NAMED).filter(|more| *more > 0) {
        report.warning(
            format!("{more} more ports of pods are not on {name} any more"),
            "begin with those above: they mostly share the cause",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::tests::{Said, odd, said};
    use crate::node::net::fixtures::{link, veth};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    fn port(number: u32, controller: Option<u32>) -> Link {
        Link {
            mac: Some(MAC.0),
            controller,
            ..veth(number, &format!("veth{number}"), None, None)
        }
    }

    fn made_as(name: &str, mac: MacAddr) -> Port {
        Port {
            name: name.to_owned(),
            mac,
        }
    }

    #[test]
    fn the_results_of_the_bridge_plugin_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let result = |bridge: &str| {
            format!(
                r#"{{"kind":"cniCacheV1","containerId":"c","ifName":"eth0","networkName":"cbr0","result":{{"cniVersion":"1.0.0",
                "interfaces":[{{"mac":"0a:00:00:00:00:01","name":"{bridge}"}},{{"mac":"02:00:00:00:00:07","name":"veth9"}},
                {{"mac":"02:00:00:00:00:08","name":"eth0","sandbox":"/var/run/netns/cni-1"}}],"ips":[]}}}}"#
            )
        };
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("cbr0-a-eth0", &result("cni0"));
        put("lab-b-eth0", &result("br-lab"));
        put("cbr0-c-eth0", "{");
        assert_eq!(made(folder.path(), "cni0"), [made_as("veth9", MAC)]);
        assert_eq!(made(&folder.path().join("none"), "cni0"), []);
    }

    #[test]
    fn only_what_is_known_for_sure_is_named() {
        let bridge = link(5, "cni0");
        let about = |links: &[Link], made: &[Port]| -> Said {
            said(|report| judge(&bridge, links, made, report))
        };
        let known = [made_as("veth9", MAC)];
        assert_eq!(about(&[port(9, Some(5))], &known), Said::new());
        // Somebody else's, which has the name of one that is gone.
        assert_eq!(
            about(&[port(9, None)], &[made_as("veth9", MacAddr([2; 6]))]),
            Said::new()
        );
        assert_eq!(about(&[port(9, None)], &[]), Said::new());
        let stray = odd(
            "veth9 is the port of a pod that was put on cni0, and is not on it any more: the pod reaches nobody",
            "ip link set veth9 master cni0, and find out who took it off",
        );
        assert_eq!(about(&[port(9, None)], &known), stray);
        assert_eq!(about(&[port(9, Some(6))], &known), stray);
    }

    #[test]
    fn a_few_are_named() {
        let links: Vec<Link> = (1..=5).map(|n| port(n, None)).collect();
        let made: Vec<Port> = links.iter().map(|link| made_as(&link.name, MAC)).collect();
        let said = said(|report| judge(&link(9, "cni0"), &links, &made, report));
        assert_eq!(said.len(), NAMED + 1);
        assert!(said[NAMED].1.starts_with("2 more ports"), "{said:?}");
    }
}
