//! Several networks in one daemon: which, and where each has its files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::ConfigError;
use super::flags::Flags;
use super::values::{absolute, bridge};
use crate::node::mark;

/// What stands for a network's name in `--pod-bridge`.
const NAME: &str = "{network}";
/// Keys of the network that has none of these names are there.
const TAKEN: [&str; 2] = ["config", "subnets"];
pub(super) const FIX_NAME: &str = "give names such as blue,green";
/// As long as a DNS label.
const LONGEST: usize = 63;

/// The networks of a daemon that serves several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    /// With `watch` those that may come and go; then none: all may.
    pub names: Vec<String>,
    pub watch: bool,
    pub(super) subnet_dir: PathBuf,
}

impl Networks {
    /// `None`: the daemon serves the one network that has no name.
    pub(super) fn new(flags: &Flags) -> Result<Option<Self>, ConfigError> {
        let given = &flags.several.networks;
        let names = given.split(',').map(str::trim).filter(|n| !n.is_empty());
        let names: Vec<String> = names.map(str::to_owned).collect();
        let watch = flags.several.watch_networks;
        if names.is_empty() && !watch {
            return Ok(None);
        }
        let unusable = |problem, fix| {
            Err(match names.is_empty() {
                true => ConfigError::new("watch-networks", "true", problem, fix),
                false => ConfigError::new("networks", given, problem, fix),
            })
        };
        if flags.kube_subnet_mgr {
            return unusable(
                "a Kubernetes cluster is one network".to_owned(),
                "leave it out, or --kube-subnet-mgr",
            );
        }
        if !flags.listen.is_empty() {
            return unusable(
                "a server (--listen) has all networks below --etcd-prefix".to_owned(),
                "leave it out",
            );
        }
        if !flags.cni_conf_dir.is_empty() {
            return unusable(
                "--cni-conf-dir writes one CNI network, and there are several".to_owned(),
                "leave --cni-conf-dir out, and write a CNI network of the plugin flannel for each, with its subnetFile",
            );
        }
        let mut known = BTreeMap::new();
        for name in &names {
            if let Err(why) = check_name(name) {
                return unusable(why, FIX_NAME);
            }
            if let Some(other) = known.insert(mark::network_name(name), name) {
                let why = format!("{other} and {name} are one name to the bpf file system");
                return unusable(why, "give networks names that differ in letters and digits");
            }
        }
        for name in &names {
            bridge_of(&flags.pod_bridge, name)?;
        }
        let subnet_dir = absolute(
            "subnet-dir",
            &flags.several.subnet_dir,
            "leave the flag out for /run/flannel/networks",
        )?;
        Ok(Some(Self {
            names,
            watch,
            subnet_dir,
        }))
    }

    /// Whether the daemon serves a network of this name, once it is there.
    pub(crate) fn allow(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|named| named == name)
    }
}

/// Names are parts of keys in etcd and of file names, words of labels and lists.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || !name.chars().all(plain) {
        return Err(format!(
            "{name:?} is no name of a network: letters, digits, dash, dot and underscore, the first a letter or digit"
        ));
    }
    if name.len() > LONGEST {
        return Err(format!("{name} is longer than {LONGEST} characters"));
    }
    if TAKEN.contains(&name) {
        return Err(format!(
            "{name} is where a network without a name has its own keys"
        ));
    }
    Ok(())
}

/// The bridge as it was given; with a name to come it is looked at once that is there.
pub(super) fn pod_bridge(flags: &Flags) -> Result<String, ConfigError> {
    let given = &flags.pod_bridge;
    match given.contains(NAME) {
        true => Ok(given.clone()),
        false => bridge(given),
    }
}

pub(super) fn bridge_of(given: &str, name: &str) -> Result<String, ConfigError> {
    bridge(&given.replace(NAME, name))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("blue", true)]
    #[case("net-2.b_c", true)]
    #[case("", false)]
    #[case(".hidden", false)]
    #[case("a/b", false)]
    #[case("_", false)]
    #[case("config", false)]
    #[case("subnets", false)]
    #[case("grün", false)]
    fn names(#[case] name: &str, #[case] usable: bool) {
        assert_eq!(check_name(name).is_ok(), usable, "{name}");
    }
}
