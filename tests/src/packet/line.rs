//! The numbers of a TCP connection as its two sides count them.

use super::outside::{Plain, SYN};

/// Which side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Out of the node.
    Out,
    /// Into it.
    In,
}

impl Side {
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }
}

/// What each side sends next.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    next: [u32; 2],
}

impl Default for Line {
    /// Both wrap around soon.
    fn default() -> Self {
        Self {
            next: [u32::MAX - 40, u32::MAX - 4],
        }
    }
}

impl Line {
    /// What `side` sends next.
    #[must_use]
    pub const fn next(&self, side: Side) -> u32 {
        self.next[side as usize]
    }

    /// One more segment, with all acknowledged.
    pub fn tcp(&mut self, side: Side, plain: Plain, flags: u8) -> Vec<u8> {
        let segment = Plain {
            seq: self.next(side),
            ack: self.next(side.other()),
            ..plain
        };
        let control = u32::from(flags & SYN != 0) + u32::from(flags & 1);
        let len = u32::try_from(plain.payload).unwrap() + control;
        let next = &mut self.next[side as usize];
        *next = next.wrapping_add(len);
        segment.tcp(flags)
    }
}
