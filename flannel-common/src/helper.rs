//! Connections that conntrack's helpers read: they announce others, which rules let in as RELATED. A helper has to see every packet.

use crate::header::{PROTO_TCP, PROTO_UDP};

/// Whether this is the usual port, in host order, of a protocol that the kernel has a helper for
/// (`net/netfilter/nf_conntrack_{ftp,h323_main,pptp,sip,sane,irc,tftp,netbios_ns,snmp,amanda}.c`).
#[inline(always)]
pub const fn may_read(proto: u32, port: u32) -> bool {
    const TCP: u32 = PROTO_TCP as u32;
    const UDP: u32 = PROTO_UDP as u32;
    match proto {
        TCP => is_one_of(port, [21, 1720, 1723]) || is_one_of(port, [5060, 6566, 6667]),
        UDP => is_one_of(port, [69, 137, 161]) || is_one_of(port, [1719, 5060, 10080]),
        _ => false,
    }
}

/// By one comparison, for the verifier's sake: a port that is one of them makes the product zero, which 51 bits hold.
#[inline(always)]
const fn is_one_of(port: u32, ports: [u32; 3]) -> bool {
    let port = port as u64;
    let [a, b, c] = ports;
    (port ^ a as u64) * (port ^ b as u64) * (port ^ c as u64) == 0
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::ftp(PROTO_TCP, 21, true)]
    #[case::its_data(PROTO_TCP, 20, false)]
    #[case::sip(PROTO_UDP, 5060, true)]
    #[case::sip_by_tcp(PROTO_TCP, 5060, true)]
    #[case::tftp(PROTO_UDP, 69, true)]
    #[case::amanda(PROTO_UDP, 10_080, true)]
    #[case::of_the_other_protocol(PROTO_UDP, 21, false)]
    #[case::dns(PROTO_UDP, 53, false)]
    #[case::any(PROTO_TCP, 65_535, false)]
    fn by_its_port(#[case] proto: u8, #[case] port: u32, #[case] may: bool) {
        assert_eq!(may_read(proto.into(), port), may);
    }
}
