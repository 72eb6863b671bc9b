//! Programs on hooks: tcx links that live in bpffs, clsact filters where the kernel has no tcx.
//!
//! The pins hold the links, so the end of this process changes nothing. A later agent finds them and puts its own programs under
//! the same links, without a gap. What is to leave its hook is detached: others may [hold](super::kept) a link whose pin is gone.

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
};
use aya::programs::{LinkOrder, ProgramError, ProgramId, SchedClassifier, TcAttachType};
use flannel_common::program::Program;

use super::DataplaneError;
use super::barrier;
use super::bpffs::{self, Pins};
use super::chain::{self, Chain, tcx_program};
use super::clsact::MadeQdiscs;
use super::strangers::Stranger;
use crate::dataplane::{Attachment, Stale};
use crate::node::net::{Direction, Filter, PRIORITIES};

/// Priority of our clsact filters: early, so that a filter with a final verdict does not hide the tunnel
/// from us, yet behind whoever insists on being first.
const PRIORITY: u16 = PRIORITIES[1];
/// The same for programs that [go first](goes_first).
const FIRST: u16 = PRIORITIES[0];

/// What `uplink_xdp` stripped is for `xdp_rx` alone. What has no Ethernet header gets one. And programs that translate what leaves: netfilter, whose work they do, lies ahead of every hook: whoever else
/// is on the hook sees the packet as it will leave, and no final verdict lets it out untranslated.
const fn goes_first(program: Program) -> bool {
    matches!(
        program,
        Program::XdpRx
            | Program::FrameRx
            | Program::UplinkTx
            | Program::UplinkTxIp
            | Program::OverlaySnatTx
    )
}

const fn priority(program: Program) -> u16 {
    if goes_first(program) { FIRST } else { PRIORITY }
}

/// How programs get onto hooks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// tcx, or clsact if the kernel does not take a tcx link.
    #[default]
    Auto,
    /// clsact filters, on any kernel.
    Clsact,
}

/// The ways that are left: tried once, known for the rest of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Untried,
    Tcx,
    Clsact,
}

impl From<AttachMode> for Way {
    fn from(mode: AttachMode) -> Self {
        match mode {
            AttachMode::Auto => Self::Untried,
            AttachMode::Clsact => Self::Clsact,
        }
    }
}

/// Where a program goes: the hook, with what only the moment knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) attachment: &'a Attachment,
    /// ifindex of the device now.
    pub(crate) index: u32,
    /// See [`crate::reconcile::desired::Node::tag`].
    pub(crate) tag: u32,
}

impl<'a> Target<'a> {
    pub(crate) const fn new(attachment: &'a Attachment, index: u32, tag: u32) -> Self {
        Self {
            attachment,
            index,
            tag,
        }
    }

    pub(super) fn pin_name(&self) -> String {
        bpffs::link_name(self.attachment.program, self.index)
    }

    fn direction(&self) -> TcAttachType {
        tc_type(self.attachment.direction)
    }

    /// Program and tag make the handle: several agents share a hook without meeting.
    pub(super) fn handle(&self) -> u32 {
        handle(self.attachment.program, self.tag)
    }

    fn priority(&self) -> u16 {
        priority(self.attachment.program)
    }

    /// Place among the tcx programs of the hook: before `barrier`, behind which no packet comes.
    fn order(&self, barrier: Option<&Stranger>) -> LinkOrder {
        match barrier {
            _ if goes_first(self.attachment.program) => LinkOrder::first(),
            // SAFETY: the kernel looks the number up; if that program is gone by now, it refuses.
            Some(stranger) => LinkOrder::before_program_id(unsafe { ProgramId::new(stranger.id) }),
            None => LinkOrder::last(),
        }
    }

    fn failed(&self, error: ProgramError) -> DataplaneError {
        DataplaneError::attach(self.attachment.to_string(), error)
    }
}

/// Handle of a clsact filter of ours.
fn handle(program: Program, tag: u32) -> u32 {
    ((program as u32 + 1) << 24) | tag
}

/// Whether a filter is the one of `program` in the network with this tag.
pub(super) fn is_filter_of(filter: &Filter, program: Program, tag: u32) -> bool {
    filter.priority == priority(program) && filter.handle == handle(program, tag)
}

/// Whether a filter is the one of `program` in any network.
pub(super) fn is_of_any(filter: &Filter, program: Program) -> bool {
    is_filter_of(filter, program, filter.handle & 0x00ff_ffff)
}

/// Whether a filter is one of ours, of the network with this tag.
pub(super) fn is_ours(filter: &Filter, tag: u32) -> bool {
    [FIRST, PRIORITY].contains(&filter.priority) && filter.handle & 0x00ff_ffff == tag
}

fn tc_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// The program that a live pinned tcx link of ours runs on the target.
pub(super) fn pinned_program(target: &Target<'_>, pins: &Pins) -> Option<u32> {
    let id = tcx_program(&pins.link(&target.pin_name()))?;
    is_on(target, id).then_some(id)
}

/// A link detached by hand keeps its program id but is on no hook.
pub(super) fn is_on(target: &Target<'_>, program: u32) -> bool {
    on_hook(target).contains(&program)
}

/// Ids of the programs on the tcx hook; none on a kernel without tcx.
fn on_hook(target: &Target<'_>) -> Vec<u32> {
    Chain::of(&target.attachment.device, target.attachment.direction).programs
}

/// The program that a clsact filter of ours runs on the target.
pub(super) fn filter_program(target: &Target<'_>, filters: &[Filter]) -> Option<u32> {
    filters
        .iter()
        .find(|filter| is_filter_of(filter, target.attachment.program, target.tag))
        .map(|f| f.program)
}

