//! What IPv4 headers and ICMP messages carry about themselves.

use flannel_common::csum;

/// The Internet checksum (RFC 1071) of a header or a short message whose checksum field is zero.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| {
        u32::from(u16::from_be_bytes([
            word[0],
            word.get(1).copied().unwrap_or(0),
        ]))
    });
    (!csum::fold(words.sum())).to_be_bytes()
}
