//! The one ioctl: ethtool's feature strings and bits.
//!
//! Netlink can only read them with the crates at hand; the ioctl does both, on every kernel.

use std::ffi::{c_char, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::namespace::any_socket;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// One block of 32 feature bits, as `struct ethtool_get_features_block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// May be changed at all.
    pub(super) available: u32,
    pub(super) active: u32,
}

/// Names of the feature bits, lowest first.
pub(super) fn feature_names(device: &str) -> io::Result<Vec<String>> {
    // struct ethtool_sset_info: cmd, reserved, sset_mask (64 bits), one length per set bit.
    let mut info = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
    set_u64(&mut info, 2, 1 << ETH_SS_FEATURES);
    ethtool(device, &mut info)?;
    let count = info[4] as usize;

    // struct ethtool_gstrings: cmd, string_set, len, then len strings of 32 bytes.
    let words = ETH_GSTRING_LEN / size_of::<u32>();
    let mut request = vec![0u32; 3 + count * words];
    request[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, info[4]]);
    ethtool(device, &mut request)?;
    Ok(request[3..]
        .chunks(words)
        .map(|chunk| {
            let bytes: &[u8] = bytemuck::cast_slice(chunk);
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        })
        .collect())
}

/// The state of `count` feature bits.
pub(super) fn features(device: &str, count: usize) -> io::Result<Vec<Block>> {
    // struct ethtool_gfeatures: cmd, size, then blocks of available, requested, active, never_changed.
    let blocks = count.div_ceil(32);
    let mut request = vec![0u32; 2 + blocks * 4];
    request[0] = ETHTOOL_GFEATURES;
    request[1] = u32::try_from(blocks).map_err(io::Error::other)?;
    ethtool(device, &mut request)?;
    Ok(request[2..]
        .chunks(4)
        .map(|block| Block {
            available: block[0],
            active: block[2],
        })
        .collect())
}

/// Changes feature bits: per block of 32, which bits to set, and to what.
pub(super) fn set_features(device: &str, blocks: &[(u32, u32)]) -> io::Result<()> {
    // struct ethtool_sfeatures: cmd, size, then blocks of valid, requested.
    let mut request = vec![
        ETHTOOL_SFEATURES,
        u32::try_from(blocks.len()).map_err(io::Error::other)?,
    ];
    for (valid, requested) in blocks {
        request.extend([*valid, *requested]);
    }
    // A positive answer (some bits not changed as wished) is seen by reading them back.
    ethtool(device, &mut request)
}

fn set_u64(words: &mut [u32], at: usize, value: u64) {
    let bytes = value.to_ne_bytes();
    let halves: [u32; 2] = bytemuck::cast(bytes);
    words[at..at + 2].copy_from_slice(&halves);
}

/// Runs one ethtool command. The kernel reads and writes `request` as far as the command's own size
/// fields say; every caller above sizes the buffer from the very number it puts there.
fn ethtool(device: &str, request: &mut [u32]) -> io::Result<()> {
    let socket = any_socket()?;
    let name = device.as_bytes();
    if name.len() >= libc::IFNAMSIZ || name.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{device:?} is no interface name"),
        ));
    }
    // SAFETY: ifreq is plain old data of integers, pointers and arrays; all zeroes is a valid value.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name) {
        *to = c_char::from_ne_bytes([*from]);
    }
    ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: the socket is open, ifreq is initialised with a terminated name, and its data pointer
    // is a live, exclusively borrowed buffer as long as the command says (see above).
    let result: c_int =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
