//! `docs/maps.md` from the types of keys and values: what `bpftool map dump` shows.

use std::fmt::Write as _;
use std::mem::offset_of;

use flannel_common::asked::Asked;
use flannel_common::crossing::{Change, Crossing, SLOTS, Seen};
use flannel_common::event::{About, Filter, Listen, PEER_PREFIXES, Prefix};
use flannel_common::flow::{Flow, FlowKey, Half};
use flannel_common::header::Ip;
use flannel_common::maps::{self, Peer, Vtep};
use flannel_common::outside::Way;
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::snat::{
    self, Choice, Choices, Entry, Fragment, FragmentKey, Key, Lasting, Lent, MAX_CHOICES, Place,
    Share, Side, Times,
};
use flannel_common::source::{Sender, SenderKey};
use flannel_common::stats::{Count, Counters};

use super::Page;

const INTRODUCTION: &str = "\
# Maps

Pinned under `<bpffs>/flannel/<network>/v<layout>/maps/<name>` and so outliving the agent. Addresses and ports are bytes in network
order; everything else is in the machine's byte order. `bpftool map dump pinned PATH` prints the fields below.
";

/// A struct with its fields, in order; does not compile when a field is missing or has another type.
macro_rules! layout {
    ($type:ident { $($field:ident: $kind:ty = $meaning:literal,)* }) => {{
        // Whoever adds a field has to describe it here.
        let complete = |value: $type| {
            let $type { $($field),* } = value;
            $(let _: $kind = $field;)*
        };
        let _ = complete;
        Layout {
            name: stringify!($type),
            size: size_of::<$type>(),
            fields: vec![$((stringify!($field), stringify!($kind), offset_of!($type, $field), $meaning)),*],
        }
    }};
}

