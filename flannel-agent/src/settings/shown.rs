//! The settings that a node shows, by their flags: for whoever asks whether the agent that runs has the same.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::Config;

impl Config {
    /// Each with its value, whose form means nothing. Without those that only say whom to ask, and without secrets.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<String, String> {
        let (uplink, path) = (&self.uplink, &self.fast_path);
        let regexes = || {
            let regexes = uplink.regexes.iter();
            regexes.map(|regex| regex.as_str()).collect::<Vec<_>>()
        };
        let mut shown = BTreeMap::new();
        let mut put = |name: &str, value: &dyn Debug| {
            shown.insert(format!("--{name}"), format!("{value:?}"));
        };
        put("iface", &uplink.interfaces);
        put("iface-regex", &regexes());
        put("iface-can-reach", &uplink.can_reach);
        put("public-ip", &uplink.public_ip);
        put("subnet-file", &self.subnet_file);
        put("cni-conf-dir", &self.cni_conf_dir);
        put("iptables-forward-rules", &self.forward_rules);
        put("ip-blackhole-route", &self.blackhole);
        put("bpffs", &self.bpffs);
        put("ebpf-object", &self.ebpf_object);
        put("source-check", &self.source_check);
        put("tunnel-firewall", &self.asks_firewall);
        put("fast-path", &path.mode);
        put("pod-hook", &path.hook);
        put("xdp", &path.xdp);
        put("gro", &path.gro);
        put("pod-bridge", &path.bridge);
        put("flow-entries", &self.flow_entries);
        put("ip-masq", &self.snat.is_some());
        if let Some(snat) = &self.snat {
            put("snat-ports", &snat.ports);
            put("ip-masq-fully-random-disable", &snat.keeps_ports);
            put("snat-exempt", &snat.exempt);
            put("snat-entries", &self.snat_entries);
        }
        shown
    }
}

/// The flags of which both say something, and not the same.
#[must_use]
pub fn differing(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let differs = |(name, value): &(&String, &String)| {
        let others = other.get(*name);
        others.is_some_and(|others| others != *value)
    };
    let names = one.iter().filter(differs).map(|(name, _)| name.clone());
    names.collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::flags::Flags;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn shown(flags: &[&str]) -> BTreeMap<String, String> {
        let cli = Cli::try_parse_from([&["agent"], flags].concat()).unwrap();
        Config::new(&cli.flags).unwrap().shown()
    }

    #[test]
    fn settings_that_differ_are_named_by_their_flags() {
        let differ = |one: &[&str], other: &[&str]| differing(&shown(one), &shown(other));
        assert_eq!(differ(&[], &[]), [""; 0]);
        assert_eq!(differ(&["--iface=a"], &["--iface=a"]), [""; 0]);
        assert_eq!(differ(&[], &["--fast-path=off"]), ["--fast-path"]);
        assert_eq!(
            differ(&["--iface=a"], &["--iface=b", "--source-check=off"]),
            ["--iface", "--source-check"]
        );
        // That there are ports says nothing more.
        assert_eq!(differ(&["--ip-masq"], &[]), ["--ip-masq"]);
        let other = ["--ip-masq", "--snat-ports=50000-60000"];
        assert_eq!(differ(&["--ip-masq"], &other), ["--snat-ports"]);
        // Whom to ask shows nowhere on the node.
        assert_eq!(
            differ(&["--etcd-endpoints=http://192.0.2.1:2379"], &[]),
            [""; 0]
        );
    }
}
