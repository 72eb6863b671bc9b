//! The programs on one hook of tcx, in the order in which packets meet them.
//!
//! A program hands a packet on to the next by answering `TCX_NEXT` (-1) alone: anything else ends the chain, `TC_ACT_OK`,
//! which monitors answer, as well as what tcx does not know (`tcx_run`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::links::{FdLink, LinkType, PinnedLink};
use aya_obj::generated::{bpf_attach_type, bpf_cmd};
use nix::net::if_::if_nametoindex;
use tokio::time::{Instant, sleep_until};

use super::pin;
use super::syscall::{address, bpf, zeroed};
use super::{Attachment, DataplaneError, bpffs};
use crate::node::net::Direction;

/// So many fit on one hook (`BPF_MPROG_MAX`).
const ROOM: usize = 64;

/// What is on a hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Changes with every program that comes or goes.
    pub(crate) revision: u64,
    pub(crate) programs: Vec<u32>,
}

impl Chain {
    /// Nothing where there is no such device, or no tcx. Takes `CAP_NET_ADMIN`, and not the rights that take a look at the
    /// programs themselves.
    pub(crate) fn of(device: &str, direction: Direction) -> Self {
        if_nametoindex(device)
            .ok()
            .and_then(|index| query(index, direction).ok())
            .unwrap_or_default()
    }

    /// Those that packets meet before `program`; all, if it is not here.
    pub(crate) fn ahead_of(&self, program: Option<u32>) -> &[u32] {
        let programs = self.programs.as_slice();
        let place = programs.iter().position(|id| Some(*id) == program);
        programs
            .get(..place.unwrap_or(programs.len()))
            .unwrap_or(programs)
    }
}

fn query(index: u32, direction: Direction) -> io::Result<Chain> {
    let mut programs = vec![0_u32; ROOM];
    let kind = match direction {
        Direction::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Direction::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    };
    let mut attr = zeroed();
    // SAFETY: every field of this member is plain data, and the attribute was zeroed.
    let query = unsafe { &mut attr.query };
    query.__bindgen_anon_1.target_ifindex = index;
    query.attach_type = kind as u32;
    query.prog_ids = address(programs.as_mut_ptr());
    query.__bindgen_anon_2.prog_cnt = u32::try_from(ROOM).unwrap_or_default();
    // SAFETY: `prog_ids` leads to `prog_cnt` numbers, which live through the call.
    unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) }?;
    // SAFETY: the kernel wrote this member.
    let query = unsafe { attr.query };
    // SAFETY: the same number by two names.
    let count = unsafe { query.__bindgen_anon_2.prog_cnt };
    let revision = query.revision;
    programs.truncate(count as usize);
    Ok(Chain { revision, programs })
}

/// Takes the link that is pinned here off its hook, at once: to remove the pin does that a moment later, and the same program
/// cannot be on a hook twice.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    take_off(&pin::open(pin)?)
}

fn take_off(link: &OwnedFd) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = link.as_raw_fd().cast_unsigned();
    // SAFETY: the command uses a descriptor and no pointer.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Takes the link that is pinned here off its hook, whoever else holds it, and removes the pin.
pub(super) fn end(pin: &Path) -> Result<(), DataplaneError> {
    // What has no pin, or is on no hook any more, is at its end.
    let _ = detach(pin);
    bpffs::unpin(pin)
}

/// Pins `link`, which is on its hook, in the place of the one that is pinned here. That one stays on its hook until then: what cannot
/// be pinned goes off the hook again.
pub(super) fn succeed(link: FdLink, pin: &Path) -> Result<(), DataplaneError> {
    let failed = |error| DataplaneError::Pin {
        path: pin.to_owned(),
        error,
    };
    let before = pin::open(pin);
    let mut new = pin.as_os_str().to_owned();
    // No name that is looked for: what a killed agent leaves here is removed as a pin that nobody wants.
    new.push("_new");
    let new = PathBuf::from(new);
    end(&new)?;
    link.pin(&new)
        .map_err(|error| failed(io::Error::other(error)))?;
    if let Err(error) = std::fs::rename(&new, pin) {
        let _ = end(&new);
        return Err(failed(error));
    }
    if let Ok(before) = before {
        // One that is on no hook any more is at its end.
        let _ = take_off(&before);
    }
    Ok(())
}

/// Tells when programs come to, or leave, hooks of ours, and when pins of maps are removed. The kernel does not.
#[derive(Debug)]
pub(crate) struct Watch {
    revisions: BTreeMap<(String, Direction), u64>,
    maps: Option<(PathBuf, Stamp)>,
    pause: Duration,
    due: Instant,
}

/// How often is looked. What two fight for is looked at ever less often.
const EVERY: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(30);

impl Default for Watch {
    fn default() -> Self {
        Self {
            revisions: BTreeMap::new(),
            maps: None,
            pause: EVERY,
            due: Instant::now() + EVERY,
        }
    }
}

impl Watch {
    /// What is on the hooks from here on is known. Those of pods are left to the looks at everything: nothing but speed
    /// depends on them.
    ///
    /// `maps`: the folder of their pins.
    pub(crate) fn know(
        &mut self,
        attachments: &[Attachment],
        pods: &BTreeMap<String, u32>,
        maps: PathBuf,
    ) {
        let now = stamp(&maps);
        self.maps = Some((maps, now));
        let hooks = attachments
            .iter()
            .filter(|at| !at.program.is_xdp() && !pods.contains_key(&at.device));
        let hooks = hooks.map(|at| (at.device.clone(), at.direction));
        self.revisions = hooks.map(|hook| (hook.clone(), revision(&hook))).collect();
    }

    pub(crate) async fn changed(&mut self) {
        loop {
            sleep_until(self.due).await;
            self.due = Instant::now() + self.pause;
            let mut changed = false;
            for (hook, known) in &mut self.revisions {
                let now = revision(hook);
                changed |= std::mem::replace(known, now) != now;
            }
            if let Some((folder, known)) = &mut self.maps {
                let now = stamp(folder);
                changed |= std::mem::replace(known, now) != now;
            }
            if changed {
                self.pause = (self.pause * 2).min(SELDOM);
                return;
            }
            self.pause = (self.pause / 2).max(EVERY);
        }
    }
}

/// Which folder it is, and when something was last put there or removed; `None`: there is none.
type Stamp = Option<(u64, i64, i64)>;

fn stamp(folder: &Path) -> Stamp {
    let is = std::fs::metadata(folder).ok()?;
    Some((is.ino(), is.mtime(), is.mtime_nsec()))
}

fn revision((device, direction): &(String, Direction)) -> u64 {
    Chain::of(device, *direction).revision
}

/// The program of a pinned tcx link.
pub(super) fn tcx_program(path: &Path) -> Option<u32> {
    let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
    let info = link.info().ok()?;
    (info.link_type().ok()? == LinkType::Tcx).then(|| info.program_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn maps_whose_pins_are_removed_are_noticed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let maps = folder.path().join("maps");
        std::fs::create_dir(&maps).unwrap();
        let mut watch = Watch::default();
        watch.know(&[], &BTreeMap::new(), maps.clone());
        let quiet = tokio::time::timeout(SELDOM * 2, watch.changed()).await;
        assert!(quiet.is_err(), "nothing has changed");
        std::fs::remove_dir(&maps).unwrap();
        tokio::time::timeout(EVERY * 2, watch.changed())
            .await
            .unwrap();
    }
}
