//! What the kernel answered, in words an operator can act on.

use std::io;

use nix::errno::Errno;

use crate::base::open_files;

/// A failed netlink, ethtool or sysctl request.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No netlink socket, so nothing about the network can be read or changed.
    #[error("cannot open a netlink socket: {0}{hint}", hint = open_files::hint_at(.0))]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("cannot {action}: {errno}{}", hint(*errno))]
    Refused {
        /// What was tried, as a phrase that follows "cannot".
        action: String,
        errno: Errno,
    },
    /// The request did not reach the kernel, or the answer could not be read.
    #[error("cannot {action}: {reason}")]
    Failed { action: String, reason: String },
    /// A file of ours that is not what we wrote.
    #[error("cannot read {file}: {reason}; delete it, what {lost} is lost")]
    Damaged {
        file: String,
        reason: String,
        /// What it says and nothing else does.
        lost: &'static str,
    },
    /// A device that has to exist does not.
    #[error("there is no network interface {0:?}")]
    NoInterface(String),
    #[error(
        "this kernel has no WireGuard devices, which the backend wireguard needs: load the module (modprobe wireguard) on the host, \
         boot a kernel with CONFIG_WIREGUARD, or give the network another backend (vxlan)"
    )]
    NoWireGuard,
}

/// How a request ended when "it is so already" and "it is gone already" are fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// `EEXIST` on a creation.
    Exists,
    /// `ENOENT`, `ENODEV`, `ESRCH` or `EADDRNOTAVAIL`: the object of the request is not there.
    Missing,
}

impl NetError {
    pub(crate) fn refused(action: impl Into<String>, errno: Errno) -> Self {
        Self::Refused {
            action: action.into(),
            errno,
        }
    }

    pub(crate) fn io(action: impl Into<String>, error: &io::Error) -> Self {
        let action = action.into();
        match error.raw_os_error() {
            Some(code) => Self::refused(action, Errno::from_raw(code)),
            None => Self::Failed {
                action,
                reason: error.to_string(),
            },
        }
    }

    pub(crate) fn netlink(action: impl Into<String>, error: &rtnetlink::Error) -> Self {
        let action = action.into();
        match errno(error) {
            Some(errno) => Self::Refused { action, errno },
            None => Self::Failed {
                action,
                reason: error.to_string(),
            },
        }
    }

    /// The kernel's error number, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Open(error) => error.raw_os_error().map(Errno::from_raw),
            Self::Failed { .. }
            | Self::Damaged { .. }
            | Self::NoInterface(_)
            | Self::NoWireGuard => None,
        }
    }

    /// Whether this process may not, and will not tomorrow.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let errno = self.errno();
        matches!(errno, Some(Errno::EROFS | Errno::EACCES | Errno::EPERM))
    }

    /// Whether it is no answer to what was asked: something is short for now, or nobody answered. What was known before may well be
    /// true still.
    #[must_use]
    pub fn is_no_answer(&self) -> bool {
        match self.errno() {
            Some(errno) => matches!(
                errno,
                Errno::EMFILE
                    | Errno::ENFILE
                    | Errno::ENOMEM
                    | Errno::ENOBUFS
                    | Errno::EAGAIN
                    | Errno::EINTR
                    | Errno::EBUSY
                    | Errno::ETIMEDOUT
            ),
            None => matches!(self, Self::Failed { .. }),
        }
    }
}

/// Sorts the kernel's answer into done, exists, missing, or a real failure.
pub(crate) fn outcome(
    action: impl Into<String>,
    result: Result<(), rtnetlink::Error>,
) -> Result<Outcome, NetError> {
    let error = match result {
        Ok(()) => return Ok(Outcome::Done),
        Err(error) => error,
    };
    match errno(&error) {
        Some(Errno::EEXIST) => Ok(Outcome::Exists),
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL) => {
            Ok(Outcome::Missing)
        }
        _ => Err(NetError::netlink(action, &error)),
    }
}

/// Netlink carries negative error numbers; 0 is an acknowledgement and never an error here.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            message.code.map(|code| Errno::from_raw(-code.get()))
        }
        _ => None,
    }
}

const fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            " (the agent needs CAP_NET_ADMIN in the host's network namespace)"
        }
        Errno::EOPNOTSUPP => " (this kernel is built without it)",
        Errno::ENOBUFS | Errno::ENOMEM => " (the kernel is out of memory)",
        Errno::EBUSY => " (something else holds it)",
        // Of requests nothing else says so; see `bound`.
        Errno::ETIMEDOUT => " (the kernel does not answer; it is asked again)",
        Errno::EADDRINUSE => " (something else on the node has the UDP port)",
        _ => open_files::hint(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use netlink_packet_core::ErrorMessage;

    use super::*;

    fn kernel_says(errno: Errno) -> Result<(), rtnetlink::Error> {
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(-(errno as i32));
        Err(rtnetlink::Error::NetlinkError(message))
    }

    #[test]
    fn existing_and_missing_objects_are_no_failures() {
        let sort = |errno| outcome("add a link", kernel_says(errno)).unwrap();
        assert_eq!(sort(Errno::EEXIST), Outcome::Exists);
        for gone in [
            Errno::ENOENT,
            Errno::ENODEV,
            Errno::ESRCH,
            Errno::EADDRNOTAVAIL,
        ] {
            assert_eq!(sort(gone), Outcome::Missing);
        }
    }

    #[test]
    fn too_many_open_files_have_a_way_out() {
        let error = outcome("list links", kernel_says(Errno::EMFILE)).unwrap_err();
        let socket = NetError::Open(io::Error::from(Errno::EMFILE));
        for text in [error.to_string(), socket.to_string()] {
            assert!(text.contains("LimitNOFILE="), "{text}");
        }
    }

    #[test]
    fn a_missing_capability_is_named() {
        let error = outcome("create flannel.1", kernel_says(Errno::EPERM)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("create flannel.1"), "{text}");
        assert!(text.contains("CAP_NET_ADMIN"), "{text}");
    }
}
