//! Who has an address, and behind which port of a bridge a station is, as the kernel learns it; and that it stops forwarding.
//!
//! A pod can make the kernel learn something new with every packet. So there is a socket for this alone, which is read in small
//! portions, and whose messages may be lost.

use std::net::Ipv4Addr;

use futures_util::FutureExt as _;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket};

use super::batch::widen;
use super::bound::{limit, received};
use super::message::{NLMSG_DONE, NLMSG_ERROR, attribute, dump_request, message};
use super::{NetError, sysctl};

/// `linux/socket.h`, `linux/rtnetlink.h`, `linux/neighbour.h`, `linux/netconf.h`.
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWNETCONF: u16 = 80;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
const NUD_PERMANENT: u16 = 0x80;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_IFINDEX_ALL: i32 = -1;
/// `struct ndmsg`, and `struct netconfmsg` with its padding.
const NDMSG: usize = 12;
const NETCONFMSG: usize = 4;

/// So many messages are one portion.
const PORTION: usize = 256;

type Mac = [u8; 6];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// On a device, an address is that station's.
    Neighbour {
        device: u32,
        address: Ipv4Addr,
        station: Mac,
    },
    /// On a bridge, a station is behind that port.
    Station {
        bridge: u32,
        station: Mac,
        port: u32,
    },
    /// `net.ipv4.ip_forward` is 0.
    ForwardsNothing,
    /// `net.ipv4.conf.DEVICE.forwarding` is 0: nothing that comes in there goes on. Also of a device that is new.
    DeviceForwardsNothing { device: u32 },
    /// There were more than were read. What follows is a list of all.
    Lost,
    /// There is no list.
    Unknown,
}

/// Ends when dropped.
pub(crate) struct NeighbourEvents(TokioSocket);

impl std::fmt::Debug for NeighbourEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NeighbourEvents").finish_non_exhaustive()
    }
}

impl NeighbourEvents {
    /// Subscribes in the calling thread's network namespace; and what is known by then.
    ///
    /// # Errors
    /// [`NetError::Open`] if the kernel gives no socket.
    pub(crate) fn open() -> Result<(Self, Vec<News>), NetError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(NetError::Open)?;
        let ready = socket.socket_mut();
        ready.bind_auto().map_err(NetError::Open)?;
        for group in [RTNLGRP_NEIGH, RTNLGRP_IPV4_NETCONF] {
            ready
                .add_membership(group)
                .map_err(|error| NetError::io("follow the neighbours", &error))?;
        }
        if let Err(error) = widen(&*ready) {
            tracing::debug!("little room for news of neighbours: {error}");
        }
        let mut known = Vec::new();
        if let Err(error) = list_all(&mut known) {
            tracing::debug!("neighbours are known once they change: {error}");
        }
        Ok((Self(socket), known))
    }

    /// Waits for some. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let mut answer = self.0.recv_from_full().await;
        for _ in 0..PORTION {
            match answer {
                Ok((bytes, _)) => read(&bytes, &mut news),
                Err(error) => {
                    tracing::debug!("neighbours changed that nobody told of: {error}");
                    news.push(News::Lost);
                    news.extend(instead());
                    break;
                }
            }
            match self.0.recv_from_full().now_or_never() {
                Some(more) => answer = more,
                None => break,
            }
        }
        news
    }
}

/// What is known now, in place of what was announced and not read: anybody on the uplink's link can fill a socket.
fn instead() -> Vec<News> {
    let mut news = Vec::new();
    if let Err(error) = list_all(&mut news) {
        tracing::debug!("cannot list the neighbours: {error}");
        news.push(News::Unknown);
    }
    if sysctl::read(sysctl::FORWARDING).is_ok_and(|value| value.as_deref() == Some("0")) {
        news.push(News::ForwardsNothing);
    }
    news
}

fn list_all(news: &mut Vec<News>) -> std::io::Result<()> {
    [AF_INET, AF_BRIDGE]
        .into_iter()
        .try_for_each(|family| list(family, news))
}

fn list(family: u8, news: &mut Vec<News>) -> std::io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    limit(&socket)?;
    let mut body = [0; NDMSG];
    body[0] = family;
    let request = dump_request(RTM_GETNEIGH, &body);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    loop {
        let (answer, _) = received(|| socket.recv_from_full())?;
        read(&answer, news);
        let mut rest = answer.as_slice();
        while let Some((kind, _, next)) = message(rest) {
            rest = next;
            // A kernel without bridges lists none.
            if matches!(kind, NLMSG_DONE | NLMSG_ERROR) {
                return Ok(());
            }
        }
    }
}

