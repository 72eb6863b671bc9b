//! What can go wrong with BPF, and what an operator does about it.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

use super::requirements::OLDEST_KERNEL;
use crate::base::causes;
use crate::base::open_files::hint_at;
use crate::node::net::Refusals;

/// A dataplane that could not be opened, loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    #[error(
        "the agent lacks {}: run it as root, or grant {} (securityContext.capabilities.add in a pod, \
         AmbientCapabilities in a systemd unit)",
        missing.join(", "),
        if missing.len() == 1 { "it" } else { "them" }
    )]
    Capabilities { missing: Vec<&'static str> },
    #[error(
        "{path}: no BPF file system is mounted here and it cannot be mounted ({error}): \
         mount it on the host (mount -t bpf bpf {path}), or name another folder with --bpffs",
        path = path.display()
    )]
    Bpffs { path: PathBuf, error: io::Error },
    #[error("{}: {error}{}", path.display(), hint_at(error))]
    Pin { path: PathBuf, error: io::Error },
    #[error(
        "cannot open what is pinned as {}, which stays as it is: {error}{}",
        path.display(),
        hint_at(error)
    )]
    OpenPin { path: PathBuf, error: io::Error },
    #[error("cannot read the BPF object {}: {error}{}", path.display(), hint_at(error))]
    ReadObject { path: PathBuf, error: io::Error },
    #[error("the BPF object is not usable: {0}; build it with `cargo xtask build-ebpf`")]
    Object(String),
    #[error("cannot set up the BPF maps: {}{}", chain(.0), hint_below(.0.as_ref()))]
    Maps(#[source] Box<EbpfError>),
    #[error(
        "the kernel lacks {}; tests pass on kernel {OLDEST_KERNEL} and newer",
        missing.join(", ")
    )]
    KernelTooOld { missing: Vec<String> },
    #[error(
        "the kernel's BPF compiler (JIT) is off, and without it the kernel loads no program of ours: \
             sysctl -w net.core.bpf_jit_enable=1"
    )]
    NoJit,
    #[error(
        "the kernel does not allow the program {program}: {error}; \
             it takes CAP_BPF and CAP_NET_ADMIN in the initial user namespace"
    )]
    NotAllowed {
        program: &'static str,
        error: io::Error,
    },
    #[error(
        "no more open files are allowed while the program {program} is loaded: raise the limit for the agent to 1024 or more \
         (ulimit -n; LimitNOFILE= of systemd)"
    )]
    OpenFiles { program: &'static str },
    #[error("the kernel rejects the program {program}: {error}; the verifier says: {log}")]
    Rejected {
        program: &'static str,
        error: io::Error,
        /// The last lines, where the reason is.
        log: String,
    },
    #[error("cannot load the program {program}: {}{}", chain(.error), hint_below(error.as_ref()))]
    Load {
        program: &'static str,
        #[source]
        error: Box<ProgramError>,
    },
    #[error("cannot attach {attachment}: {}{}", chain(.error), hint_below(error.as_ref()))]
    Attach {
        attachment: String,
        #[source]
        error: Box<ProgramError>,
    },
    #[error(
        "cannot attach {attachment}: {device} has an ingress qdisc, which leaves no room for clsact; replace it: tc qdisc del \
         dev {device} ingress, and what was there as filters of clsact"
    )]
    NoRoom { attachment: String, device: String },
    #[error("cannot {action} in the map {map}: {}{}", chain(.error), hint_below(error.as_ref()))]
    Map {
        map: &'static str,
        action: &'static str,
        #[source]
        error: Box<MapError>,
    },
    #[error("the map {map} is full: it holds {capacity} peers, and the network has more nodes")]
    MapFull { map: &'static str, capacity: usize },
    #[error("{0}")]
    Routes(Refusals),
    #[error(
        "UDP port {port} is held by {holder}: end that, or give the network another Port in its config (on all nodes); \
         networks of one node that share a port need the same --gro"
    )]
    PortBusy { port: u16, holder: String },
    #[error("{0}")]
    Xdp(String),
    #[error("the programs are not loaded yet")]
    NotLoaded,
    #[error(transparent)]
    Net(#[from] crate::node::net::NetError),
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    causes::append(error.to_string(), error.source())
}

/// What an operator does about the error of the kernel that is behind another, if too many files are open.
fn hint_below(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let kernels = causes.find_map(|error| error.downcast_ref::<io::Error>());
    kernels.map_or("", hint_at)
}

impl DataplaneError {
    pub(super) fn load(program: &'static str, error: ProgramError) -> Self {
        Self::Load {
            program,
            error: Box::new(error),
        }
    }

    pub(super) fn attach(attachment: String, error: ProgramError) -> Self {
        Self::Attach {
            attachment,
            error: Box::new(error),
        }
    }

    /// An object without one of our maps.
    pub(super) fn no_map(name: &str) -> Self {
        Self::Object(format!("it has no map {name}"))
    }

    pub(super) fn map(map: &'static str, action: &'static str, error: MapError) -> Self {
        let full = matches!(
            &error,
            MapError::SyscallError(e) if matches!(
                e.io_error.raw_os_error(),
                Some(libc::E2BIG | libc::ENOSPC)
            )
        );
        if full {
            return Self::MapFull {
                map,
                capacity: flannel_common::maps::MAX_PEERS,
            };
        }
        Self::Map {
            map,
            action,
            error: Box::new(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_have_a_way_out() {
        let full = || io::Error::from_raw_os_error(libc::EMFILE);
        let syscall = || aya::sys::SyscallError {
            call: "bpf_map_create",
            io_error: full(),
        };
        let errors = [
            DataplaneError::Pin {
                path: PathBuf::from("/pin"),
                error: full(),
            },
            DataplaneError::Maps(Box::new(EbpfError::MapError(syscall().into()))),
            DataplaneError::attach("pod_tx".to_owned(), syscall().into()),
            DataplaneError::map("fl_peers", "open", syscall().into()),
        ];
        for error in errors {
            let said = error.to_string();
            assert_eq!(said.matches("LimitNOFILE=").count(), 1, "{said}");
        }
    }
}
