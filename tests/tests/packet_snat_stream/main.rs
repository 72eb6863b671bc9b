//! What ends a TCP connection in the SNAT table: the two who speak, and nobody who guesses.

#![cfg(test)]

mod ends;
mod forged;
mod lost;
mod unknown;

use flannel_common::program::Program::{UplinkSnatRx, UplinkTx};
use flannel_common::snat::Entry;
use flannel_tests::packet::line::{Line, Side};
use flannel_tests::packet::outside::{ACK, Plain, RST, SYN, SYN_ACK, US};
use flannel_tests::packet::{Fixture, Node};

const ESTABLISHED: u64 = 432_000;
const HALF_CLOSED: u64 = 60;
const RESET: u64 = 10;
const SYN_RECEIVED: u64 = 60;
const WAITING: u64 = 300;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// A pod's, translated.
    Pod,
    /// The node's own, under a port of the range.
    Node,
    /// One that came in for a pod from outside.
    Guest,
}

struct Connection {
    node: Fixture,
    of: Of,
    out: Plain,
    back: Plain,
    line: Line,
}

impl Connection {
    fn none(of: Of) -> Self {
        let node = Node {
            snat_ports: (50_000, 50_000),
            ..Node::default()
        };
        let pod = Plain::default();
        let (out, back) = match of {
            Of::Pod => (pod, pod.from(US, 50_000).answer()),
            Of::Node => (pod.from(US, 50_000), pod.from(US, 50_000).answer()),
            Of::Guest => (pod, pod.answer()),
        };
        Self {
            node: node.load_snat(),
            of,
            out,
            back,
            line: Line::default(),
        }
    }

    /// After data both ways.
    fn established(of: Of) -> Self {
        let mut this = Self::none(of);
        let first = this.opener();
        this.sends(first, SYN);
        this.sends(first.other(), SYN_ACK);
        for side in [first, first.other(), first] {
            this.sends(side, ACK);
        }
        let empty = Plain {
            payload: 0,
            ..this.plain(first.other())
        };
        let acknowledged = this.line.tcp(first.other(), empty, ACK);
        this.passes(first.other(), &acknowledged);
        assert_eq!(this.lives(), ESTABLISHED);
        this
    }

    fn opener(&self) -> Side {
        match self.of {
            Of::Guest => Side::In,
            _ => Side::Out,
        }
    }

    fn plain(&self, side: Side) -> Plain {
        match side {
            Side::Out => self.out,
            Side::In => self.back,
        }
    }

    fn passes(&mut self, side: Side, packet: &[u8]) {
        match side {
            Side::Out => self.node.run(UplinkTx, packet),
            Side::In => self.node.run(UplinkSnatRx, packet),
        };
    }

    /// As that side does.
    fn sends(&mut self, side: Side, flags: u8) {
        let plain = self.plain(side);
        let packet = self.line.tcp(side, plain, flags);
        self.passes(side, &packet);
    }

    /// In that side's name.
    fn forged(&mut self, side: Side, flags: u8, seq: u32, ack: u32) {
        let plain = Plain {
            seq,
            ack,
            ..self.plain(side)
        };
        self.passes(side, &plain.tcp(flags));
    }

    fn lives(&mut self) -> u64 {
        self.node.snat_lifetime()
    }

    /// That it is still this connection, with its state: a true end is believed.
    fn ends(mut self) {
        self.sends(Side::Out, RST | ACK);
        assert_eq!(self.lives(), RESET);
    }

    fn change(&mut self, change: impl Fn(&mut Entry)) {
        for (key, mut entry) in self.node.snat_entries() {
            change(&mut entry);
            self.node.set_snat(&key, &entry);
        }
    }
}

const SIDES: [Side; 2] = [Side::Out, Side::In];

/// As many as a forger could send at a venture.
fn guesses() -> impl Iterator<Item = (u32, u32)> {
    (0..200_u32).map(|nth| {
        (
            nth.wrapping_mul(0x9e37_79b9) | 1 << 20,
            nth.wrapping_mul(0x85eb_ca6b),
        )
    })
}
