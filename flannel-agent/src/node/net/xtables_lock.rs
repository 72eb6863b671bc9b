//! When the older kind of iptables is called: it tells nobody what it changed, but takes a lock first.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::read;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `XT_LOCK_NAME`. In a container it has to be the host's.
const PATH: &str = "/run/xtables.lock";
/// Room for a few events: each has no name, since the file itself is watched.
const BUFFER: usize = 4096;

/// Hears of every call's end; ends when dropped.
#[derive(Debug)]
pub struct LockWatch {
    events: AsyncFd<OwnedFd>,
}

impl LockWatch {
    /// Has to run inside a tokio runtime.
    ///
    /// # Errors
    /// There is no such file (nobody called iptables yet), or no more watches.
    pub fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // The tool holds the file open until it ends.
        inotify.add_watch(PATH, AddWatchFlags::IN_CLOSE)?;
        // SAFETY: the descriptor is owned, open, and the same until it is dropped.
        let events = unsafe { AsyncFd::register(OwnedFd::from(inotify)) }?;
        Ok(Self { events })
    }

    /// Waits until a tool ends.
    ///
    /// # Errors
    /// If the watch breaks.
    pub async fn called(&self) -> io::Result<()> {
        let taken = self.events.async_io(Interest::READABLE, take);
        taken.await.map(drop)
    }

    /// Forgets what was heard: the calls were our own.
    pub fn forget(&self) {
        while take(self.events.get_ref()).is_ok_and(|bytes| bytes > 0) {}
    }
}

fn take(events: &OwnedFd) -> io::Result<usize> {
    let mut buffer = [0; BUFFER];
    match read(events.as_fd(), &mut buffer) {
        Err(Errno::EINTR) => Ok(1),
        taken => Ok(taken?),
    }
}