struct Layout {
    name: &'static str,
    size: usize,
    fields: Vec<(&'static str, &'static str, usize, &'static str)>,
}

pub(super) fn page() -> Page {
    let mut text = String::from(
        "<!-- Made by `cargo xtask docs` from flannel-common/src/{maps,flow,crossing,snat/entry,stats,program}.rs: change those. -->\n\n",
    );
    text.push_str(INTRODUCTION);
    let _ = writeln!(text, "\nLayout version: {}.\n", maps::LAYOUT_VERSION);
    text.push_str("| map | kind | key | value | entries |\n| --- | --- | --- | --- | ---: |\n");
    for (name, kind, key, value, entries) in [
        (
            maps::PEERS,
            "LPM trie",
            "subnet (prefix length, address)",
            "`Peer`",
            maps::MAX_PEERS,
        ),
        (
            maps::VTEPS,
            "hash",
            "outer address",
            "`Vtep`",
            maps::MAX_PEERS,
        ),
        (maps::MACS, "hash", "VTEP MAC", "`Vtep`", maps::MAX_PEERS),
        (
            maps::SENDERS,
            "LRU hash",
            "`SenderKey`",
            "`Sender`",
            maps::MAX_SENDERS,
        ),
        (
            maps::ASKED,
            "LRU hash",
            "outer address",
            "`Asked`",
            maps::MAX_SENDERS,
        ),
        (
            maps::FLOWS,
            "LRU hash",
            "`FlowKey`",
            "`Flow`",
            maps::MAX_FLOWS,
        ),
        (maps::EPOCH, "array", "0", "epoch (`u32`)", 1),
        (
            maps::SLOT,
            "per-CPU array",
            "direction and part of the flow",
            "`Crossing`",
            SLOTS,
        ),
        (
            maps::UNFIT,
            "hash",
            "ifindex (`u32`)",
            "why nothing is proven there (`u32`)",
            maps::MAX_UNFIT,
        ),
        (maps::SNAT, "LRU hash", "`Key`", "`Entry`", maps::MAX_SNAT),
        (
            maps::ENDING,
            "hash",
            "`Key`",
            "since when (`u64`)",
            maps::MAX_ENDING,
        ),
        (maps::YOUNG, "array", "random", "`Place`", maps::MAX_YOUNG),
        (maps::SHARES, "array", "pod", "`Share`", snat::SHARES),
        (maps::LASTING, "array", "pod", "`Lasting`", snat::SHARES),
        (maps::TIMES, "array", "0", "`Times`", 1),
        (
            maps::FRAGMENTS,
            "LRU hash",
            "`FragmentKey`",
            "`Fragment`",
            maps::MAX_FRAGMENTS,
        ),
        (
            maps::EXEMPT,
            "LPM trie",
            "prefix (length, address)",
            "1 (`u8`)",
            maps::MAX_EXEMPT,
        ),
        (
            maps::OUTLETS,
            "hash",
            "ifindex (`u32`)",
            "`Choices`",
            maps::MAX_OUTLETS,
        ),
        (maps::LENT, "hash", "`Lent`", "1 (`u32`)", maps::MAX_LENT),
        (
            maps::STEPS,
            "program array",
            "step",
            "program",
            Program::STEP_SLOTS,
        ),
        (maps::WORK, "per-CPU array", "0", "the packet at hand", 1),
        (
            maps::STATS,
            "per-CPU array",
            "program",
            "`Counters`",
            Program::SLOTS,
        ),
        (maps::LISTEN, "array", "0", "`Listen`", 1),
        (maps::FILTER, "array", "0", "`Filter`", 1),
        (
            maps::TELLER,
            "program array",
            "0",
            "the listener's program",
            1,
        ),
        (
            maps::CAPTURE,
            "perf event array",
            "CPU",
            "`About`, then the packet",
            0,
        ),
        (
            maps::LOST,
            "per-CPU array",
            "0",
            "events without room (`u64`)",
            1,
        ),
        (
            maps::EVENTS,
            "ring buffer, bytes",
            "",
            "`About`, then 128 bytes of the packet",
            maps::EVENTS_BYTES,
        ),
    ] {
        let entries = match entries {
            0 => "one a CPU".to_owned(),
            n => n.to_string(),
        };
        let _ = writeln!(text, "| `{name}` | {kind} | {key} | {value} | {entries} |");
    }
    for layout in layouts() {
        let _ = write!(
            text,
            "\n## {}\n\n{} bytes.\n\n| offset | field | type | meaning |\n| ---: | --- | --- | --- |\n",
            layout.name, layout.size
        );
        for (field, kind, offset, meaning) in layout.fields {
            let _ = writeln!(text, "| {offset} | `{field}` | `{kind}` | {meaning} |");
        }
    }
    let _ = write!(
        text,
        "\n## Counters\n\n{} bytes: one `Count` for each of the {} [reasons](reasons.md), in the order of their numbers.\n",
        size_of::<Counters>(),
        Reason::ALL.len()
    );
    text.push_str("\n## Programs\n\nKeys of `fl_stats`.\n\n| key | program |\n| ---: | --- |\n");
    for program in Program::ALL {
        let _ = writeln!(text, "| {} | `{}` |", program as u32, program.name());
    }
    Page {
        name: "maps.md",
        text,
    }
}

fn layouts() -> [Layout; 29] {
    [
        layout!(Peer {
            public_ip: [u8; 4] = "the peer's PublicIP, outer destination",
            next_hop: [u8; 4] = "gateway towards it, or `public_ip` itself when on-link",
            vtep_mac: [u8; 6] = "inner destination MAC",
            kind: u8 = "1: by VXLAN; 2: routed without encapsulation",
            narrow: u8 = "longest inner packet, where a route's MTU leaves less than the overlay's: in steps of 32 bytes; 0: the overlay's MTU",
        }),
        layout!(Way {
            ifindex: u32 = "index of the interface that packets leave the cluster by",
            next_hop: [u8; 4] = "gateway, or the destination itself when on-link",
            longest: u16 =
                "bytes of the longest packet that the stack let out, from the IPv4 header on",
            pad: [u8; 4] = "0",
            kind: u8 = "3: out of the cluster",
            end: u8 = "0",
        }),
        layout!(Vtep {
            leases: u32 = "number of leases that name this address, or MAC",
        }),
        layout!(SenderKey {
            outer: [u8; 4] = "outer source that is not the address of the lease its packets claim",
            reason: u8 = "number of the reason to drop them; 255: taken, by the MAC",
            pad: [u8; 3] = "0",
        }),
        layout!(Sender {
            packets: u64 = "packets",
            last: u64 = "monotonic nanoseconds of the last one",
            inner: [u8; 4] = "its inner source",
            mac: [u8; 6] = "source of its inner Ethernet header",
            pad: [u8; 6] = "0",
        }),
        layout!(Asked {
            received: u32 = "when one from there was last left to the stack; ticks",
            tries: u32 = "how often since one was seen behind it",
            seen: u32 =
                "when one was last seen behind it; address 0.0.0.0: when the agent was there",
            sent: u32 = "when one to there was last left to the stack",
        }),
        layout!(FlowKey {
            local: [u8; 4] = "the pod on this node",
            remote: [u8; 4] = "the pod on the other node, or the address outside",
            local_port: [u8; 2] = "port of the pod on this node",
            remote_port: [u8; 2] = "port of that",
            proto: u8 = "6: TCP; 17: UDP",
            pad: [u8; 3] = "0",
        }),
        layout!(Flow {
            tx: Half = "from the pod to the overlay or the outside",
            peer: Peer = "where the stack sent it; a `Way` if its `kind` is 3",
            closed: u32 = "tick at which FIN or RST was seen; 0: open",
            bulk: u32 = "tick at which a full-size segment last arrived; 0: never",
            rx: Half = "from there to the pod",
            rx_peer: [u8; 4] = "the outer source from which it may arrive",
            pod_mac: [u8; 6] = "destination MAC of what the stack delivered",
            gateway_mac: [u8; 6] = "source MAC of what the stack delivered",
            hook: u8 = "what the port of `rx` is: 0 a pod's port, 1 the bridge",
            opener: u8 = "who sent first: 0 not known, 1 the pod of this node, 2 the other end",
            answer_due: u8 = "1: who opened was looked at since who answers was",
            pad: u8 = "0",
        }),
        layout!(Half {
            verified: u32 = "tick at which the hook behind the stack last saw a packet come out that the one before it had noted; 0: never",
            probed: u32 = "tick of a renewal that has not come out yet; 0: there is none",
            epoch: u32 = "epoch in which that packet went in",
            port: u32 = "index of the interface, a pod's port or the bridge, by which packets come in (`tx`) or go out (`rx`)",
            change: Change = "what the stack did to it",
        }),
        layout!(Change {
            mark_in: u32 = "mark with which it went into the stack",
            mark: u32 = "mark with which it came out; of what goes to a pod's port 0, for a veth takes it off",
            priority: u32 = "traffic class with which it came out; the same",
            tos_in: u8 = "TOS byte with which it went in",
            tos: u8 = "TOS byte with which it came out",
            ttl_in: u8 = "TTL with which it went in",
            pad: u8 = "0",
        }),
        layout!(Crossing {
            seen: Seen = "the packet as it went in",
            device: u32 = "index of the interface on which the stack received it",
            gso_size: u32 = "payload of each segment it stands for, bytes; 0: one packet",
            epoch: u32 = "epoch in which it went in",
            at: u32 = "tick at which it did; 0: no packet yet",
            out: u32 = "index of the interface where it came out; 0: it has not",
        }),
        layout!(Seen {
            ip: Ip = "IPv4 header",
            l4: [u8; 16] = "what follows it: ports, and of TCP all up to the window",
            mark: u32 = "mark",
            priority: u32 = "traffic class",
        }),
        layout!(Key {
            src: [u8; 4] = "the packet's source",
            dst: [u8; 4] = "the packet's destination",
            src_port: [u8; 2] =
                "source port; of ICMP queries the id (leaving) or the query's type (arriving)",
            dst_port: [u8; 2] =
                "destination port; of ICMP queries the type (leaving) or the id (arriving)",
            proto: u8 = "IP protocol",
            way: u8 = "1: leaving, before translation; 2: arriving, before translation back",
            pad: [u8; 2] = "0",
        }),
        layout!(Entry {
            addr: [u8; 4] = "leaving: the new source; arriving: the new destination",
            port: [u8; 2] = "its port or ICMP id",
            kind: u8 = "1: half of a translated flow; 2: a connection that came in, left as it is; 3: the node's own",
            seen: u8 =
                "bits 0 to 3: FIN, SYN, RST, ACK seen leaving; bits 4 to 7: the same arriving",
            last_seen: u64 = "monotonic nanoseconds of the last packet this way",
            opened: u64 = "monotonic nanoseconds of the first packet",
            sides: [Side; 2] = "TCP: what the side said that speaks leaving, and the one that speaks arriving; each half of a pair knows its own",
        }),
        layout!(Side {
            end: u32 = "sequence number behind all that it sent",
            next: u32 = "its highest acknowledgement",
            asked: u32 = "sequence number behind a SYN that was not believed",
            marks: u32 = "1: `end` is noted; 2: and acknowledged by the other side, as `next` is; 4: a FIN ends there; 8: `asked` is noted",
        }),
        layout!(Place {
            key: Key = "out key of a flow that does not last yet; all zero: the place is free",
            share: u32 = "whose flow it is: host part of the pod's address (0: no pod of this node), plus 2048 for a connection to it",
        }),
        layout!(Share {
            young: u32 = "places that are the pod's",
            ended: u32 = "its flows that were ended, not yet lasting, because there was no place",
            pod: [u8; 4] = "the pod that took a place last",
        }),
        layout!(Lasting {
            flows: u32 = "flows of the pod without a place, as the agent counted them, and those that came since",
            placed: u32 = "its flows with a place, as the agent counted them",
            most: u32 = "with so many of both it opens no more",
            at: u32 = "tick at which the agent did; 0: never",
        }),
        layout!(Times {
            tcp_syn_sent: u32 = "seconds after its last packet for which a flow lives: TCP, SYN",
            tcp_syn_recv: u32 = "SYN-ACK that is not confirmed",
            tcp_established: u32 = "made by both sides",
            tcp_close_wait: u32 = "ended by one",
            tcp_time_wait: u32 = "ended by both",
            tcp_close: u32 = "reset",
            tcp_unacknowledged: u32 =
                "middle of a connection that nobody answered, or of which a side waits",
            tcp_max_retrans: u32 = "the same of one of which a side waits, if it is shorter",
            udp: u32 = "UDP",
            udp_stream: u32 = "UDP that is answered, and in use for two seconds",
            icmp: u32 = "ICMP queries",
            generic: u32 = "any other protocol",
            gre: u32 = "GRE",
            gre_stream: u32 = "GRE that is answered",
            sctp: u32 = "SCTP",
            sctp_established: u32 = "SCTP that is answered",
        }),
        layout!(FragmentKey {
            src: [u8; 4] = "the fragment's source",
            dst: [u8; 4] = "the fragment's destination",
            id: [u8; 2] = "IPv4 identification",
            proto: u8 = "IP protocol",
            way: u8 = "as in `Key`",
        }),
        layout!(Fragment {
            addr: [u8; 4] = "leaving: the new source; arriving: the new destination",
            kind: u8 = "as in `Entry`",
            pad: [u8; 3] = "0",
            opened: u64 = "monotonic nanoseconds of the first fragment",
        }),
        layout!(Choices {
            all: [Choice; MAX_CHOICES] = "primary addresses of the device in the kernel's order, then the first again and again",
            tracked: u16 = "1: netfilter sees what arrives by the device before our hook does, because it is a bridge or is on one",
            mac: [u8; 6] = "the device's own; zeros if it has none",
        }),
        layout!(Choice {
            address: [u8; 4] = "a flow leaves as this address",
            link: [u8; 4] = "if its next hop is in the subnet of this address",
            mask: [u8; 4] = "and this mask, or if it is the first and no other fits",
        }),
        layout!(Lent {
            ifindex: u32 = "device; 0: any",
            address: [u8; 4] = "an address that flows may leave as there",
        }),
        layout!(Count {
            packets: u64 = "packets; one that GRO merged or GSO will split counts as one",
            bytes: u64 = "bytes, Ethernet header included",
        }),
        layout!(Listen {
            until: u64 = "monotonic nanoseconds up to which somebody listens; 0: nobody",
            mask: u32 = "one packet in `mask` + 1 is reported, and every drop",
            flags: u32 = "1: only drops; 2: to `fl_capture`, whole",
        }),
        layout!(About {
            at: u64 = "monotonic nanoseconds",
            ifindex: u32 = "device whose hook the program is on",
            len: u32 = "length from the Ethernet header on, bytes",
            gso_size: u32 = "payload of each segment it stands for, bytes; 0: one packet",
            program: u8 = "number of the program",
            reason: u8 = "number of the reason",
            caught: u8 = "how many of the 128 bytes are the packet's",
            action: u8 = "lowest byte of the TC action",
        }),
        layout!(Filter {
            pod: Prefix = "an address of the packet lies here; all zero: any",
            peers: [Prefix; PEER_PREFIXES] = "and one in one of these",
            device: u32 = "ifindex of the device at hand; 0: any",
            snap: u32 = "of a packet for `fl_capture` so many bytes",
            port: u16 = "TCP or UDP port of either end; 0: any",
            vxlan_port: u16 = "UDP port behind which there is another packet; 0: none",
        }),
        layout!(Prefix {
            network: u32 = "first address, host order",
            mask: u32 = "host order",
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_follow_each_other_without_a_gap() {
        for layout in layouts() {
            let offsets: Vec<_> = layout.fields.iter().map(|f| f.2).collect();
            assert!(offsets.is_sorted(), "{}: {offsets:?}", layout.name);
            assert_eq!(offsets.first(), Some(&0), "{}", layout.name);
        }
    }
}
