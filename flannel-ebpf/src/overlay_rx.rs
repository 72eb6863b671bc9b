//! What comes out of the veth pair and is about to enter the stack: the packet is noted, so that `pod_rx` knows it again. Bulk
//! flows, merged by GRO on the way, are judged here.

use core::mem::MaybeUninit;

use flannel_common::flow::{Direction, FlowKey};
use flannel_common::header::PROTO_TCP;
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control};

use crate::fast_rx::is_for_pod_of_ours;
use crate::globals::OVERLAY_MTU;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{crossing, deliver, flows, headers};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !flows::enabled() || !skb.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    let ip = &packet.ip;
    if !is_for_pod_of_ours(ip) || transport::check_fast(ip).is_err() {
        return Ok(Verdict::Untouched);
    }
    let key = FlowKey::inbound(ip, &packet.l4);
    let at = (flows::now(), flows::epoch());
    // `uplink_rx` has judged all but bulk flows, one by one.
    let flow = match ip.proto == PROTO_TCP && !flows::always() {
        true => flows::get(&key).filter(|flow| flow.is_bulk(at.0)),
        false => None,
    };
    let tcp = transport::tcp(ip, &packet.l4)?;
    let control = transport::control(tcp);
    let size = transport::check_size(ip, tcp, skb.gso_size(), OVERLAY_MTU.load());
    let Some(flow) = flow else {
        if let (Control::None | Control::Answer, Ok(_)) = (control, size) {
            crossing::enters(skb, packet, &key, Direction::Rx, at);
        }
        return Ok(Verdict::Untouched);
    };
    if control != Control::None {
        return Err(Reason::TcpControl);
    }
    size?;
    deliver::decided(skb, packet, (&key, flow), true, at, Reason::FastRxGro)
}
