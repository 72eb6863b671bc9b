//! Many routes at once: one `sendmsg` carries a hundred requests, and the kernel answers only what it refuses.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::Netlink;
use super::bound::{limit, received};
use super::error::NetError;
use super::route::PROTOCOL;

/// Requests in one message: so many answers fit into the socket's receive buffer.
pub(super) const AT_ONCE: usize = 128;
/// Bytes of an answer: one route with all its next hops, of which the kernel has room for a page (`NLMSG_GOODSIZE`, at most 8 KiB).
const LONGEST: usize = 16 << 10;

/// So many refused routes are named.
const NAMED: usize = 4;

/// Where a route of ours leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    pub index: u32,
    pub gateway: Ipv4Addr,
    /// Preferred source address; it has to be an address of this node.
    pub source: Option<Ipv4Addr>,
    /// Take the gateway for a neighbour, whatever the routing table says.
    pub onlink: bool,
    /// Bytes, where it is less than the device's.
    pub mtu: Option<u32>,
}

/// A change of a route with our mark, in the main table, with metric 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteChange {
    /// `EEXIST` if there is any route to the same destination with metric 0.
    Add(Ipv4Net, Leg),
    /// Overwrites the first such route, whosever it is, in one step.
    Replace(Ipv4Net, Leg),
    /// Comes before such a route, which stays (`ip route prepend`).
    InFront(Ipv4Net, Leg),
    /// That there is none is no failure.
    Remove(Ipv4Net),
}

impl RouteChange {
    #[must_use]
    pub const fn destination(&self) -> Ipv4Net {
        match self {
            Self::Add(to, _) | Self::Replace(to, _) | Self::InFront(to, _) | Self::Remove(to) => {
                *to
            }
        }
    }
}

/// What of many changes the kernel refused, by destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    pub set: BTreeMap<Ipv4Net, Errno>,
    pub removed: BTreeMap<Ipv4Net, Errno>,
}

impl Refusals {
    /// `refused`: as [`Netlink::change_routes`] answered to `changes`.
    #[must_use]
    pub fn of(changes: &[RouteChange], refused: &BTreeMap<usize, Errno>) -> Self {
        let mut refusals = Self::default();
        for (at, errno) in refused {
            let Some(change) = changes.get(*at) else {
                continue;
            };
            let part = match change {
                RouteChange::Remove(_) => &mut refusals.removed,
                _ => &mut refusals.set,
            };
            part.insert(change.destination(), *errno);
        }
        refusals
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.set.len() + self.removed.len();
        let all = self.removed.iter().chain(&self.set);
        let named = all.map(|(to, errno)| format!("{to}: {}", errno.desc()));
        let named: Vec<_> = named.take(NAMED).collect();
        write!(
            f,
            "the kernel refuses {count} of them ({})",
            named.join(", ")
        )
    }
}

/// The socket for such changes.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) socket: Mutex<Numbered>,
    port: u32,
}

#[derive(Debug)]
pub(super) struct Numbered {
    socket: Socket,
    next: u32,
}

impl Routes {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        limit(&socket)?;
        // Not the request back with each refusal.
        socket.set_cap_ack(true)?;
        // Whose limit is lower than that, lacks the right: he is refused everything else as well.
        let _ = widen(&socket);
        Ok(Self {
            socket: Mutex::new(Numbered { socket, next: 1 }),
            port,
        })
    }
}

impl Netlink {
    /// By which the kernel names us when it announces such a change.
    #[must_use]
    pub fn port_of_route_changes(&self) -> u32 {
        self.routes.port
    }

    /// Makes the changes, in their order. Returns those that the kernel refused, by their place, and why.
    ///
    /// # Errors
    /// If the kernel cannot be asked; some may be made by then.
    pub async fn change_routes(
        &self,
        changes: &[RouteChange],
    ) -> Result<BTreeMap<usize, Errno>, NetError> {
        let mut refused = BTreeMap::new();
        for (n, chunk) in changes.chunks(AT_ONCE).enumerate() {
            let part = {
                let socket = self.routes.socket.lock();
                let mut socket = socket.unwrap_or_else(PoisonError::into_inner);
                socket.ask(chunk)
            };
            let part = part.map_err(|error| NetError::io("change routes", &error))?;
            refused.extend(
                part.into_iter()
                    .map(|(at, errno)| (n * AT_ONCE + at, errno)),
            );
            // The kernel works in our own thread; others have their turn.
            tokio::task::yield_now().await;
        }
        Ok(refused)
    }
}

