//! Replies from outside the cluster that `uplink_snat_rx` translated: verified flows go to the pod from here.

use core::mem::MaybeUninit;

use flannel_common::cidr;
use flannel_common::flow::{Direction, FlowKey};
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control};

use crate::direct_rx::judge;
use crate::globals::{OVERLAY_MTU, SUBNET, SUBNET_MASK, UPLINK_IFINDEX};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{flows, headers};

/// That it was translated proves where it comes from: whom a pod of ours talks to.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    transport::check_fast(&packet.ip)?;
    let tcp = transport::tcp(&packet.ip, &packet.l4)?;
    let control = transport::control(tcp);
    let key = FlowKey::inbound(&packet.ip, &packet.l4);
    let Some(flow) = flows::get(&key) else {
        return answered(skb, &key, control);
    };
    if flow.control(Direction::Rx, control, flows::now()) {
        return Err(Reason::TcpControl);
    }
    transport::check_size(&packet.ip, tcp, skb.gso_size(), OVERLAY_MTU.load())?;
    judge(skb, packet, &key, flow, flows::epoch())
}

/// An entry for a connection that is answered: its request may be fast already. Other flows wait for their second packet
/// out, which `outside_tx` enters.
#[inline(always)]
fn answered(skb: &Skb, key: &FlowKey, control: Control) -> Result<Verdict, Reason> {
    let is_pods = cidr::contains(SUBNET.load(), SUBNET_MASK.load(), key.local);
    if control != Control::Answer || !is_pods || skb.ifindex() != UPLINK_IFINDEX.load() {
        return Ok(Verdict::Untouched);
    }
    flows::enter(key, &flows::seen(Direction::Rx, flows::now()))?;
    Err(Reason::TcpControl)
}
