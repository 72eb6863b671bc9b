//! Makes loaders of programs.
//!
//! Whenever aya 0.14 makes one, it reads and parses all types of the kernel (`/sys/kernel/btf/vmlinux`), whether the programs refer to
//! them or not. Ours do not, and for a moment that would take more memory than 5,000 leases: 25 MB. It does without where it cannot
//! read them. From aya 0.15 on, which needs a newer compiler, it reads them when they are needed.

use aya::EbpfLoader;
use nix::errno::Errno;
use nix::sys::prctl;

/// A loader without the kernel's types.
pub(super) fn loader() -> EbpfLoader<'static> {
    let blind = std::thread::Builder::new().spawn(|| {
        // If it may read, that costs memory and time.
        let _ = open_no_files();
        EbpfLoader::new()
    });
    let made = blind.ok().and_then(|thread| thread.join().ok());
    let mut loader = made.unwrap_or_default();
    loader.btf(None);
    loader
}

/// From here on this thread opens no file: there is none, it is told. Seccomp is each thread's own.
fn open_no_files() -> nix::Result<()> {
    /// Where in `struct seccomp_data` the system call's number is: in front.
    const NUMBER: u32 = 0;
    const NO_SUCH_FILE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOENT.cast_unsigned();
    let is_open = u32::try_from(libc::SYS_openat).map_err(|_| Errno::ENOSYS)?;
    let mut filter: [_; 4] = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, is_open, 1),
        instruction(libc::BPF_RET | libc::BPF_K, NO_SUCH_FILE, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // Without the right to administer the system a filter asks for that.
    prctl::set_no_new_privs()?;
    // SAFETY: the kernel copies the filter, whose length is right and which lives beyond the call.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    Errno::result(set).map(drop)
}

/// `skip`: so many of the next, if a comparison fails.
#[expect(
    clippy::cast_possible_truncation,
    reason = "codes are of a byte (linux/bpf_common.h)"
)]
const fn instruction(code: u32, k: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_is_made_without_the_kernel_s_types_and_nobody_else_is_blind() {
        let see = || std::fs::read("/proc/self/status").map(|text| !text.is_empty());
        let blind = std::thread::spawn(move || {
            open_no_files().unwrap();
            (see().unwrap_err().raw_os_error(), EbpfLoader::new())
        });
        let (error, made) = blind.join().unwrap();
        assert_eq!(error, Some(libc::ENOENT));
        let made = format!("{made:?}");
        assert!(made.starts_with("EbpfLoader { btf: None"), "{made:.200}");
        loader();
        assert!(see().unwrap());
    }
}
