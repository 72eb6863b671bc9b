//! A CNI network for container runtimes, from the lease: what flannel's own CNI plugin hands to `bridge`
//! and `host-local`, written down, so that the flannel plugin is not needed.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::base::files;
use crate::flannel::subnet_env::SubnetEnv;

/// As flannel's manifest names it: a node must not have both, runtimes take the first in the folder.
const FILE: &str = "10-flannel.conflist";
/// As flannel's manifest has it. host-local keeps its leases under this name, so pods that got their
/// address by way of flannel's plugin keep it.
const NAME: &str = "cbr0";
/// The oldest version that runtimes in use understand, and the plugins of every distribution.
const VERSION: &str = "0.3.1";

/// Where the network's file belongs.
#[must_use]
pub fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// The network's text: `bridge` (the plugin, on the device of this name) with `host-local` in the node's subnet, and `portmap`.
#[must_use]
pub fn conflist(env: &SubnetEnv, bridge: &str) -> String {
    let network = json!({
        "name": NAME,
        "cniVersion": VERSION,
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "mtu": env.mtu,
                "isGateway": true,
                "isDefaultGateway": true,
                "hairpinMode": true,
                // Only one of the two may do it.
                "ipMasq": !env.ip_masq,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": env.subnet }]],
                    "routes": [{ "dst": env.network }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{network:#}\n")
}

/// Whether the network's file in `folder` is one that [`write`] made, for this subnet as far as it is known: its
/// text is to the byte what we would write, which nobody else does.
#[must_use]
pub fn is_ours(
    folder: &Path,
    bridge: &str,
    network: Option<Ipv4Net>,
    subnet: Option<Ipv4Net>,
) -> bool {
    let Ok(text) = std::fs::read_to_string(path(folder)) else {
        return false;
    };
    let Some(env) = read_back(&text) else {
        return false;
    };
    conflist(&env, bridge) == text
        && network.is_none_or(|network| network == env.network)
        && subnet.is_none_or(|subnet| subnet == env.subnet)
}

/// What the text was made from, if we made it.
fn read_back(text: &str) -> Option<SubnetEnv> {
    let network: Value = serde_json::from_str(text).ok()?;
    let bridge = network.pointer("/plugins/0")?;
    let net = |pointer| bridge.pointer(pointer)?.as_str()?.parse().ok();
    Some(SubnetEnv {
        network: net("/ipam/routes/0/dst")?,
        subnet: net("/ipam/ranges/0/0/subnet")?,
        mtu: bridge.get("mtu")?.as_u64()?.try_into().ok()?,
        ip_masq: !bridge.get("ipMasq")?.as_bool()?,
    })
}

/// Whether the network's file in `folder` says what it should. Runtimes read it again whenever it changes.
#[must_use]
pub fn is_written(folder: &Path, bridge: &str, env: &SubnetEnv) -> bool {
    std::fs::read(path(folder)).is_ok_and(|held| held == conflist(env, bridge).as_bytes())
}

/// Replaces the network's file in `folder` as a whole, unless it says the same already. Returns whether it
/// was written.
///
/// # Errors
/// A folder that is missing or cannot be written.
pub fn write(folder: &Path, bridge: &str, env: &SubnetEnv) -> anyhow::Result<bool> {
    if is_written(folder, bridge, env) {
        return Ok(false);
    }
    let (path, text) = (path(folder), conflist(env, bridge));
    files::replace_in_new_folder(&path, text.as_bytes()).with_context(|| {
        format!(
            "cannot write the CNI network {}: give a writable folder with --cni-conf-dir",
            path.display()
        )
    })?;
    Ok(true)
}
