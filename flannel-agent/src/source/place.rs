//! Where what the datastore said holds: on which machine, as which Node of which cluster. As far as that is known while nobody answers.

use std::collections::BTreeSet;
use std::path::Path;

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde::{Deserialize, Serialize};

const MACHINE_ID: &str = "/etc/machine-id";

/// What is not known is not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// By its firmware: a copy of a disk is in another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) machine: Option<String>,
    /// By its disk, for machines without the former. (Some systems make it anew at each boot.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) machine_id: Option<String>,
    /// Of the machine's run since it was switched on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<String>,
    /// Our Node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    /// Another one after it was deleted and made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node_uid: Option<String>,
    /// Fingerprints of the cluster's authorities: while one is replaced there are two.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) authorities: BTreeSet<String>,
    /// The API server's URL, where no authority tells clusters apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<String>,
}

impl Place {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        // systemd writes `uninitialized` before the first boot, and images have an empty file.
        let read = |file| {
            let text = std::fs::read_to_string(file).ok()?;
            let text = text.trim().to_owned();
            (!text.is_empty() && text != "uninitialized").then_some(text)
        };
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            machine: read("/sys/class/dmi/id/product_uuid"),
            machine_id: read(MACHINE_ID).filter(|_| is_the_machines(is_contained(), mounts)),
            boot: read("/proc/sys/kernel/random/boot_id"),
            ..Self::default()
        }
    }

    /// Whether the machine has not been off since.
    pub(super) fn is_of_this_boot(&self, here: &Self) -> bool {
        self.boot.is_some() && self.boot == here.boot
    }

    /// What of `here` is another than in this one.
    pub(super) fn other(&self, here: &Self) -> Option<&'static str> {
        fn differ(one: Option<&String>, other: Option<&String>) -> bool {
            one.is_some() && other.is_some() && one != other
        }
        let is_known = self.machine.is_some() && here.machine.is_some();
        let machines = match is_known {
            true => differ(self.machine.as_ref(), here.machine.as_ref()),
            false => differ(self.machine_id.as_ref(), here.machine_id.as_ref()),
        };
        let (ours, theirs) = (&self.authorities, &here.authorities);
        let clusters = !ours.is_empty() && !theirs.is_empty() && ours.is_disjoint(theirs);
        if machines {
            Some("of another machine")
        } else if clusters || differ(self.server.as_ref(), here.server.as_ref()) {
            Some("of another cluster")
        } else if differ(self.node.as_ref(), here.node.as_ref()) {
            Some("of another Node")
        } else if differ(self.node_uid.as_ref(), here.node_uid.as_ref()) {
            Some("of a Node of this name that is gone: this one was made later")
        } else {
            None
        }
    }
}

/// Whether this is a container, whose own machine-id is its image's: one for all nodes, and another one with the next version.
fn is_contained() -> bool {
    // Kubernetes' and systemd's variables, Docker's and Podman's files, and what most engines have as root.
    let is_said = |name| std::env::var_os(name).is_some();
    let is_there = |file| Path::new(file).exists();
    ["KUBERNETES_SERVICE_HOST", "container"]
        .into_iter()
        .any(is_said)
        || ["/.dockerenv", "/run/.containerenv"]
            .into_iter()
            .any(is_there)
        || statfs("/").is_ok_and(|root| root.filesystem_type() == OVERLAYFS_SUPER_MAGIC)
}

/// Whether the file with the machine-id is the machine's: in a container, one of the host's that is mounted there.
fn is_the_machines(is_contained: bool, mountinfo: impl FnOnce() -> String) -> bool {
    let is_mount = |line: &str| line.split(' ').nth(4) == Some(MACHINE_ID);
    !is_contained || mountinfo().lines().any(is_mount)
}

/// Tells certificates apart (FNV-1a, 64 bits): nobody gains by making two alike.
pub(super) fn fingerprint(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn place(authorities: &[&str]) -> Place {
        let text = |text: &str| Some(text.to_owned());
        Place {
            machine: text("m"),
            machine_id: text("i"),
            boot: text("b"),
            node: text("n"),
            node_uid: text("u"),
            authorities: authorities.iter().map(|a| (*a).to_owned()).collect(),
            server: text("s"),
        }
    }

    fn changed(change: impl FnOnce(&mut Place)) -> Place {
        let mut place = place(&["a"]);
        change(&mut place);
        place
    }

    #[rstest]
    #[case::the_same(changed(|_| ()), None)]
    #[case::nothing_known(Place::default(), None)]
    #[case::after_a_reboot(changed(|p| p.boot = Some("c".to_owned())), None)]
    #[case::a_machine_id_of_this_boot(changed(|p| p.machine_id = Some("j".to_owned())), None)]
    #[case::an_authority_that_is_replaced(changed(|p| { p.authorities.insert("b".to_owned()); }), None)]
    #[case::a_copied_disk(changed(|p| p.machine = Some("c".to_owned())), Some("machine"))]
    #[case::without_firmware(changed(|p| { p.machine = None; p.machine_id = Some("j".to_owned()); }), Some("machine"))]
    #[case::joined_elsewhere(changed(|p| p.authorities = ["b".to_owned()].into()), Some("cluster"))]
    #[case::by_its_url(changed(|p| p.server = Some("t".to_owned())), Some("cluster"))]
    #[case::renamed(changed(|p| p.node = Some("o".to_owned())), Some("another Node"))]
    #[case::made_again(changed(|p| p.node_uid = Some("v".to_owned())), Some("made later"))]
    fn what_is_known_of_both_is_compared(#[case] then: Place, #[case] other: Option<&str>) {
        for (one, two) in [(&then, &place(&["a"])), (&place(&["a"]), &then)] {
            let said = one.other(two);
            match other {
                None => assert_eq!(said, None),
                Some(part) => assert!(said.unwrap().contains(part), "{said:?}"),
            }
        }
    }

    #[test]
    fn in_a_container_only_a_machine_id_that_is_mounted_is_the_machines() {
        let root = "21 1 0:40 / / rw,relatime - overlay overlay rw";
        let file = "33 21 8:1 /etc/machine-id /etc/machine-id ro,relatime - ext4 /dev/sda1 rw";
        let other = "34 21 8:1 /etc/hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw";
        let with = |mounts: &[&str]| mounts.join("\n");
        assert!(is_the_machines(true, || with(&[root, file, other])));
        assert!(!is_the_machines(true, || with(&[root, other])));
        assert!(is_the_machines(false, || with(&[root, other])));
    }

    #[test]
    fn fingerprints_are_those_of_every_version() {
        assert_eq!(fingerprint(b""), "cbf29ce484222325");
        assert_eq!(fingerprint(b"foobar"), "85944171f73967e8");
    }
}
