//! Flags of flanneld that were given and do nothing here: said once, not silently swallowed.

use super::layers::{Origin, Origins};
use crate::base::redact::without_logins;
use crate::settings::flags::Flags;

const ONLY_KUBERNETES: &str = "it concerns the Kubernetes datastore (--kube-subnet-mgr)";
const ONLY_ETCD: &str = "the Kubernetes API is the datastore (--kube-subnet-mgr)";

const NOT_AT_A_SERVER: &str = "the leases come from a server (--remote), which has etcd behind it";
const ONLY_BETWEEN_THEM: &str = "it concerns client and server (--remote, --listen)";

const ONLY_A_SERVER: &str = "it concerns a server (--listen)";

/// Each flag without effect, and why it has none.
const INERT: [(&str, &str); 3] = [
    ("public-ipv6", "IPv6 is not supported yet"),
    ("vmodule", "only -v sets the verbosity"),
    ("log_backtrace_at", "stack traces are not logged"),
];

/// Flags that only mean something with `--kube-subnet-mgr`.
const OF_KUBERNETES: [&str; 5] = [
    "kube-api-url",
    "kubeconfig-file",
    "kube-annotation-prefix",
    "net-config-path",
    "set-node-network-unavailable",
];

/// And without. `etcd-prefix` names the network's pins and devices either way.
const OF_ETCD: [&str; 6] = [
    "etcd-endpoints",
    "etcd-keyfile",
    "etcd-certfile",
    "etcd-cafile",
    "etcd-username",
    "etcd-password",
];

/// Flags that only mean something between client and server.
const OF_CLIENT_AND_SERVER: [&str; 3] = ["remote-keyfile", "remote-certfile", "remote-cafile"];

/// Flags that only mean something beside `--ip-masq`.
const WITH_IP_MASQ: [&str; 4] = [
    "ip-masq-fully-random-disable",
    "snat-exempt",
    "snat-ports",
    "snat-entries",
];

/// One sentence for each flag that somebody set and that changes nothing.
pub(super) fn notices(flags: &Flags, origins: &Origins) -> Vec<String> {
    let given = |flag: &str| origins.get(flag).filter(|o| **o != Origin::Default);
    let mut notices: Vec<String> = INERT
        .iter()
        .filter_map(|(flag, why)| {
            let origin = given(flag)?;
            Some(format!("--{flag} (from the {origin}) has no effect: {why}"))
        })
        .collect();
    let (remote, kube) = (!flags.remote.is_empty(), flags.kube_subnet_mgr);
    let mut others: Vec<(&[&str], &str)> = Vec::new();
    if !kube {
        others.push((&OF_KUBERNETES, ONLY_KUBERNETES));
    }
    if kube {
        others.push((&OF_ETCD, ONLY_ETCD));
        others.push((&["subnet-lease-renew-margin"], ONLY_ETCD));
    } else if remote {
        others.push((&OF_ETCD, NOT_AT_A_SERVER));
    }
    if flags.listen.is_empty() {
        others.push((&["remote-connections"], ONLY_A_SERVER));
    }
    if !remote && flags.listen.is_empty() {
        others.push((&OF_CLIENT_AND_SERVER, ONLY_BETWEEN_THEM));
    }
    for (flags, why) in others {
        notices.extend(flags.iter().filter_map(|flag| {
            let origin = given(flag)?;
            Some(format!("--{flag} (from the {origin}) has no effect: {why}"))
        }));
    }
    if !flags.ip_masq {
        notices.extend(WITH_IP_MASQ.iter().filter_map(|flag| {
            let origin = given(flag)?;
            Some(format!(
                "--{flag} (from the {origin}) has no effect: --ip-masq is off"
            ))
        }));
    }
    let files = match several(flags) {
        true => ("subnet-file", "each network has a file in --subnet-dir"),
        false => (
            "subnet-dir",
            "neither --networks nor --watch-networks is given",
        ),
    };
    if let Some(origin) = given(files.0) {
        let (flag, why) = files;
        notices.push(format!("--{flag} (from the {origin}) has no effect: {why}"));
    }
    if without_logins(&flags.etcd_endpoints) != flags.etcd_endpoints {
        notices.push(
            "a user name in --etcd-endpoints has no effect: give --etcd-username and FLANNELD_ETCD_PASSWORD"
                .to_owned(),
        );
    }
    notices
}

fn several(flags: &Flags) -> bool {
    !flags.several.networks.is_empty() || flags.several.watch_networks
}
