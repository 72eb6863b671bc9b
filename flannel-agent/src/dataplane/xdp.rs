//! The program at the uplink's driver: a pinned XDP link, one per device.
//!
//! Native mode only: generic XDP runs behind GRO, where taking the outer headers off gains nothing.

use std::io;

use aya::programs::links::{FdLink, LinkError, LinkType, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpError, XdpMode};
use nix::errno::Errno;

use super::bpffs::Pins;
use super::chain;
use super::hooks::Target;
use super::{DataplaneError, error};
use crate::node::net::Link;

/// Why a device runs without XDP, and what it looked like then: asked again when that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    index: u32,
    mtu: u32,
    /// The XDP program that was there.
    other: Option<u32>,
}

impl Refusal {
    pub(super) fn by(link: &Link) -> Self {
        Self {
            index: link.index,
            mtu: link.mtu,
            other: link.xdp_program,
        }
    }

    /// Whether nothing has changed since.
    pub(super) fn holds(&self, links: &[Link]) -> bool {
        links.iter().any(|link| *self == Self::by(link))
    }
}

/// The program that our pinned link runs at `link`'s driver.
///
/// # Errors
/// If the link is there and cannot be looked at. Taken for absent it would be in its own way: a device has one program.
pub(super) fn pinned_program(
    target: &Target<'_>,
    pins: &Pins,
    link: &Link,
) -> Result<Option<u32>, DataplaneError> {
    let path = pins.link(&target.pin_name());
    let unread = |error: LinkError| DataplaneError::Pin {
        path: path.clone(),
        error: match error {
            LinkError::SyscallError(error) => error.io_error,
            other => io::Error::other(error::chain(&other)),
        },
    };
    let pinned = match PinnedLink::from_pin(&path) {
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        pinned => pinned.map_err(unread)?,
    };
    let info = FdLink::from(pinned).info().map_err(unread)?;
    let is_xdp = info.link_type().is_ok_and(|kind| kind == LinkType::Xdp);
    let live = is_xdp && link.xdp_program == Some(info.program_id());
    Ok(live.then(|| info.program_id()))
}

/// Puts `program` at the driver, or under the link of ours that is there.
pub(super) fn attach(
    program: &mut Xdp,
    target: &Target<'_>,
    pins: &Pins,
    link: &Link,
) -> Result<(), DataplaneError> {
    let path = pins.link(&target.pin_name());
    let failed = |error: ProgramError| DataplaneError::Xdp(reason(&error, link));
    let other = |error: String| DataplaneError::Pin {
        path: path.clone(),
        error: std::io::Error::other(error),
    };
    if pinned_program(target, pins, link)?.is_some() {
        let pinned = PinnedLink::from_pin(&path).map_err(|e| other(error::chain(&e)))?;
        let live = XdpLink::try_from(FdLink::from(pinned)).map_err(|e| other(error::chain(&e)))?;
        let id = program.attach_to_link(live).map_err(failed)?;
        // The pin keeps the link; closing ours changes nothing.
        drop(program.take_link(id).map_err(failed)?);
        return Ok(());
    }
    let id = program
        .attach_to_if_index(link.index, XdpMode::Driver)
        .map_err(failed)?;
    let attached = program.take_link(id).map_err(failed)?;
    // Before 5.9 aya attaches without a link, and what is dropped here is detached.
    let fd = FdLink::try_from(attached)
        .map_err(|_| DataplaneError::Xdp("the kernel has no XDP links (before 5.9)".to_owned()))?;
    chain::succeed(fd, &path)
}

/// In an operator's words: the kernel says no more than a number.
fn reason(error: &ProgramError, link: &Link) -> String {
    let Link { name, mtu, .. } = link;
    let errno = errno(error);
    match errno {
        Some(Errno::EBUSY | Errno::EEXIST) => format!(
            "another XDP program is on {name}; a device has one \
             (`ip link show {name}` names it, `bpftool link` may tell whose it is)"
        ),
        Some(Errno::EOPNOTSUPP) => {
            format!("the driver of {name} has no native XDP, or not with its present settings")
        }
        Some(Errno::ERANGE) => {
            format!("its MTU of {mtu} is too large for XDP in the driver of {name}")
        }
        Some(Errno::EINVAL) => format!(
            "the driver of {name} does not take it: its MTU of {mtu} may be too large for XDP, or an \
             offload has to be off (the kernel's log may say which)"
        ),
        _ => error::chain(error),
    }
}

fn errno(error: &ProgramError) -> Option<Errno> {
    let raw = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    };
    raw.map(Errno::from_raw)
}
