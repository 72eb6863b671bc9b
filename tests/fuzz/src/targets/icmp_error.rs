//! ICMP errors: somebody else's packet inside one that we translate.

use flannel_common::header::{Ip, PROTO_UDP};
use flannel_common::snat::{Embedded, Endpoint, WAY_IN, WAY_OUT, rewrite};

use super::wire::sum;
use crate::bytes::take;

/// Whatever is embedded, the message's own checksum is as right after the translation as it was before.
pub(super) fn icmp_error(mut data: &[u8]) {
    let (Some(ip), Some(head)) = (take::<Ip>(&mut data), take::<[u8; 8]>(&mut data)) else {
        return;
    };
    let (Some(addr), Some(port)) = (take(&mut data), take(&mut data)) else {
        return;
    };
    let tcp_check = take::<[u8; 2]>(&mut data);
    let before = Embedded {
        ip,
        head,
        tcp_check,
    };
    for way in [WAY_IN, WAY_OUT] {
        if let Some(key) = before.key(way) {
            assert_eq!(key.way, way);
        }
        let check = (!sum(&bytes(&before))).to_be_bytes();
        let after = rewrite(check, &before, way, Endpoint { addr, port });
        let mut message = bytes(&after.embedded);
        message.extend(after.icmp_check);
        assert_eq!(sum(&message), 0, "{before:?} {after:?}");
        let (address, other) = match way {
            WAY_IN => (after.embedded.ip.src, after.embedded.ip.dst == ip.dst),
            _ => (after.embedded.ip.dst, after.embedded.ip.src == ip.src),
        };
        assert!(other && address == addr);
        if ip.proto == PROTO_UDP && head[6..] == [0, 0] {
            assert_eq!(after.embedded.head[6..], [0, 0], "no checksum stays none");
        }
    }
}

/// What is behind the ICMP header, as far as it is known.
fn bytes(embedded: &Embedded) -> Vec<u8> {
    let mut all = bytemuck::bytes_of(&embedded.ip).to_vec();
    all.extend(embedded.head);
    all.extend(embedded.tcp_check.unwrap_or_default());
    all
}
