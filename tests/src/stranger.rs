//! Somebody else's BPF program: it lets everything pass, and has a name that is none of ours.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

/// Name of the program.
pub const NAME: &str = "stranger";

/// Where it can be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_PROG_TYPE_SCHED_CLS`; says `TC_ACT_UNSPEC`.
    Tc,
    /// `BPF_PROG_TYPE_XDP`; says `XDP_PASS`.
    Xdp,
}

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The same for `BPF_OBJ_PIN`.
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
/// `r0 = …; exit`
const MOV64_IMM: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// Loads it and pins it at `path`, which is in a BPF file system.
///
/// # Panics
/// If the kernel refuses.
#[track_caller]
pub fn pin(kind: Kind, path: &Path) {
    let verdict = match kind {
        Kind::Tc => -1,
        Kind::Xdp => 2,
    };
    pin_answering(kind, NAME, verdict, path);
}

/// The same with another answer, and a name of at most 15 bytes, or none.
///
/// # Panics
/// If the kernel refuses.
#[track_caller]
pub fn pin_answering(kind: Kind, called: &str, verdict: i32, path: &Path) {
    let number = match kind {
        Kind::Tc => 3,
        Kind::Xdp => 6,
    };
    let instruction = |code, immediate| Instruction {
        code,
        registers: 0,
        offset: 0,
        immediate,
    };
    let instructions = [instruction(MOV64_IMM, verdict), instruction(EXIT, 0)];
    let mut name = [0; 16];
    name[..called.len()].copy_from_slice(called.as_bytes());
    let load = Load {
        kind: number,
        count: 2,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    let fd = bpf(PROG_LOAD, &load).expect("load a program");
    // SAFETY: the kernel has just given us this descriptor.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
    let pin = Pin {
        path: path.as_ptr().expose_provenance() as u64,
        fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    bpf(OBJ_PIN, &pin).expect("pin a program");
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads as many bytes as it is told; every address in them leads to something that
    // the caller keeps until this returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    match libc::c_int::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}
