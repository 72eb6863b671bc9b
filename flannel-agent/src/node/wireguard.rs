//! The node's key for the backend wireguard, where flanneld has it: so a node keeps it when one gives way to the other.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::base::files;
use crate::base::key::{PrivateKey, PublicKey};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::LeaseAttrs;
use crate::node::mark;
use crate::node::net::{Kind, Link, NetError, Netlink, wireguard};

/// The device, as flanneld names it.
pub const DEVICE: &str = "flannel-wg";

/// Names another key file, as for flanneld.
const VARIABLE: &str = "WIREGUARD_KEY_FILE";
const FILE: &str = "/run/flannel/wgkey";

/// A key of this node, and whether it is in the file.
#[derive(Debug)]
struct Found {
    key: PrivateKey,
    kept: bool,
}

fn file() -> PathBuf {
    let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    named.map_or_else(|| FILE.into(), PathBuf::from)
}

/// The key that this node has; `None`: none yet.
///
/// # Errors
/// A file that holds none, or a kernel that does not answer.
pub(crate) async fn known(net: &Netlink) -> anyhow::Result<Option<PrivateKey>> {
    Ok(find(net, &file()).await?.map(|found| found.key))
}

/// The same, and a new one where there is none. It is in the file then, over the next restart.
///
/// # Errors
/// As [`known`], a file that cannot be written, or a kernel without WireGuard.
pub(crate) async fn obtain(net: &Netlink) -> anyhow::Result<PrivateKey> {
    if !wireguard::is_there()? {
        return Err(NetError::NoWireGuard.into());
    }
    let file = file();
    let found = find(net, &file).await?.unwrap_or_else(|| Found {
        key: PrivateKey::generate(),
        kept: false,
    });
    if !found.kept {
        write(&file, &found.key)?;
    }
    Ok(found.key)
}

/// The key that a node's own lease says, where its backend has one.
///
/// # Errors
/// A lease that says none.
pub(crate) fn published(
    network: &NetworkConfig,
    own: &LeaseAttrs,
) -> anyhow::Result<Option<PublicKey>> {
    if network.backend.wireguard().is_none() {
        return Ok(None);
    }
    let data = own.wireguard_data().map_err(anyhow::Error::msg);
    let data = data.context("this node's own lease is damaged")?;
    Ok(Some(data.public_key))
}

/// Where somebody removed the file, the device still has what is published.
async fn find(net: &Netlink, file: &Path) -> anyhow::Result<Option<Found>> {
    if let Some(key) = read(file)? {
        return Ok(Some(Found { key, kept: true }));
    }
    let device = net.link(DEVICE).await?;
    if !device.is_some_and(|link| may_lend_its_key(&link)) {
        return Ok(None);
    }
    let state = wireguard::read(DEVICE)?;
    let key = state.and_then(|state| state.private_key);
    Ok(key.map(|key| Found { key, kept: false }))
}

/// flanneld's device, which has no alias, or one of ours. Somebody else's key is not ours to publish.
fn may_lend_its_key(link: &Link) -> bool {
    let is_wireguard = matches!(&link.kind, Kind::Other(kind) if kind == "wireguard");
    is_wireguard && (link.alias.is_none() || mark::network_of(link).is_some())
}

fn read(file: &Path) -> anyhow::Result<Option<PrivateKey>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the key {}", file.display()));
        }
    };
    let key = text.trim().parse().map(Some);
    key.with_context(|| {
        format!(
            "{} holds no private key of WireGuard: write one (wg genkey), or remove it for a new one",
            file.display()
        )
    })
}

/// As flanneld reads it: without a line's end.
fn write(file: &Path, key: &PrivateKey) -> anyhow::Result<()> {
    files::write_secret_in_new_folder(file, key.text().as_bytes())
        .with_context(|| format!("cannot write the key {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rstest::rstest;

    use super::*;
    use crate::node::net::fixtures::link;

    #[rstest]
    #[case("wireguard", None, true)]
    #[case("wireguard", Some("flannel-ebpf:net"), true)]
    #[case("wireguard", Some("mine"), false)]
    #[case("dummy", None, false)]
    fn whose_key_is_taken(#[case] kind: &str, #[case] alias: Option<&str>, #[case] taken: bool) {
        let device = Link {
            kind: Kind::Other(kind.to_owned()),
            alias: alias.map(str::to_owned),
            ..link(7, DEVICE)
        };
        assert_eq!(may_lend_its_key(&device), taken);
    }

    #[test]
    fn what_is_written_is_flannelds_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flannel/wgkey");
        assert_eq!(read(&file).unwrap(), None);
        let key = PrivateKey::generate();
        write(&file, &key).unwrap();
        assert_eq!(read(&file).unwrap(), Some(key.clone()));
        let meta = std::fs::metadata(&file).unwrap();
        assert_eq!((meta.permissions().mode() & 0o777, meta.len()), (0o400, 44));
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, format!("{}\n", key.text())).unwrap();
        assert_eq!(read(&file).unwrap(), Some(key), "as wg genkey prints it");
    }

    #[test]
    fn what_is_no_key_is_named_by_its_file_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "almost a secret").unwrap();
        let error = format!("{:#}", read(file.path()).unwrap_err());
        assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
        assert!(!error.contains("almost"), "{error}");
    }
}
