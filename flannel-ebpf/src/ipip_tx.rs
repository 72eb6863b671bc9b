//! The backend ipip: what goes to a peer gets an IPv4 header in front.

use flannel_common::crossing::Change;
use flannel_common::header::{Eth, Ip, PROTO_IPIP};
use flannel_common::ipip::{self, Varying};
use flannel_common::maps::{Peer, ROUTED};
use flannel_common::reason::Reason;

use crate::encap::{At, Encapsulate};
use crate::globals::{self, OUTER_TEMPLATE, UPLINK_IFINDEX};
use crate::random;
use crate::redirect;
use crate::route::{self, Outer};
use crate::skb::Skb;
use crate::verdict::Verdict;

pub(crate) struct Ipip;

impl Encapsulate for Ipip {
    const BY_ADDRESS: bool = true;

    /// As for a kernel ipip device's packets, the way does not depend on the inner packet's mark (`ip_tunnel_xmit`).
    #[inline(always)]
    fn send(
        skb: &Skb,
        peer: &Peer,
        ip: &Ip,
        at: At,
        class: Option<&Change>,
        reason: Reason,
    ) -> Result<Verdict, Reason> {
        let len = skb.len().wrapping_sub(Eth::LEN as u32);
        let outer = ipip::fill(
            &OUTER_TEMPLATE.load(),
            &Varying {
                remote: peer.public_ip,
                inner: *ip,
                id: random::ip_id(),
                inner_len: u16::try_from(len).map_err(|_| Reason::EncapRefused)?,
            },
        )
        .ok_or(Reason::EncapRefused)?;
        skb.grow_ipip().map_err(|_| Reason::EncapRefused)?;
        if let Some(class) = class {
            skb.set_class(class.mark, class.priority);
        }
        skb.store(Eth::LEN, &outer).map_err(|_| Reason::Mangled)?;
        if globals::masquerades() {
            skb.tell_tunnelled();
        }
        let action = match at {
            At::Pod if peer.next_hop != ROUTED => {
                redirect::to_neighbour(UPLINK_IFINDEX.load(), peer.next_hop)
            }
            _ => route::send(
                skb,
                &Outer {
                    to: peer.public_ip,
                    proto: PROTO_IPIP,
                    ports: [[0; 2]; 2],
                    by_mark: false,
                },
            )?,
        };
        Ok(Verdict::Taken(action, reason))
    }
}
