//! When the older kind of iptables is called: it tells nobody what it changed, but takes a lock first.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::read;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `XT_LOCK_NAME`. In a container it has to be the host's.
const PATH: &str = "/run/xtables.lock";
/// Room for a few events.
const BUFFER: usize = 4096;
/// `struct inotify_event`: each has no name, since the file itself is watched.
const EVENT: usize = size_of::<libc::inotify_event>();

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
        Self::at(Path::new(PATH))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // The tool holds the file open until it ends.
        inotify.add_watch(path, AddWatchFlags::IN_CLOSE)?;
        // SAFETY: the descriptor is owned, open, and the same until it is dropped.
        let events = unsafe { AsyncFd::register(OwnedFd::from(inotify)) }?;
        Ok(Self { events })
    }

    /// Waits until a tool ends.
    ///
    /// # Errors
    /// If the watch breaks, or the file is removed: the next tool makes another one.
    pub async fn called(&self) -> io::Result<()> {
        self.events.async_io(Interest::READABLE, take).await
    }

    /// Forgets what was heard: the calls were our own.
    ///
    /// # Errors
    /// As [`Self::called`].
    pub fn forget(&self) -> io::Result<()> {
        loop {
            match take(self.events.get_ref()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Some of what was heard.
fn take(events: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    let heard = match read(events.as_fd(), &mut buffer) {
        Err(Errno::EINTR) => return Ok(()),
        heard => heard?,
    };
    let mut events = buffer[..heard].chunks_exact(EVENT);
    // The last that is heard of a file that is gone.
    match events.any(|event| mask(event).contains(AddWatchFlags::IN_IGNORED)) {
        true => Err(io::ErrorKind::NotFound.into()),
        false => Ok(()),
    }
}

fn mask(event: &[u8]) -> AddWatchFlags {
    let at = std::mem::offset_of!(libc::inotify_event, mask);
    let mask: u32 = bytemuck::pod_read_unaligned(&event[at..at + size_of::<u32>()]);
    AddWatchFlags::from_bits_truncate(mask)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_lock_that_is_made_anew_ends_the_watch_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("xtables.lock");
        let call = || drop(fs::File::create(&lock).unwrap());
        call();
        let watch = LockWatch::at(&lock).unwrap();
        call();
        watch.called().await.unwrap();
        call();
        watch.forget().unwrap();
        fs::remove_file(&lock).unwrap();
        watch.called().await.unwrap_err();
        call();
        let watch = LockWatch::at(&lock).unwrap();
        fs::remove_file(&lock).unwrap();
        watch.forget().unwrap_err();
    }
}
