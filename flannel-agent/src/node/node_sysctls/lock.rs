//! One agent at a time, and no wait without end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::node::net::NetError;

/// Only the owner may open it: a lock on what others can open (the folder) is theirs to hold as well.
const MODE: u32 = 0o600;
/// Another agent needs it for a handful of system calls.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
const GAP: Duration = Duration::from_millis(5);

/// The lock, held.
#[derive(Debug)]
pub(super) struct Turn {
    path: PathBuf,
    file: Flock<File>,
}

impl Turn {
    /// Takes the lock of the file at `path`, which is made if it is missing; the kernel ends the lock with the process.
    ///
    /// Blocks, for at most `patience`.
    ///
    /// # Errors
    /// If somebody else holds it all that time, who is named; or if the file cannot be opened.
    pub(super) fn take(path: &Path, patience: Duration) -> Result<Self, NetError> {
        let action = || format!("lock {}", path.display());
        let until = Instant::now() + patience;
        loop {
            let file = open(path).map_err(|error| NetError::io(action(), &error))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) if is_at(&file, path) => {
                    let path = path.to_owned();
                    return Ok(Self { path, file });
                }
                // Whoever had it was the last one out, and took the file along.
                Ok(_) | Err((_, Errno::EINTR)) => {}
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() < until => sleep(GAP),
                Err((file, Errno::EWOULDBLOCK)) => {
                    let reason = format!(
                        "{} has held it for more than {} ms: end that process; it is tried again",
                        holder(&file),
                        patience.as_millis()
                    );
                    return Err(NetError::Failed {
                        action: action(),
                        reason,
                    });
                }
                Err((_, errno)) => return Err(NetError::refused(action(), errno)),
            }
        }
    }

    /// Ends it, and leaves no file.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub(super) fn end_for_good(self) -> io::Result<()> {
        let removed = fs::remove_file(&self.path);
        drop(self.file);
        removed
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |there: fs::Metadata, here: fs::Metadata| {
        (there.dev(), there.ino()) == (here.dev(), here.ino())
    };
    let (Ok(there), Ok(here)) = (fs::symlink_metadata(path), file.metadata()) else {
        return false;
    };
    same(there, here)
}

/// Who holds the lock, in words.
fn holder(file: &File) -> String {
    let found = || -> io::Result<Option<u32>> {
        let status = file.metadata()?;
        Ok(holder_in(
            &fs::read_to_string("/proc/locks")?,
            status.ino(),
            libc::major(status.dev()),
            libc::minor(status.dev()),
        ))
    };
    let Ok(Some(pid)) = found() else {
        // The kernel shows 0 for a process of another PID namespace.
        return "a process that /proc/locks does not name".to_owned();
    };
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

/// Process that holds an flock on a file, by the text of `/proc/locks`: number, kind, mode, access, pid, device
/// (major and minor in hexadecimal) and inode.
fn holder_in(locks: &str, inode: u64, major: u32, minor: u32) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let pid = |line: &str| {
        // Those who wait are shown with an arrow, which makes one word more.
        let mut words = line.split_whitespace();
        let pid = words.nth(4)?.parse().ok().filter(|pid| *pid != 0)?;
        let is_it = line.contains(" FLOCK ") && words.next()? == file;
        is_it.then_some(pid)
    };
    locks.lines().find_map(pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SHORT: Duration = Duration::from_millis(30);

    #[test]
    fn who_holds_it_too_long_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn");
        let held = Turn::take(&path, SHORT).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Turn::take(&path, SHORT).unwrap_err().to_string();
        let me = format!("process {} (", std::process::id());
        assert!(error.contains(&me), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        drop(held);
        Turn::take(&path, SHORT).unwrap();
    }

    #[test]
    fn a_short_hold_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn");
        let held = Turn::take(&path, SHORT).unwrap();
        let other = std::thread::spawn({
            let path = path.clone();
            move || Turn::take(&path, Duration::from_secs(60)).map(drop)
        });
        // It waits now or will find it free: it gets it either way. The file is another one then.
        held.end_for_good().unwrap();
        other.join().unwrap().unwrap();
        assert!(path.exists());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(Turn::take(&path, SHORT).is_err());
        assert!(!folder.path().join("elsewhere").exists());
    }

    #[test]
    fn proc_locks_is_read() {
        let locks = "1: POSIX  ADVISORY  READ 11 fd:00:7 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 0 fd:00:9 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 22 fd:00:7 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 33 fd:00:8 0 EOF\n";
        assert_eq!(holder_in(locks, 7, 0xfd, 0), Some(22));
        assert_eq!(holder_in(locks, 7, 0xfd, 1), None);
        assert_eq!(holder_in(locks, 8, 0xfd, 0), None, "it only waits");
        assert_eq!(holder_in(locks, 9, 0xfd, 0), None, "of another namespace");
    }
}
