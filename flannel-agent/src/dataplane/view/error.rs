//! What can go wrong with reading what is pinned.

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

/// The system's error behind aya's, where there is one.
pub(super) fn unreadable(path: &Path, error: MapError) -> ViewError {
    match error {
        MapError::SyscallError(error) => unreadable_io(path, error.io_error),
        other => unreadable_io(path, io::Error::other(other)),
    }
}

pub(super) fn unreadable_io(path: &Path, error: io::Error) -> ViewError {
    // EPERM: no CAP_BPF; EACCES: the file system is root's.
    if error.kind() == io::ErrorKind::PermissionDenied {
        return ViewError::NotAllowed(path.to_owned());
    }
    ViewError::Unreadable {
        path: path.to_owned(),
        error,
    }
}
