//! Whether this kernel makes room for a frame inside a frame: asked by a program of four instructions.
//!
//! `BPF_F_ADJ_ROOM_ENCAP_L2_ETH` (kernel 5.13) is a flag of an old helper: the verifier takes it from anybody,
//! and a kernel that does not know it refuses each packet. So the program is run, on one packet of its own.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use aya_obj::generated::{
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, bpf_attr, bpf_cmd, bpf_func_id,
    bpf_prog_type,
};

/// What `overlay_tx` asks for: outer headers, then the inner frame's own 14 bytes.
const FLAGS: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO
    | BPF_F_ADJ_ROOM_NO_CSUM_RESET
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
    | (14 << 56);
const FLAGS_LOW: u32 = (FLAGS & 0xffff_ffff) as u32;
const FLAGS_HIGH: u32 = (FLAGS >> 32) as u32;
const ROOM: i32 = 50;
/// `BPF_ADJ_ROOM_MAC`.
const AT_MAC: i32 = 1;

const INSTRUCTIONS: u32 = 6;
const PACKET: u32 = 64;

const MOV_IMMEDIATE: u8 = 0xb7;
const LOAD_IMMEDIATE_64: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Whether a packet can be wrapped. `None`: the question could not be asked.
pub(super) fn is_supported() -> Option<bool> {
    run(&load().ok()?)
        .ok()
        .map(|returned| returned != -libc::EINVAL)
}

fn instruction(code: u8, to: u8, immediate: i32) -> [u8; 8] {
    let [a, b, c, d] = immediate.to_ne_bytes();
    [code, to, 0, 0, a, b, c, d]
}

/// `return bpf_skb_adjust_room(skb, ROOM, AT_MAC, FLAGS);`
fn program() -> [[u8; 8]; INSTRUCTIONS as usize] {
    let helper = bpf_func_id::BPF_FUNC_skb_adjust_room as i32;
    [
        instruction(MOV_IMMEDIATE, 2, ROOM),
        instruction(MOV_IMMEDIATE, 3, AT_MAC),
        instruction(LOAD_IMMEDIATE_64, 4, FLAGS_LOW.cast_signed()),
        instruction(0, 0, FLAGS_HIGH.cast_signed()),
        instruction(CALL, 0, helper),
        instruction(EXIT, 0, 0),
    ]
}

fn load() -> io::Result<OwnedFd> {
    let (program, licence) = (program(), c"Apache-2.0");
    let mut attr = zeroed();
    // SAFETY: every field of this member is plain data, and the attribute was zeroed.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.insns = program.as_ptr().addr() as u64;
    load.insn_cnt = INSTRUCTIONS;
    load.license = licence.as_ptr().addr() as u64;
    // SAFETY: the pointers lead to instructions of the given number and to a string that ends with 0.
    let number = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What the program returned for an IPv4 packet.
fn run(program: &OwnedFd) -> io::Result<i32> {
    let mut packet = [0_u8; PACKET as usize];
    packet[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    let mut attr = zeroed();
    // SAFETY: every field of this member is plain data, and the attribute was zeroed.
    let test = unsafe { &mut attr.test };
    test.prog_fd = program.as_raw_fd().cast_unsigned();
    test.data_in = packet.as_ptr().addr() as u64;
    test.data_size_in = PACKET;
    // SAFETY: the pointer leads to a packet of the given length; nothing is asked to be written back but
    // the attribute itself.
    unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) }?;
    // SAFETY: the kernel has written plain data.
    Ok(unsafe { attr.test.retval }.cast_signed())
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain data, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// # Safety
/// What `attr` points to must be what `command` expects.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the attribute is as long as said; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_wraps_packets() {
        assert_eq!(run(&load().unwrap()).unwrap(), 0);
        assert_eq!(is_supported(), Some(true));
    }
}
