//! Whether an agent runs, for those who only see what is pinned.
//!
//! An agent holds a lock on its network's folder for as long as it lives; the kernel takes it back when
//! the process ends, however it ends. The lock excludes nobody: two agents that overlap during an
//! upgrade both hold it, and see each other by it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

/// An open-file-description lock: unlike a process's, it is not lost when another part of the agent opens
/// and closes the same folder.
#[derive(Debug)]
pub(super) struct Alive {
    folder: File,
}

impl Alive {
    /// Says that this process looks after `folder`.
    pub(super) fn hold(folder: &Path) -> io::Result<Self> {
        let folder = File::open(folder)?;
        fcntl(&folder, FcntlArg::F_OFD_SETLK(&whole(libc::F_RDLCK)))?;
        Ok(Self { folder })
    }

    /// Whether somebody else looks after it, too.
    pub(super) fn has_company(&self) -> io::Result<bool> {
        is_locked(&self.folder)
    }
}

/// The same, for longer than one life of a dataplane: between two of them nobody takes the network for one without an agent.
#[derive(Debug, Clone)]
pub struct Presence(Arc<Alive>);

impl Presence {
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Alive::hold(folder)?)))
    }

    /// Whether somebody else looks after it, too.
    pub(super) fn has_company(&self) -> io::Result<bool> {
        self.0.has_company()
    }

    /// Whether it can be seen at `folder`: that may have been made anew.
    pub(super) fn is_at(&self, folder: &Path) -> bool {
        let place = |of: Metadata| (of.dev(), of.ino());
        let held = self.0.folder.metadata().map(place);
        held.is_ok_and(|held| {
            std::fs::metadata(folder)
                .map(place)
                .is_ok_and(|there| there == held)
        })
    }
}

/// What one agent of a network can hold at a time: the kernel gives it to another when the process ends, however it ends.
#[derive(Debug)]
pub struct ServesAlone {
    _folder: Flock<File>,
}

impl ServesAlone {
    /// `None`: another holds it, or it cannot be found out.
    pub(super) fn try_hold(folder: &Path) -> Option<Self> {
        let folder = File::open(folder).ok()?;
        let held = Flock::lock(folder, FlockArg::LockExclusiveNonblock);
        held.ok().map(|folder| Self { _folder: folder })
    }
}

/// Whether any process looks after `folder`.
pub(super) fn is_held(folder: &Path) -> io::Result<bool> {
    is_locked(&File::open(folder)?)
}

/// The other processes that have `folder` open, as an agent has its network's. The lock is nobody's by name: the kernel gives no process
/// for it.
pub(super) fn holders(folder: &Path) -> Vec<u32> {
    let place = |path: &Path| std::fs::metadata(path).map(|of| (of.dev(), of.ino()));
    let Ok(wanted) = place(folder) else {
        return Vec::new();
    };
    let has_open = |process: &Path| {
        let open = std::fs::read_dir(process.join("fd"));
        // By its path first: to look at what else is open may take as long as a file server that is away.
        open.into_iter().flatten().flatten().any(|fd| {
            std::fs::read_link(fd.path()).is_ok_and(|target| may_be(&target, folder))
                && place(&fd.path()).is_ok_and(|place| place == wanted)
        })
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let holders = processes.filter_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        (process != std::process::id() && has_open(&entry.path())).then_some(process)
    });
    holders.collect()
}

/// Whether another process's path may be that of a network's folder. Where the file system is mounted there, nobody knows.
fn may_be(target: &Path, folder: &Path) -> bool {
    let end = |path: &Path| {
        let name = path.file_name()?.to_owned();
        Some((path.parent()?.file_name()?.to_owned(), name))
    };
    end(folder).is_some_and(|of_folder| end(target) == Some(of_folder))
}

/// By anybody but `folder` itself.
fn is_locked(folder: &File) -> io::Result<bool> {
    let mut lock = whole(libc::F_WRLCK);
    fcntl(folder, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's constants are 0, 1 and 2; libc gives them the wrong type"
)]
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_serves_alone() {
        let folder = tempfile::tempdir().unwrap();
        let one = ServesAlone::try_hold(folder.path()).unwrap();
        assert!(ServesAlone::try_hold(folder.path()).is_none());
        drop(one);
        assert!(ServesAlone::try_hold(folder.path()).is_some());
    }

    #[test]
    fn who_is_present_in_two_places_is_no_company() {
        let folder = tempfile::tempdir().unwrap();
        let one = Presence::of(folder.path()).unwrap();
        let other = one.clone();
        assert!(!one.has_company().unwrap());
        drop(one);
        assert!(is_held(folder.path()).unwrap());
        assert!(other.is_at(folder.path()) && !other.is_at(tempfile::tempdir().unwrap().path()));
        assert!(!other.has_company().unwrap());
        drop(other);
        assert!(!is_held(folder.path()).unwrap());
    }

    #[test]
    fn who_has_it_open_is_found_and_it_is_nobody_here() {
        let folder = tempfile::tempdir().unwrap();
        let _here = Alive::hold(folder.path()).unwrap();
        assert_eq!(holders(folder.path()), <[u32; 0]>::default());
        let open = std::process::Stdio::from(File::open(folder.path()).unwrap());
        let mut other = std::process::Command::new("sleep")
            .arg("infinity")
            .stdin(open)
            .spawn()
            .unwrap();
        assert_eq!(holders(folder.path()), [other.id()]);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(holders(folder.path()), <[u32; 0]>::default());
    }

    #[test]
    fn what_others_have_open_elsewhere_is_not_even_looked_at() {
        let folder = Path::new("/sys/fs/bpf/flannel/default");
        for here in [
            "/sys/fs/bpf/flannel/default",
            "/bpf/flannel/default",
            "/flannel/default",
        ] {
            assert!(may_be(Path::new(here), folder), "{here}");
        }
        for elsewhere in [
            "/mnt/nfs/default",
            "/default",
            "/sys/fs/bpf/flannel/other",
            "socket:[7]",
        ] {
            assert!(!may_be(Path::new(elsewhere), folder), "{elsewhere}");
        }
    }

    #[test]
    fn held_for_as_long_as_it_lives_and_by_several_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_held(folder.path()).unwrap());
        let one = Alive::hold(folder.path()).unwrap();
        assert!(!one.has_company().unwrap());
        let two = Alive::hold(folder.path()).unwrap();
        assert!(one.has_company().unwrap() && two.has_company().unwrap());
        drop(one);
        assert!(!two.has_company().unwrap());
        // Opened and closed by somebody else in the same process.
        drop(File::open(folder.path()).unwrap());
        assert!(is_held(folder.path()).unwrap());
        drop(two);
        assert!(!is_held(folder.path()).unwrap());
    }
}
