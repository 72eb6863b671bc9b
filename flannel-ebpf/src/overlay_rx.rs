//! What comes out of the veth pair: bulk flows, merged by GRO on the way, are judged here.

use core::mem::MaybeUninit;

use flannel_common::flow::{Direction, FlowKey};
use flannel_common::header::PROTO_TCP;
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control};

use crate::deliver;
use crate::globals::OVERLAY_MTU;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{flows, headers};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !flows::enabled() || flows::always() || !skb.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    if packet.ip.proto != PROTO_TCP {
        return Ok(Verdict::Untouched);
    }
    let Some(flow) = flows::get(&FlowKey::inbound(&packet.ip, &packet.l4)) else {
        return Ok(Verdict::Untouched);
    };
    let now = flows::now();
    // `uplink_rx` has judged the others, one by one.
    if !flow.is_bulk(now) {
        return Ok(Verdict::Untouched);
    }
    transport::check_fast(&packet.ip)?;
    let tcp = transport::tcp(&packet.ip, &packet.l4)?;
    if transport::control(tcp) != Control::None {
        return Err(Reason::TcpControl);
    }
    transport::check_size(&packet.ip, tcp, skb.gso_size(), OVERLAY_MTU.load())?;
    let step = flow.decide(Direction::Rx, now, flows::epoch(), true);
    deliver::decided(skb, &packet.ip, flow, (step, now), Reason::FastRxGro)
}
