//! A CNI network for container runtimes, from the lease: what flannel's own CNI plugin hands to `bridge`
//! and `host-local`, written down, so that the flannel plugin is not needed.

pub mod bridge;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use crate::files;
use crate::subnet_env::SubnetEnv;

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

/// The network's text: `bridge` with `host-local` in the node's subnet, and `portmap`.
#[must_use]
pub fn conflist(env: &SubnetEnv) -> String {
    let network = json!({
        "name": NAME,
        "cniVersion": VERSION,
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge::NAME,
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

/// Replaces the network's file in `folder` as a whole, unless it says the same already. Returns whether it
/// was written.
///
/// # Errors
/// A folder that is missing or cannot be written.
pub fn write(folder: &Path, env: &SubnetEnv) -> anyhow::Result<bool> {
    let (path, text) = (path(folder), conflist(env));
    // Runtimes read the file again whenever it changes.
    if std::fs::read(&path).is_ok_and(|held| held == text.as_bytes()) {
        return Ok(false);
    }
    files::replace_in_new_folder(&path, text.as_bytes()).with_context(|| {
        format!(
            "cannot write the CNI network {}: give a writable folder with --cni-conf-dir",
            path.display()
        )
    })?;
    Ok(true)
}
