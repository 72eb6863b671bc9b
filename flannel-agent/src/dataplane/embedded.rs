//! The object that the binary brings along.

pub(super) static EMBEDDED: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel-ebpf"));
