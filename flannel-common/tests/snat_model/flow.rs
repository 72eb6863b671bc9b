//! Flows, and what may happen to them.

use flannel_common::header::Ip;
use flannel_common::snat::{Endpoint, Key, Packet, Ports, Segment, WAY_OUT};
use proptest::prelude::*;

pub(crate) const US: [u8; 4] = [192, 168, 0, 1];
/// Few enough that flows collide all the time.
pub(crate) const PORTS: Ports = Ports {
    min: 50_000,
    max: 50_003,
};
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A flow as its pod (or the node) knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) src: Socket,
    pub(crate) dst: Socket,
    pub(crate) proto: u8,
}

/// What a TCP segment says: few enough numbers that sides agree, and forgers hit, all the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) flags: u8,
    pub(crate) seq: u8,
    pub(crate) ack: u8,
}

impl From<u8> for Shape {
    fn from(flags: u8) -> Self {
        Self {
            flags,
            seq: 0,
            ack: 0,
        }
    }
}

/// Address and port.
type Socket = ([u8; 4], u16);

impl Flow {
    pub(crate) fn packet(self, way: u8, shape: impl Into<Shape>) -> Packet {
        let Shape { flags, seq, ack } = shape.into();
        let (src, dst) = match way {
            WAY_OUT => (self.src, self.dst),
            _ => (self.dst, self.src),
        };
        let ip = Ip {
            proto: self.proto,
            src: src.0,
            dst: dst.0,
            ..bytemuck::Zeroable::zeroed()
        };
        let [a, b] = src.1.to_be_bytes();
        let [c, d] = dst.1.to_be_bytes();
        let header = [a, b, c, d, 0, 0, 0, seq, 0, 0, 0, ack, 5 << 4, flags];
        let head = [a, b, c, d, 0, 0, 0, seq];
        let segment = Segment::new(&header, 20);
        let packet = Packet::of(ip.src, ip.dst, ip.proto, way, &head, flags, segment);
        let Some(packet) = packet else {
            unreachable!("TCP and UDP always have ports")
        };
        packet
    }

    pub(crate) fn out(self) -> Key {
        self.packet(WAY_OUT, ACK).key
    }

    pub(crate) fn source(self) -> Endpoint {
        self.out().source()
    }

    /// The same flow as the remote end sees it under another source.
    pub(crate) fn seen_as(self, from: Endpoint) -> Self {
        Self {
            src: (from.addr, u16::from_be_bytes(from.port)),
            ..self
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A pod sends.
    Send(Flow, Shape),
    /// The remote end answers the nth flow that was ever let out, under the address it left with.
    Reply(usize, Shape),
    /// The node sends from our address.
    Own(Flow, Shape),
    /// Somebody outside speaks to a pod itself.
    Arrive(Flow, Shape),
    Evict(usize),
    Pause(u64),
    Sweep,
    Move,
}

pub(crate) fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![1 => Just(SYN), 4 => Just(ACK), 1 => Just(SYN | ACK), 1 => Just(0x11), 1 => Just(0x04)]
}

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    (flags(), 0..4u8, 0..4u8).prop_map(|(flags, seq, ack)| Shape { flags, seq, ack })
}

fn remote() -> impl Strategy<Value = Socket> {
    (0..2u8, Just(53u16)).prop_map(|(host, port)| ([198, 51, 100, host], port))
}

pub(crate) fn flow(src: impl Strategy<Value = Socket>) -> impl Strategy<Value = Flow> {
    (src, remote(), prop_oneof![Just(TCP), Just(UDP)]).prop_map(|(src, dst, proto)| Flow {
        src,
        dst,
        proto,
    })
}

pub(crate) fn pod() -> impl Strategy<Value = Socket> {
    (1..5u8, prop_oneof![0..3u16, 50_000..50_003u16])
        .prop_map(|(host, port)| ([10, 244, 1, host], port))
}

fn own() -> impl Strategy<Value = Socket> {
    (PORTS.min..=PORTS.max).prop_map(|port| (US, port))
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (flow(pod()), shape()).prop_map(|(f, b)| Event::Send(f, b)),
        8 => (any::<usize>(), shape()).prop_map(|(n, b)| Event::Reply(n, b)),
        2 => (flow(own()), shape()).prop_map(|(f, b)| Event::Own(f, b)),
        1 => (flow(pod()), shape()).prop_map(|(f, b)| Event::Arrive(f, b)),
        3 => any::<usize>().prop_map(Event::Evict),
        2 => prop_oneof![1..9u64, 9..700u64].prop_map(Event::Pause),
        1 => Just(Event::Sweep),
        1 => Just(Event::Move),
    ]
}