impl Numbered {
    fn ask(&mut self, changes: &[RouteChange]) -> io::Result<BTreeMap<usize, Errno>> {
        let mut refused = BTreeMap::new();
        self.exchange(changes.iter().map(request), |at, answer| {
            if let NetlinkPayload::Error(error) = answer
                && let Some(code) = error.code
                && let Some(change) = changes.get(at)
            {
                let errno = Errno::from_raw(-code.get());
                if !(errno == Errno::ESRCH && matches!(change, RouteChange::Remove(_))) {
                    refused.insert(at, errno);
                }
            }
        })?;
        Ok(refused)
    }

    /// Sends requests, each with its flags, and has every answer heard with the place of its request.
    pub(super) fn exchange(
        &mut self,
        requests: impl ExactSizeIterator<Item = (RouteNetlinkMessage, u16)>,
        mut hear: impl FnMut(usize, NetlinkPayload<RouteNetlinkMessage>),
    ) -> io::Result<()> {
        let (first, count) = (self.next, requests.len());
        let mut bytes = Vec::new();
        for (n, (request, flags)) in requests.enumerate() {
            // Of the others only a refusal is acknowledged (`netlink_rcv_skb`).
            let ack = if n + 1 == count { NLM_F_ACK } else { 0 };
            append(&mut bytes, request, self.next, flags | ack);
            self.next = self.next.wrapping_add(1);
        }
        let last = self.next.wrapping_sub(1);
        let sent = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        if sent != bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut answer = Vec::with_capacity(LONGEST);
        loop {
            answer.clear();
            received(|| self.socket.recv(&mut answer, 0))?;
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                let message: NetlinkMessage<RouteNetlinkMessage> =
                    NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
                let number = message.header.sequence_number;
                let len = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(len..).unwrap_or_default();
                let is_end = number == last && matches!(message.payload, NetlinkPayload::Error(_));
                hear(number.wrapping_sub(first) as usize, message.payload);
                if is_end {
                    return Ok(());
                }
            }
        }
    }
}

fn request(change: &RouteChange) -> (RouteNetlinkMessage, u16) {
    match change {
        RouteChange::Add(to, leg) => (new(to, leg), NLM_F_CREATE | NLM_F_EXCL),
        RouteChange::Replace(to, leg) => (new(to, leg), NLM_F_CREATE | NLM_F_REPLACE),
        RouteChange::InFront(to, leg) => (new(to, leg), NLM_F_CREATE),
        RouteChange::Remove(to) => (RouteNetlinkMessage::DelRoute(any(to)), 0),
    }
}

fn append(bytes: &mut Vec<u8>, request: RouteNetlinkMessage, number: u32, flags: u16) {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = number;
    message.finalize();
    let at = bytes.len();
    bytes.resize(at + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[at..]);
}

fn new(to: &Ipv4Net, leg: &Leg) -> RouteNetlinkMessage {
    let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.network(), to.prefix_len())
        .gateway(leg.gateway)
        .output_interface(leg.index)
        .protocol(PROTOCOL.into())
        .scope(RouteScope::Universe);
    if let Some(source) = leg.source {
        builder = builder.pref_source(source);
    }
    if leg.onlink {
        builder = builder.onlink();
    }
    let mut message = builder.build();
    if let Some(mtu) = leg.mtu {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
        message.attributes.push(metrics);
    }
    RouteNetlinkMessage::NewRoute(message)
}

/// The unicast route to a destination that is ours, wherever it leads.
fn any(to: &Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.network(), to.prefix_len())
        .protocol(PROTOCOL.into())
        .scope(RouteScope::NoWhere)
        .build()
}

/// Room for what thousands of changes announce before anyone gets to read it: as root, more than the limit for others.
pub(super) fn widen(socket: &impl AsFd) -> nix::Result<()> {
    const BYTES: usize = 16 << 20;
    nix::sys::socket::setsockopt(
        &socket.as_fd(),
        nix::sys::socket::sockopt::RcvBufForce,
        &BYTES,
    )
}
