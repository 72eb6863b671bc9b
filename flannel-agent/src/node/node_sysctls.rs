//! Sysctls that belong to the whole node: changed with a memory of what they were, and given back.
//!
//! Several agents may run on one node, and each wants the same setting. They share a small file: who wants
//! what, and what was there before the first of them came. The last one out puts it back. Sysctls live as
//! long as the kernel runs, so a file of an earlier boot says nothing.

mod ledger;
mod lock;
mod ports;

fn damaged(path: &Path, error: &impl ToString) -> NetError {
    NetError::Damaged {
        file: path.display().to_string(),
        reason: error.to_string(),
        lost: "the sysctls were before",
    }
}

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use serde::Serialize;

use crate::base::files;
use crate::node::net::{NetError, connections, namespace, sysctl};
use ledger::Ledger;
pub use ledger::{Reserved, Wish};
use lock::Turn;
pub use ports::PortSet;

/// The lock, and the place among this process's own that comes before it. They end in this order.
struct Held {
    turn: Turn,
    _place: MutexGuard<'static, ()>,
}

/// Connections that were fast go on as others do, or a rule that drops what is INVALID ends them all.
fn stay_liberal() {
    match connections::stay_liberal() {
        Ok(count) => tracing::info!(
            "conntrack minds the windows of new TCP connections again, but not of the {count} that it has"
        ),
        Err(error) => tracing::warn!(
            "{error}: connections that were fast may stand still where a rule drops what is INVALID; nf_conntrack_netlink is the module \
             to load next time"
        ),
    }
}

/// Each network namespace has sysctls of its own, and agents in several may be given the same folder.
fn file(namespace: u64) -> String {
    format!("sysctls-{namespace}.json")
}

/// Paths below `/proc/sys`, and what a network wants of each.
pub type Wishes = BTreeMap<String, Wish>;

/// `net.ipv4.ip_local_reserved_ports`: ports that the kernel gives to nobody who does not ask for them by number.
pub const RESERVED_PORTS: &str = "net/ipv4/ip_local_reserved_ports";

/// 0: conntrack minds segments outside of the windows of TCP that it has seen.
pub const LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";

/// What is to be done about a network's wishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Not entered, or entered and undone by somebody.
    pub unmet: Wishes,
    /// Entered for an earlier wish.
    pub unwanted: BTreeSet<String>,
}

/// One network's part of the node's shared sysctls.
#[derive(Debug, Clone)]
pub struct NodeSysctls {
    folder: PathBuf,
    network: String,
}

impl NodeSysctls {
    /// `folder` is the same for all agents of a node; those in other network namespaces have other files there.
    #[must_use]
    pub fn new(folder: &Path, network: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            network: network.to_owned(),
        }
    }

    /// Compares what is wanted with file and kernel. A sysctl that this kernel does not have (conntrack
    /// is a module) is not missed.
    ///
    /// # Errors
    /// If the file or a sysctl is there and cannot be read.
    pub fn difference(&self, wishes: &Wishes) -> Result<Difference, NetError> {
        let ledger = self.read()?;
        let mut difference = Difference {
            unwanted: ledger.entered(&self.network),
            ..Difference::default()
        };
        for (key, wish) in wishes {
            difference.unwanted.remove(key);
            let Some(current) = sysctl::read(key)? else {
                continue;
            };
            if !ledger.holds(key, &self.network, wish, &current) {
                difference.unmet.insert(key.clone(), wish.clone());
            }
        }
        Ok(difference)
    }

    /// For whom ports are reserved on this node.
    ///
    /// # Errors
    /// If the file or the sysctl is there and cannot be read.
    pub fn reserved_ports(&self) -> Result<Reserved, NetError> {
        let current = sysctl::read(RESERVED_PORTS)?.unwrap_or_default();
        Ok(self
            .read()?
            .reserved(RESERVED_PORTS, &self.network, &current))
    }

    /// What a sysctl is that networks of ours have a value for, or what it was before them.
    ///
    /// # Errors
    /// If the file or the sysctl is there and cannot be read.
    pub fn without_ours(&self, key: &str) -> Result<Option<String>, NetError> {
        let Some(current) = sysctl::read(key)? else {
            return Ok(None);
        };
        Ok(Some(self.read()?.without_ours(key, &current)))
    }

    /// Sets a sysctl for this network, and remembers what it was. Blocks while another agent does the same, for two seconds at most.
    ///
    /// # Errors
    /// If file or sysctl cannot be read or written.
    pub fn claim(&self, key: &str, wish: &Wish) -> Result<(), NetError> {
        let _turn = self.lock()?;
        let Some(current) = sysctl::read(key)? else {
            return Ok(());
        };
        let mut ledger = self.read()?;
        let value = ledger.claim(key, &self.network, wish, &current);
        // First the memory: whoever dies in between has changed nothing.
        self.write(&ledger)?;
        sysctl::set(key, &value).map(|_| ())
    }

    /// Takes this network's wish back. Returns whether there was one. Blocks as [`Self::claim`] does.
    ///
    /// # Errors
    /// If file or sysctl cannot be read or written.
    pub fn release(&self, key: &str) -> Result<bool, NetError> {
        let held = self.lock()?;
        let mut ledger = self.read()?;
        let current = sysctl::read(key)?.unwrap_or_default();
        let released = ledger.release(key, &self.network, &current);
        if let Some(value) = &released {
            if key == LIBERAL && *value != current {
                stay_liberal();
            }
            sysctl::set(key, value)?;
            self.write(&ledger)?;
        }
        if ledger.is_empty() {
            let ended = held.turn.end_for_good();
            ended.map_err(|error| NetError::io("remove the lock file", &error))?;
        }
        Ok(released.is_some())
    }

    /// Makes another network's wishes this one's. Blocks as [`Self::claim`] does.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn inherit(&self, from: &str) -> Result<(), NetError> {
        let _turn = self.lock()?;
        let mut ledger = self.read()?;
        match ledger.inherit(from, &self.network) {
            true => self.write(&ledger),
            false => Ok(()),
        }
    }

    fn path(&self) -> Result<PathBuf, NetError> {
        Ok(self.folder.join(file(namespace()?)))
    }

    /// One agent at a time, and of an agent's networks one after the other: those wait for as long as it takes, and only for somebody else
    /// is patience limited.
    fn lock(&self) -> Result<Held, NetError> {
        static QUEUE: Mutex<()> = Mutex::new(());
        // It guards nothing that a panic could have left half done.
        let place = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.folder);
        made.map_err(|error| NetError::io(format!("make {}", self.folder.display()), &error))?;
        let turn = Turn::take(&self.path()?.with_extension("lock"), lock::PATIENCE)?;
        Ok(Held {
            turn,
            _place: place,
        })
    }

    fn read(&self) -> Result<Ledger, NetError> {
        let path = self.path()?;
        let boot = sysctl::boot_id()?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::new(boot)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(damaged(&path, &error));
            }
            Err(error) => return Err(NetError::io(format!("read {}", path.display()), &error)),
        };
        Ledger::parse(&text, boot).map_err(|error| damaged(&path, &error))
    }

    /// The last one out leaves no file.
    fn write(&self, ledger: &Ledger) -> Result<(), NetError> {
        let path = self.path()?;
        let written = if ledger.is_empty() {
            match std::fs::remove_file(&path) {
                Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
                removed => removed,
            }
        } else {
            files::replace_private(&path, ledger.text().as_bytes())
        };
        written.map_err(|error| NetError::io(format!("write {}", path.display()), &error))
    }
}