/// Puts `program` on the target. Whatever of ours was there runs until then.
pub(super) fn attach(
    program: &mut SchedClassifier,
    target: &Target<'_>,
    pins: &Pins,
    made: &MadeQdiscs,
    way: &mut Way,
) -> Result<(), DataplaneError> {
    if *way != Way::Clsact {
        match attach_tcx(program, target, pins) {
            Ok(()) => {
                *way = Way::Tcx;
                return Ok(());
            }
            Err(error) if *way == Way::Untried && is_unsupported(&error) => {
                tracing::info!("the kernel has no tcx (before 6.6): attaching clsact filters");
                *way = Way::Clsact;
            }
            Err(Failed::Program(error)) => return Err(target.failed(error)),
            Err(Failed::Pin(error)) => return Err(error),
        }
    }
    attach_clsact(program, target, made).map_err(|error| target.failed(error))?;
    chain::end(&pins.link(&target.pin_name()))
}

enum Failed {
    Program(ProgramError),
    Pin(DataplaneError),
}

impl<E: Into<ProgramError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Program(error.into())
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    target: &Target<'_>,
    pins: &Pins,
) -> Result<(), Failed> {
    let path = pins.link(&target.pin_name());
    let pinned = pinned_program(target, pins);
    let barrier = barrier::find(target.attachment, target.index, pinned, pins);
    if let Some(stranger) = &barrier {
        barrier::name(stranger, target.attachment);
    }
    if pinned.is_some() && barrier.is_none() {
        let pinned = PinnedLink::from_pin(&path).map_err(link_error)?;
        let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(link_error)?;
        let id = program.attach_to_link(link)?;
        // The pin keeps the link; closing ours changes nothing.
        drop(program.take_link(id)?);
        return Ok(());
    }
    if pinned.is_some() && pinned == program.info()?.id().into() {
        // Nothing is lost that came through so far but what the other one let through.
        chain::detach(&path).map_err(ProgramError::IOError)?;
    }
    let order = TcAttachOptions::TcxOrder(target.order(barrier.as_ref()));
    let (device, direction) = (&target.attachment.device, target.direction());
    let id = match program.attach_with_options(device, direction, order) {
        // Whoever it was to go before has left meanwhile; on no hook it must not stay.
        Err(_) if barrier.is_some() => {
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            program.attach_with_options(device, direction, first)?
        }
        attached => attached?,
    };
    let link: FdLink = take(program, id)?.try_into().map_err(link_error)?;
    chain::succeed(link, &path).map_err(Failed::Pin)
}

fn take(
    program: &mut SchedClassifier,
    id: SchedClassifierLinkId,
) -> Result<SchedClassifierLink, ProgramError> {
    program.take_link(id)
}

fn link_error(error: aya::programs::links::LinkError) -> Failed {
    Failed::Program(match error {
        aya::programs::links::LinkError::SyscallError(error) => error.into(),
        other => ProgramError::IOError(std::io::Error::other(other)),
    })
}

fn attach_clsact(
    program: &mut SchedClassifier,
    target: &Target<'_>,
    made: &MadeQdiscs,
) -> Result<(), ProgramError> {
    let device = target.attachment.device.as_str();
    match tc::qdisc_add_clsact(device) {
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => {}
        other => {
            other?;
            // Not worth a failure: the qdisc would stay behind, and it is empty then.
            if let Err(error) = made.remember(target.index) {
                tracing::warn!("cleanup will leave the clsact qdisc of {device}: {error}");
            }
        }
    }
    let handle = TcHandle::from(target.handle());
    let direction = target.direction();
    let priority = target.priority();
    let existing = SchedClassifierLink::attached(device, direction, priority, handle, None)
        .map_err(TcError::IoError)?;
    let id = match program.attach_to_link(existing) {
        Err(ProgramError::TcError(TcError::NetlinkError(e)))
            if e.raw_os_error() == Some(libc::ENOENT) =>
        {
            let options = NlOptions {
                priority,
                handle,
                classid: None,
            };
            program.attach_with_options(device, direction, TcAttachOptions::Netlink(options))?
        }
        replaced => replaced?,
    };
    // Dropping the link would remove the filter; it has to outlive us.
    std::mem::forget(take(program, id)?);
    Ok(())
}

/// `EINVAL`: `BPF_LINK_CREATE` does not know the attach type, so this kernel has no tcx.
fn is_unsupported(error: &Failed) -> bool {
    match error {
        Failed::Program(ProgramError::SyscallError(e)) => matches!(
            e.io_error.raw_os_error(),
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)
        ),
        _ => false,
    }
}

/// What to remove if `program` is to leave the hook of `target`.
pub(super) fn stale(program: Program, target: &Target<'_>, way: Way) -> Stale {
    let attachment = &Attachment {
        program,
        ..target.attachment.clone()
    };
    let target = Target {
        attachment,
        ..*target
    };
    match way {
        Way::Clsact => Stale::Filter {
            device: attachment.device.clone(),
            direction: attachment.direction,
            handle: target.handle(),
        },
        Way::Untried | Way::Tcx => Stale::Pin(target.pin_name()),
    }
}

/// Removes a filter of ours.
pub(super) fn remove_filter(
    device: &str,
    direction: Direction,
    handle: u32,
) -> Result<(), ProgramError> {
    use aya::programs::Link as _;

    let number = handle >> 24;
    let program = Program::ALL.into_iter().find(|p| *p as u32 + 1 == number);
    let priority = program.map_or(PRIORITY, priority);
    let direction = tc_type(direction);
    let link =
        SchedClassifierLink::attached(device, direction, priority, TcHandle::from(handle), None)
            .map_err(TcError::IoError)?;
    match link.detach() {
        Err(ProgramError::NetlinkError(e))
            if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) =>
        {
            Ok(())
        }
        other => other,
    }
}
