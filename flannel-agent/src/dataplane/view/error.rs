//! What can go wrong with reading what is pinned.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use flannel_common::maps::LAYOUT_VERSION;

/// Why something pinned could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("may not look at {}: run it as root (with CAP_BPF, CAP_NET_ADMIN and CAP_DAC_OVERRIDE)", .0.display())]
    NotAllowed(PathBuf),
    #[error(
        "no network has anything pinned under {}: no agent has run since the node started, or its BPF \
         file system is elsewhere (--bpffs)", .0.display()
    )]
    Nothing(PathBuf),
    #[error("no network {wanted:?} under {}: there {}", .folder.display(), list(.found))]
    NoSuchNetwork {
        wanted: String,
        folder: PathBuf,
        found: Vec<String>,
    },
    #[error("several networks are on this node: choose with --network one of {}", .0.join(", "))]
    Several(Vec<String>),
    #[error(
        "{} has layout {}, and this program reads v{LAYOUT_VERSION}: use the flannel-agent that runs on this node",
        .folder.display(), .found.join(", ")
    )]
    OtherLayout { folder: PathBuf, found: Vec<String> },
    #[error("{} is not there: {}", .0.display(), missing(.0))]
    NotPinned(PathBuf),
    #[error("cannot read {}: {error}", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

fn list(found: &[String]) -> String {
    match found {
        [one] => format!("is {one}"),
        several => format!("are {}", several.join(", ")),
    }
}

/// Why a pin is not there: all maps of a network are pinned at once.
fn missing(pin: &Path) -> &'static str {
    let others = pin.parent().and_then(|folder| folder.read_dir().ok());
    match others.is_some_and(|mut others| others.next().is_some()) {
        true => {
            "somebody has removed it, and others are there; an agent that runs pins it again within seconds, with all that it \
             holds, one that is started makes it anew"
        }
        false => {
            "a host-gw network has no maps (see `routes`); else the agent has not got that far, or somebody has removed them, \
             and an agent that runs pins them again within seconds"
        }
    }
}

/// The system's error behind aya's, where there is one.
pub(super) fn unreadable(path: &Path, error: MapError) -> ViewError {
    match error {
        MapError::SyscallError(error) => unreadable_io(path, error.io_error),
        other => unreadable_io(path, io::Error::other(other)),
    }
}

pub(super) fn unreadable_io(path: &Path, error: io::Error) -> ViewError {
    // EPERM: no CAP_BPF; EACCES: the file system is root's.
    match kind(&error) {
        io::ErrorKind::PermissionDenied => ViewError::NotAllowed(path.to_owned()),
        io::ErrorKind::NotFound => ViewError::NotPinned(path.to_owned()),
        _ => ViewError::Unreadable {
            path: path.to_owned(),
            error,
        },
    }
}

/// What the system said, however deep aya has wrapped it.
fn kind(error: &io::Error) -> io::ErrorKind {
    let mut inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    while let Some(cause) = inner {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return cause.kind();
        }
        inner = cause.source();
    }
    error.kind()
}
