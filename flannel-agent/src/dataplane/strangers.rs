//! Programs that no agent of ours loaded: their names, whose they are, and whether they hand packets on.

use std::fmt;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use aya_obj::generated::{bpf_cmd, bpf_prog_info};
use flannel_common::program::Program;

use super::syscall::{address, bpf, zeroed};
use super::verdicts::{Instruction, answers};

/// After `TCX_NEXT` the next program runs. Drop and redirect are meant to end the chain, under any dataplane.
const NEXT: i32 = -1;
const OK: i32 = 0;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;
/// Longer programs are not read (there are none: the verifier takes a million steps).
const MOST: u32 = 1 << 16;

/// A program as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) id: u32,
    /// `None`: the kernel does not let us look (`CAP_SYS_ADMIN`), or it is gone. Empty: it has none.
    name: Option<String>,
    /// What else than next, drop and redirect it may answer; `None` if that cannot be told.
    lets_end: Option<Vec<i32>>,
}

impl Stranger {
    /// `None` if it is ours, of whatever network, or gone. `is_ours` is asked where the kernel does not let us look.
    pub(crate) fn of(id: u32, is_ours: impl FnOnce(u32) -> bool) -> Option<Self> {
        let unseen = |id| Self {
            id,
            name: None,
            lets_end: None,
        };
        match look(id) {
            Ok(seen) => seen,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            Err(_) => Some(unseen(id)).filter(|_| !is_ours(id)),
        }
    }

    /// Whether a packet may end its way along the hook here, although nothing was decided about it.
    pub(crate) fn ends_chain(&self) -> bool {
        self.lets_end.as_ref().is_none_or(|ends| !ends.is_empty())
    }

    /// The same among clsact filters, where what `cls_bpf` does not know hands a packet on as well.
    pub(crate) fn ends_filters(&self) -> bool {
        self.lets_end.as_ref().is_none_or(|ends| ends.contains(&OK))
    }

    pub(crate) fn name(&self) -> &str {
        match self.name.as_deref() {
            None => "?",
            Some("") => "without a name",
            Some(name) => name,
        }
    }

    /// What it may answer, in words: `TC_ACT_OK`.
    pub(crate) fn answer(&self) -> String {
        let words = |answer: &i32| match answer {
            &OK => "TC_ACT_OK".to_owned(),
            3 => "TC_ACT_PIPE".to_owned(),
            other => format!("{other}"),
        };
        match &self.lets_end {
            None => "what cannot be told from its code".to_owned(),
            Some(ends) => ends.iter().map(words).collect::<Vec<_>>().join(", "),
        }
    }

    /// With whose it is, which takes a walk through /proc.
    pub(crate) fn with_owner(&self) -> String {
        let owners = owners(self.id);
        match owners.as_slice() {
            // Pinned, a filter, or a process into which we may not look.
            [] => self.to_string(),
            _ => format!("{self}, held by {}", owners.join(", ")),
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_deref() {
            Some(_) => write!(f, "{} (id {})", self.name(), self.id),
            None => write!(f, "with id {}", self.id),
        }
    }
}

/// `None` if it is ours. Takes `CAP_SYS_ADMIN`.
fn look(id: u32) -> io::Result<Option<Stranger>> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    // SAFETY: the command uses a number and no pointer.
    let program = unsafe { bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let first = info(&program, &mut [])?;
    let name = first.name.iter().map(|c| c.to_ne_bytes()[0]);
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8_lossy(&name).into_owned();
    if Program::of_symbol(&name).is_some() {
        return Ok(None);
    }
    let length = Some(first.xlated_prog_len / 8).filter(|length| *length <= MOST);
    let mut code = vec![[0_u8; 8]; length.unwrap_or_default() as usize];
    // The kernel shows none whose constants it hides (`bpf_jit_harden`).
    if !code.is_empty() && info(&program, &mut code)?.xlated_prog_insns == 0 {
        code.clear();
    }
    let instructions: Vec<Instruction> = code.iter().map(instruction).collect();
    let ends = |answer: &i32| ![NEXT, DROP, REDIRECT].contains(answer);
    Ok(Some(Stranger {
        id,
        name: Some(name),
        lets_end: answers(&instructions).map(|all| all.into_iter().filter(ends).collect()),
    }))
}

fn info(program: &OwnedFd, code: &mut [[u8; 8]]) -> io::Result<bpf_prog_info> {
    // SAFETY: it is plain data, for which zeroes are a value.
    let mut info: bpf_prog_info = unsafe { MaybeUninit::zeroed().assume_init() };
    if !code.is_empty() {
        info.xlated_prog_insns = address(code.as_mut_ptr());
        info.xlated_prog_len = u32::try_from(size_of_val(code)).unwrap_or_default();
    }
    let mut attr = zeroed();
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).unwrap_or_default();
    attr.info.info = address(&raw mut info);
    // SAFETY: `info` has `info_len` bytes, and leads to `xlated_prog_len` bytes of code; both live through the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

fn instruction(bytes: &[u8; 8]) -> Instruction {
    let [code, registers, o0, o1, i0, i1, i2, i3] = *bytes;
    let (low, high) = (registers & 15, registers >> 4);
    let (dst, src) = match cfg!(target_endian = "little") {
        true => (low, high),
        false => (high, low),
    };
    Instruction {
        code,
        dst,
        src,
        offset: i16::from_ne_bytes([o0, o1]),
        immediate: i32::from_ne_bytes([i0, i1, i2, i3]),
    }
}

/// Processes that hold a program, or a link of it: their names and numbers.
fn owners(id: u32) -> Vec<String> {
    let line = format!("prog_id:\t{id}");
    let holds = |process: &fs::DirEntry| {
        let Ok(descriptors) = fs::read_dir(process.path().join("fdinfo")) else {
            return false;
        };
        descriptors.filter_map(Result::ok).any(|descriptor| {
            fs::read_to_string(descriptor.path()).is_ok_and(|text| text.lines().any(|l| l == line))
        })
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let processes = processes.filter_map(Result::ok);
    let numbered = processes.filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    let held = numbered.filter(holds).map(|process| {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        format!("{} (pid {})", name.trim(), process.file_name().display())
    });
    held.collect()
}
