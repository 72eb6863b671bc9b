//! What a worker is asked to do and what it answers: one JSON document a line.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A kind of traffic between two pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Traffic {
    /// Bulk transfer over this many connections.
    TcpStream(u32),
    /// One byte there, one byte back, over one connection.
    TcpRr,
    /// Connect, one byte there and back, close.
    TcpCrr,
    /// Connect and close.
    TcpConnect,
    /// Datagrams with this many bytes of payload, as fast as the sender can.
    UdpOneWay(u16),
    /// One small datagram there and back.
    UdpRr,
    /// One exchange over every flow, not measured: fills the tables of both nodes.
    Fill,
}

impl Traffic {
    pub(crate) const MEASURED: [Self; 8] = [
        Self::TcpRr,
        Self::TcpCrr,
        Self::UdpOneWay(64),
        Self::UdpOneWay(1400),
        Self::UdpRr,
        Self::TcpStream(1),
        Self::TcpStream(8),
        Self::TcpStream(32),
    ];

    /// For tables and `--only`.
    pub(crate) fn name(self) -> String {
        match self {
            Self::TcpStream(connections) => format!("tcp-stream-{connections}"),
            Self::TcpRr => "tcp-rr".to_owned(),
            Self::TcpCrr => "tcp-crr".to_owned(),
            Self::TcpConnect => "tcp-connect".to_owned(),
            Self::UdpOneWay(bytes) => format!("udp-{bytes}"),
            Self::UdpRr => "udp-rr".to_owned(),
            Self::Fill => "fill".to_owned(),
        }
    }

    /// For people.
    pub(crate) fn label(self) -> String {
        match self {
            Self::TcpStream(1) => "TCP stream".to_owned(),
            Self::TcpStream(connections) => format!("{connections} TCP streams"),
            Self::TcpRr => "TCP request, response".to_owned(),
            Self::TcpCrr => "connect, request, close".to_owned(),
            Self::TcpConnect => "new connection".to_owned(),
            Self::UdpOneWay(bytes) => format!("UDP one way, {bytes} B"),
            Self::UdpRr => "UDP request, response".to_owned(),
            Self::Fill => self.name(),
        }
    }

    /// Whether a sample's value is a rate: more is better. The others are times.
    pub(crate) fn is_rate(self) -> bool {
        matches!(self, Self::TcpStream(_))
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::TcpStream(_) => "GB/s",
            Self::UdpOneWay(_) => "ns",
            _ => "us",
        }
    }

    /// Units per base unit (seconds, or bytes a second).
    pub(crate) fn scale(self) -> f64 {
        match self {
            Self::TcpStream(_) => 1e-9,
            Self::UdpOneWay(_) => 1e9,
            _ => 1e6,
        }
    }

    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Self::UdpOneWay(_) | Self::UdpRr | Self::Fill)
    }
}

/// One sample to take. The server gets it first and answers with [`Ready`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) traffic: Traffic,
    /// UDP: different tuples to use in turn.
    pub(crate) flows: u32,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    pub(crate) core: usize,
    pub(crate) server: Ipv4Addr,
    /// Filled in from [`Ready`] for the client.
    pub(crate) ports: Vec<u16>,
}

/// What both sides answer with: the thing asked for, or what went wrong.
pub(crate) type Answer<T> = Result<T, String>;

/// The server listens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) ports: Vec<u16>,
}

/// Ends the server's part.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stop;

/// What one side counted; zero where it has nothing to say.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Side {
    /// Transactions, or datagrams sent or received; the server's with those of the warm-up.
    pub(crate) count: u64,
    /// How long the transactions took.
    pub(crate) seconds: f64,
    /// Received by TCP streams: all of it, and per second after the warm-up.
    pub(crate) bytes: u64,
    pub(crate) bytes_per_second: f64,
    /// UDP one way: when the first was sent, and when the last was received, by a clock that both sides share.
    pub(crate) first: f64,
    pub(crate) last: f64,
    /// CPU seconds that went into `count` or `bytes`; the client's with those of `ksoftirqd`.
    pub(crate) cpu: f64,
    pub(crate) tcp: TcpCounters,
}

/// From `/proc/net/netstat` and `/proc/net/snmp` of the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TcpCounters {
    /// Times the sender found that segments had overtaken one another.
    pub(crate) reordered: u64,
    /// Segments the receiver had to keep until an earlier one came.
    pub(crate) out_of_order: u64,
    pub(crate) retransmitted: u64,
}
