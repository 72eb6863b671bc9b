//! What a bridge has shown netfilter before our hook saw it.
//!
//! br_netfilter has PREROUTING run at the bridge's port, and conntrack with it. Of an answer to a flow that we translated it sees the
//! node's address there, so that it finds a new connection, or an invalid packet; and the stack goes by that, for it does not look
//! twice (`ip_sabotage_in`). So such an answer arrives once more when it is translated: a redirect takes off what
//! conntrack and the bridge have noted (`skb_scrub_packet`).

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use flannel_common::header::Ip;
use flannel_common::reason::{Class, Reason};

use crate::cluster::cluster;
use crate::redirect;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{headers, outlets};

/// What becomes of a packet that was translated back and is for the stack; not of what is dropped.
#[inline(always)]
pub(crate) fn once_more(skb: &Skb, done: Reason) -> Result<Verdict, Reason> {
    if matches!(done.class(), Class::Drop) {
        return Err(done);
    }
    match arrive_again(skb.raw()) {
        TC_ACT_UNSPEC => Err(done),
        action => Ok(Verdict::Taken(action, done)),
    }
}

/// The action; none if nobody has seen the packet before us. A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn arrive_again(ctx: *mut __sk_buff) -> i32 {
    let skb = Skb::new(TcContext::new(ctx));
    let device = skb.ifindex();
    if !outlets::is_tracked(device) {
        return TC_ACT_UNSPEC;
    }
    skb.tell_translated();
    redirect::ingress(device)
}

/// Whether [`arrive_again`] had the packet arrive again: then nobody translates it once more, whosever it is. The note is taken off where
/// the packet is for a pod: what the node sends to another one on this machine keeps it.
#[inline(always)]
pub(crate) fn came_again(skb: &Skb) -> bool {
    if !skb.was_translated() {
        return false;
    }
    // A bridge takes frames for the addresses of its ports as well. It has decided, and the redirect has judged anew.
    skb.show_to_stack();
    let dst = skb.load::<Ip>(headers::IP).map(|ip| ip.dst);
    if dst.is_some_and(|dst| cluster().has(dst)) {
        skb.set_passes(0);
    }
    true
}
