//! How many files may be open. Each pod takes two descriptors (the links of its programs), each network about a hundred, and what
//! a service manager or a container engine gives is 1,024: Go raises that by itself (`os.init` since 1.19), so flanneld never meets it.

use std::io;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tokio::process::Command;

/// Soft and hard, as they were given to this process.
static GIVEN: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises the limit as far as this process may. Gives how many files may be open, if that is known.
pub(crate) fn raise() -> Option<u64> {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, most)| {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        // Whoever raises it a second time finds it raised.
        let _ = GIVEN.set((soft, most));
        Ok(most)
    });
    if let Err(error) = &raised {
        tracing::warn!("cannot raise the number of open files: {error}");
    }
    raised.ok()
}

/// A child gets what was given to this process: some go through every descriptor that they might have, or know no more than
/// 1,024 (`select(2)`).
pub(crate) fn as_given(command: &mut Command) -> &mut Command {
    let Some(&(soft, hard)) = GIVEN.get() else {
        return command;
    };
    let lower = move || setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(io::Error::from);
    // SAFETY: between fork and exec the child makes this one system call, which neither allocates nor takes a lock.
    unsafe { command.pre_exec(lower) }
}

/// What an operator does about an error, where it is one of too many open files.
pub(crate) const fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EMFILE => {
            " (the agent has no file descriptor left: raise LimitNOFILE= of its unit, or the container engine's limit)"
        }
        Errno::ENFILE => " (the node has no file descriptor left: raise fs.file-max)",
        _ => "",
    }
}

/// The same for an error of the standard library.
pub(crate) fn hint_at(error: &io::Error) -> &'static str {
    hint(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn children_have_the_limit_that_was_given() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise(), Some(most));
        let now = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(now, (most, most));
        assert_eq!(raise(), Some(most), "again");
        let &(given, _) = GIVEN.get().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn; ulimit -Hn"]);
        let said = as_given(&mut command).output().await.unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let words = |limit: rlim_t| match limit {
            libc::RLIM_INFINITY => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        let both = format!("{}\n{}\n", words(given), words(most));
        assert_eq!(said, both);
    }

    #[test]
    fn too_many_open_files_are_told_from_other_errors() {
        let hint = |errno| hint_at(&io::Error::from_raw_os_error(errno));
        assert!(hint(libc::EMFILE).contains("LimitNOFILE="));
        assert!(hint(libc::ENFILE).contains("fs.file-max"));
        assert_eq!(hint(libc::EACCES), "");
        assert_eq!(hint_at(&io::Error::other("no number")), "");
    }
}