fn read(mut bytes: &[u8], news: &mut Vec<News>) {
    while let Some((kind, body, next)) = message(bytes) {
        bytes = next;
        news.extend(match kind {
            RTM_NEWNEIGH => neighbour(body),
            RTM_NEWNETCONF => forwarding(body),
            _ => None,
        });
    }
}

/// `None` for what somebody entered by hand, a bridge's own among it, and for what is not known yet.
fn neighbour(body: &[u8]) -> Option<News> {
    let head = body.first_chunk::<NDMSG>()?;
    let device = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    let state = u16::from_ne_bytes([head[8], head[9]]);
    if state & NUD_PERMANENT != 0 {
        return None;
    }
    let attributes = body.get(NDMSG..)?;
    let station = attribute(attributes, NDA_LLADDR)?.try_into().ok()?;
    match head[0] {
        AF_INET => {
            let address: [u8; 4] = attribute(attributes, NDA_DST)?.try_into().ok()?;
            Some(News::Neighbour {
                device,
                address: address.into(),
                station,
            })
        }
        AF_BRIDGE => {
            let bridge = attribute(attributes, NDA_MASTER)?.try_into().ok()?;
            Some(News::Station {
                bridge: u32::from_ne_bytes(bridge),
                station,
                port: device,
            })
        }
        _ => None,
    }
}

fn forwarding(body: &[u8]) -> Option<News> {
    let attributes = body.get(NETCONFMSG..)?;
    let number = |kind| {
        let bytes = attribute(attributes, kind)?.try_into().ok()?;
        Some(i32::from_ne_bytes(bytes))
    };
    let index = number(NETCONFA_IFINDEX)?;
    if number(NETCONFA_FORWARDING)? != 0 {
        return None;
    }
    match index {
        NETCONFA_IFINDEX_ALL => Some(News::ForwardsNothing),
        // `NETCONFA_IFINDEX_DEFAULT` is for devices to come.
        index => u32::try_from(index)
            .ok()
            .map(|device| News::DeviceForwardsNothing { device }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATION: Mac = [2, 0, 0, 0, 0, 9];
    const REACHABLE: u16 = 2;

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn neighbour_of(family: u8, state: u16, attributes: &[Vec<u8>]) -> Option<News> {
        let mut body = vec![0; NDMSG];
        body[0] = family;
        body[4..8].copy_from_slice(&5_u32.to_ne_bytes());
        body[8..10].copy_from_slice(&state.to_ne_bytes());
        body.extend(attributes.concat());
        neighbour(&body)
    }

    #[test]
    fn neighbours_and_stations() {
        let station = attribute_of(NDA_LLADDR, &STATION);
        let address = attribute_of(NDA_DST, &[10, 244, 1, 9]);
        let both = [address.clone(), station.clone()];
        let known = News::Neighbour {
            device: 5,
            address: Ipv4Addr::new(10, 244, 1, 9),
            station: STATION,
        };
        assert_eq!(neighbour_of(AF_INET, REACHABLE, &both), Some(known));
        assert_eq!(
            neighbour_of(AF_INET, REACHABLE, &[address]),
            None,
            "asked for"
        );
        assert_eq!(neighbour_of(AF_INET, NUD_PERMANENT, &both), None);
        let learnt = [station, attribute_of(NDA_MASTER, &4_u32.to_ne_bytes())];
        let known = News::Station {
            bridge: 4,
            station: STATION,
            port: 5,
        };
        assert_eq!(neighbour_of(AF_BRIDGE, REACHABLE, &learnt), Some(known));
        assert_eq!(
            neighbour_of(AF_BRIDGE, NUD_PERMANENT, &learnt),
            None,
            "a port's own"
        );
    }

    #[test]
    fn forwarding_ends_at_all_devices_or_at_one() {
        let told = |index: i32, value: i32| {
            let mut body = vec![AF_INET, 0, 0, 0];
            body.extend(attribute_of(NETCONFA_IFINDEX, &index.to_ne_bytes()));
            body.extend(attribute_of(NETCONFA_FORWARDING, &value.to_ne_bytes()));
            forwarding(&body)
        };
        assert_eq!(told(-1, 0), Some(News::ForwardsNothing));
        assert_eq!(told(-1, 1), None);
        assert_eq!(told(7, 0), Some(News::DeviceForwardsNothing { device: 7 }));
        assert_eq!(told(7, 1), None);
        assert_eq!(told(-2, 0), None, "of devices to come");
    }
}
