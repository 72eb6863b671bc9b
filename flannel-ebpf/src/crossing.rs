//! The note about the packet that this CPU takes through the stack; see [`flannel_common::crossing`].

use flannel_common::crossing::{Change, Crossing, Seen, place};
use flannel_common::flow::{Direction, Flow, FlowKey, Proof, Tick, opener};
use flannel_common::helper;
use flannel_common::reason::Reason;

use crate::flows;
use crate::headers::Packet;
use crate::maps::{SLOT, UNFIT};
use crate::skb::Skb;

/// The packet is about to enter the stack. `epoch` was read before anything that decided so.
#[inline(always)]
pub(crate) fn enters(
    skb: &Skb,
    packet: &Packet,
    key: &FlowKey,
    direction: Direction,
    (now, epoch): (Tick, u32),
) {
    let Some(note) = note(key, direction) else {
        return;
    };
    *note = Crossing {
        seen: seen(skb, packet),
        device: skb.ifindex(),
        gso_size: skb.gso_size(),
        epoch,
        at: now,
        out: 0,
    };
}

/// A packet that came out behind the stack, and went in just before.
pub(crate) struct Passed {
    note: &'static mut Crossing,
    pub(crate) change: Change,
    pub(crate) now: Tick,
    opener: u32,
}

/// What the note says about the packet at hand, if it is its.
#[inline(always)]
pub(crate) fn passed(key: &FlowKey, direction: Direction, after: &Seen) -> Option<Passed> {
    let note = note(key, direction)?;
    if is_helped(key) {
        return None;
    }
    let now = flows::now();
    let change = note.change(after, now)?;
    Some(Passed {
        note,
        change,
        now,
        opener: opener(key.proto, &after.l4, direction),
    })
}

impl Passed {
    /// The device on which the stack received it.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        self.note.device
    }

    /// The proof that this is, unless the pod's port is one at which more happens to packets than the stack does.
    #[inline(always)]
    pub(crate) fn proof(&self, port: u32, change: Change) -> Option<Proof> {
        is_fit(port).then_some(Proof {
            epoch: self.note.epoch,
            port,
            change,
            opener: self.opener,
        })
    }

    /// It comes out of a port of the bridge. False if it came out of another one already.
    #[inline(always)]
    pub(crate) fn is_only(&mut self, port: u32) -> bool {
        let before = self.note.out;
        self.note.out = port;
        before == 0 || before == port
    }
}

/// As rules see it.
#[inline(always)]
pub(crate) fn seen(skb: &Skb, packet: &Packet) -> Seen {
    Seen {
        ip: packet.ip,
        l4: packet.l4,
        mark: skb.mark(),
        priority: skb.priority(),
    }
}

/// Whether the agent has nothing against a device.
#[inline(always)]
pub(crate) fn is_fit(device: u32) -> bool {
    UNFIT.get_ptr(device).is_none()
}

/// The flow whose packet it was; entered if it is new, which only what came out of the stack is.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Result<&'static mut Flow, Reason> {
    if let Some(flow) = flows::get(key) {
        return Ok(flow);
    }
    flows::enter(key, &Flow::EMPTY)?;
    flows::get(key).ok_or(Reason::FlowTableFull)
}

/// Whether a helper of conntrack's may read the flow.
#[inline(always)]
fn is_helped(key: &FlowKey) -> bool {
    let port = |port| u32::from(u16::from_be_bytes(port));
    has_helper(
        key.proto.into(),
        port(key.local_port),
        port(key.remote_port),
    ) != 0
}

/// A global function, which the verifier looks at once. Ports in host order.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn has_helper(proto: u32, one: u32, other: u32) -> u32 {
    u32::from(helper::may_read(proto, one) || helper::may_read(proto, other))
}

#[inline(always)]
fn note(key: &FlowKey, direction: Direction) -> Option<&'static mut Crossing> {
    let note = SLOT.get_ptr_mut(place(key, direction))?;
    // SAFETY: this CPU's memory, and the only reference to it: programs run with softirqs off, to their end.
    Some(unsafe { &mut *note })
}
