//! Policies of IPsec (`ip xfrm policy`): whose outer packets are to be encrypted, or are forbidden.
//!
//! The programs send and receive beside the stack, where the kernel would look them up.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_XFRM;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket};

use super::NetError;
use super::bound::{limit, received};
use super::message::{NLMSG_DONE, NLMSG_ERROR, attribute, dump_request, message};
use crate::flannel::backend::{Tunnel, Wire};

/// `linux/xfrm.h`.
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRMNLGRP_POLICY: u32 = 4;
const XFRM_POLICY_ALLOW: u8 = 0;
const XFRMA_TMPL: u16 = 5;
const XFRMA_MARK: u16 = 21;
const XFRMA_IF_ID: u16 = 31;
/// `struct xfrm_userpolicy_id`.
const ID: usize = 64;
/// `struct xfrm_userpolicy_info`, and where in it direction and action are.
const INFO: usize = 168;
const DIRECTION: usize = 160;
const ACTION: usize = 161;

/// Which way packets go that a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    In,
    Out,
    Forward,
}

/// A policy that does not just let pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    direction: Direction,
    source: Ipv4Net,
    destination: Ipv4Net,
    /// 0: any.
    proto: u8,
    /// Port and mask; 0 as a mask: any.
    port: (u16, u16),
    /// The source's, likewise.
    from: (u16, u16),
    /// It is about marked packets alone, as those of VTI devices (`ip xfrm policy … mark KEY`).
    marked: bool,
}

/// All of this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies(BTreeSet<Policy>);

impl Policies {
    /// # Errors
    /// If the kernel does not list them. One without IPsec has none.
    pub fn read() -> Result<Self, NetError> {
        let Some(mut socket) = open()? else {
            return Ok(Self::default());
        };
        match dump(&mut socket) {
            // Whoever looks without rights changes nothing, either.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Self::default()),
            policies => {
                policies.map_err(|error| NetError::io("list the policies of IPsec", &error))
            }
        }
    }

    /// Whether one is about tunnel packets between this node and a peer, one way or the other. `ours`: the addresses that they
    /// may have here. vxlan's source ports are drawn by chance, so that any may be meant. Its outer packets have the marks of the inner
    /// ones (`vxlan_xmit`); only with GBP are these anybody's on purpose.
    #[must_use]
    pub fn cover(&self, ours: [Ipv4Addr; 2], peer: Ipv4Addr, tunnel: Tunnel) -> bool {
        let concerns = |policy: &Policy| {
            let (here, there) = match policy.direction {
                Direction::Out => (policy.source, policy.destination),
                Direction::In => (policy.destination, policy.source),
                Direction::Forward => return false,
            };
            let is = |(wanted, mask): (u16, u16), port: u16| (wanted ^ port) & mask == 0;
            let port = tunnel.port.unwrap_or(0);
            let is_from = match tunnel.wire {
                Wire::Vxlan { .. } => true,
                Wire::Udp | Wire::Ipip => is(policy.from, port),
            };
            (!policy.marked || tunnel.gbp)
                && ours.iter().any(|address| here.contains(address))
                && there.contains(&peer)
                && (policy.proto == 0 || policy.proto == tunnel.wire.proto())
                && is(policy.port, port)
                && is_from
        };
        self.0.iter().any(concerns)
    }

    /// Whether one is about packets between pods of this node and of a peer, whichever way. Without a tunnel they are the uplink's own, and
    /// what IPsec has decrypted arrives there a second time, in clear (`xfrm_input`): a flow would be proven by what came encrypted,
    /// and anything in clear go past the policy then.
    #[must_use]
    pub fn cover_pods(&self, ours: Ipv4Net, theirs: Ipv4Net) -> bool {
        let meet = |a: Ipv4Net, b: Ipv4Net| a.contains(&b) || b.contains(&a);
        self.0.iter().any(|policy| {
            let (source, destination) = (policy.source, policy.destination);
            !policy.marked
                && (meet(source, ours) && meet(destination, theirs)
                    || meet(source, theirs) && meet(destination, ours))
        })
    }
}

fn open() -> Result<Option<Socket>, NetError> {
    match Socket::new(NETLINK_XFRM) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
        Err(error) => Err(NetError::Open(error)),
    }
}

fn dump(socket: &mut Socket) -> std::io::Result<Policies> {
    socket.bind_auto()?;
    limit(socket)?;
    let request = dump_request(XFRM_MSG_GETPOLICY, &[0; ID]);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut policies = Policies::default();
    loop {
        let (answer, _) = received(|| socket.recv_from_full())?;
        let mut rest = answer.as_slice();
        while let Some((kind, body, next)) = message(rest) {
            rest = next;
            match kind {
                NLMSG_DONE => return Ok(policies),
                NLMSG_ERROR => {
                    let code = body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(Errno::from_raw(-code).into());
                }
                XFRM_MSG_NEWPOLICY => policies.0.extend(policy(body)),
                _ => {}
            }
        }
    }
}

/// `None` for what lets pass, what is a socket's own, what is IPv6's, and what is for devices of IPsec (`if_id`), by which
/// no outer packet leaves.
fn policy(body: &[u8]) -> Option<Policy> {
    let info = body.first_chunk::<INFO>()?;
    let word = |at: usize| u16::from_be_bytes([info[at], info[at + 1]]);
    let net = |at: usize, len: u8| {
        let [a, b, c, d] = [info[at], info[at + 1], info[at + 2], info[at + 3]];
        Ipv4Net::new(Ipv4Addr::new(a, b, c, d), len).ok()
    };
    let direction = match info[DIRECTION] {
        0 => Direction::In,
        1 => Direction::Out,
        2 => Direction::Forward,
        _ => return None,
    };
    let family = i32::from(u16::from_ne_bytes([info[40], info[41]]));
    if family != libc::AF_INET && family != libc::AF_UNSPEC {
        return None;
    }
    let attributes = body.get(INFO..).unwrap_or_default();
    let for_devices = attribute(attributes, XFRMA_IF_ID).is_some_and(|id| id != [0; 4]);
    let does = info[ACTION] != XFRM_POLICY_ALLOW
        || attribute(attributes, XFRMA_TMPL).is_some_and(|list| !list.is_empty());
    if for_devices || !does {
        return None;
    }
    Some(Policy {
        direction,
        destination: net(0, info[42])?,
        source: net(16, info[43])?,
        proto: info[44],
        port: (word(32), word(34)),
        from: (word(36), word(38)),
        marked: attribute(attributes, XFRMA_MARK).is_some_and(leaves_unmarked_out),
    })
}

/// `struct xfrm_mark`: a value, and a mask for the packet's (`xfrm_policy_match`).
fn leaves_unmarked_out(mark: &[u8]) -> bool {
    mark.get(..4).is_some_and(|value| value != [0; 4])
}

/// The kernel's word that policies changed.
pub(super) struct Events(TokioSocket);

impl Events {
    /// `None`: a kernel without IPsec.
    pub(super) fn open() -> Result<Option<Self>, NetError> {
        if open()?.is_none() {
            return Ok(None);
        }
        let mut socket = TokioSocket::new(NETLINK_XFRM).map_err(NetError::Open)?;
        let ready = socket.socket_mut();
        ready.bind_auto().map_err(NetError::Open)?;
        ready
            .add_membership(XFRMNLGRP_POLICY)
            .map_err(|error| NetError::io("follow the policies of IPsec", &error))?;
        Ok(Some(Self(socket)))
    }

    /// Waits for the next. Messages that were lost are news, too.
    pub(super) async fn next(&mut self) {
        if let Err(error) = self.0.recv_from_full().await {
            tracing::debug!("policies of IPsec changed, or more than that: {error}");
            // Should the socket be broken, this is no loop without end.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use flannel_common::header::{PROTO_IPIP, PROTO_UDP};

    use super::*;

    const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    /// As `ip xfrm policy add src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 8472 dir out` makes it.
    fn raw(direction: u8, action: u8, attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![0; INFO];
        let (source, destination) = match direction {
            0 => (PEER, US),
            _ => (US, PEER),
        };
        body[..4].copy_from_slice(&destination.octets());
        body[16..20].copy_from_slice(&source.octets());
        body[32..36].copy_from_slice(&[0x21, 0x18, 0xff, 0xff]);
        body[40..42].copy_from_slice(&2_u16.to_ne_bytes());
        (body[42], body[43], body[44]) = (32, 32, PROTO_UDP);
        (body[DIRECTION], body[ACTION]) = (direction, action);
        body.extend_from_slice(attributes);
        body
    }

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).unwrap();
        [&len.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
    }

    const VXLAN: Tunnel = Tunnel {
        wire: Wire::Vxlan { vni: 1 },
        port: Some(8472),
        gbp: false,
    };

    fn covers(body: &[u8], peer: Ipv4Addr, port: u16) -> bool {
        covers_those(
            body,
            peer,
            Tunnel {
                wire: Wire::Vxlan { vni: 1 },
                port: Some(port),
                gbp: false,
            },
        )
    }

    fn covers_those(body: &[u8], peer: Ipv4Addr, tunnel: Tunnel) -> bool {
        Policies(policy(body).into_iter().collect()).cover([US, US], peer, tunnel)
    }

    #[test]
    fn what_encrypts_or_forbids_counts_both_ways() {
        let template = attribute_of(XFRMA_TMPL, &[0; 64]);
        for direction in [0, 1] {
            assert!(covers(&raw(direction, 0, &template), PEER, 8472));
            assert!(covers(&raw(direction, 1, &[]), PEER, 8472));
            assert!(!covers(&raw(direction, 1, &[]), PEER, 4789));
            assert!(!covers(&raw(direction, 1, &[]), US, 8472));
        }
    }

    #[test]
    fn policies_about_pods_are_about_those_of_both_nodes() {
        let pods = |subnet: &str| subnet.parse::<Ipv4Net>().unwrap();
        let template = attribute_of(XFRMA_TMPL, &[0; 64]);
        // The selector is of /16 at both ends: `src 10.244.0.0/16 dst 10.244.0.0/16 dir fwd`.
        for direction in [0, 1, 2] {
            let mut body = raw(direction, 0, &template);
            body[..4].copy_from_slice(&[10, 244, 0, 0]);
            body[16..20].copy_from_slice(&[10, 244, 0, 0]);
            (body[42], body[43]) = (16, 16);
            let policies = Policies(policy(&body).into_iter().collect());
            assert!(policies.cover_pods(pods("10.244.1.0/24"), pods("10.244.2.0/24")));
            assert!(!policies.cover_pods(pods("10.244.1.0/24"), pods("10.5.2.0/24")));
            assert!(!policies.cover([US, US], PEER, VXLAN));
        }
        let nodes = Policies(policy(&raw(2, 0, &template)).into_iter().collect());
        assert!(!nodes.cover_pods(pods("10.244.1.0/24"), pods("10.244.2.0/24")));
        let all = {
            let mut body = raw(1, 0, &template);
            (body[42], body[43]) = (0, 0);
            Policies(policy(&body).into_iter().collect())
        };
        assert!(all.cover_pods(pods("10.244.1.0/24"), pods("10.244.2.0/24")));
    }

    #[test]
    fn what_lets_pass_or_is_about_others_does_not() {
        let template = attribute_of(XFRMA_TMPL, &[0; 64]);
        assert!(!covers(&raw(1, 0, &[]), PEER, 8472));
        assert!(!covers(&raw(2, 1, &[]), PEER, 8472), "forwarded packets");
        assert!(!covers(&raw(4, 1, &[]), PEER, 8472), "one socket's own");
        let device = attribute_of(XFRMA_IF_ID, &7_u32.to_ne_bytes());
        let both = [template, device].concat();
        assert!(!covers(&raw(1, 0, &both), PEER, 8472));
    }

    /// As `ip xfrm policy add … mark 42` of a VTI device makes it: `src 0.0.0.0/0 dst 0.0.0.0/0`.
    #[test]
    fn what_is_about_marked_packets_alone_is_not_about_unmarked_ones() {
        let template = attribute_of(XFRMA_TMPL, &[0; 64]);
        let pods = |subnet: &str| subnet.parse::<Ipv4Net>().unwrap();
        let gbp = Tunnel { gbp: true, ..VXLAN };
        for (value, mask, unmarked) in [
            (42_u32, u32::MAX, false),
            (42, 0, false),
            (0, u32::MAX, true),
            (0, 0, true),
        ] {
            let mark = [value.to_ne_bytes(), mask.to_ne_bytes()].concat();
            let attributes = [template.clone(), attribute_of(XFRMA_MARK, &mark)].concat();
            let mut body = raw(1, 0, &attributes);
            body[32..36].fill(0);
            (body[42], body[43], body[44]) = (0, 0, 0);
            assert_eq!(covers(&body, PEER, 8472), unmarked, "{value}/{mask}");
            assert!(covers_those(&body, PEER, gbp), "marks are carried");
            let policies = Policies(policy(&body).into_iter().collect());
            let between = policies.cover_pods(pods("10.244.1.0/24"), pods("10.244.2.0/24"));
            assert_eq!(between, unmarked, "{value}/{mask}");
        }
    }

    #[test]
    fn any_protocol_and_any_port() {
        let mut body = raw(1, 1, &[]);
        body[44] = 0;
        body[32..36].fill(0);
        assert!(covers(&body, PEER, 4789));
        body[44] = 6;
        assert!(!covers(&body, PEER, 4789), "TCP");
    }

    #[test]
    fn only_of_vxlan_nobody_knows_the_source_port() {
        let udp = Tunnel {
            wire: Wire::Udp,
            port: Some(8285),
            gbp: false,
        };
        for (direction, port) in [(0, 8285_u16), (1, 8285)] {
            let mut body = raw(direction, 1, &[]);
            body[32..34].copy_from_slice(&port.to_be_bytes());
            assert!(covers_those(&body, PEER, udp));
            body[36..40].copy_from_slice(&[0x21, 0x18, 0xff, 0xff]);
            assert!(!covers_those(&body, PEER, udp), "from 8472");
            assert!(covers(&body, PEER, port), "vxlan");
            body[36..38].copy_from_slice(&port.to_be_bytes());
            assert!(covers_those(&body, PEER, udp));
        }
    }

    #[test]
    fn ipv4_in_ipv4_has_a_protocol_and_no_port() {
        let ipip = Tunnel {
            wire: Wire::Ipip,
            port: None,
            gbp: false,
        };
        let mut body = raw(1, 1, &[]);
        assert!(!covers_those(&body, PEER, ipip), "UDP");
        body[44] = PROTO_IPIP;
        assert!(!covers_those(&body, PEER, ipip), "a port that it has not");
        body[32..36].fill(0);
        assert!(covers_those(&body, PEER, ipip));
        assert!(!covers(&body, PEER, 8472));
    }

    #[test]
    fn cut_off_anywhere_it_is_nothing() {
        let body = raw(1, 0, &attribute_of(XFRMA_TMPL, &[0; 64]));
        for len in 0..body.len() {
            assert_eq!(policy(&body[..len]), None, "{len}");
        }
    }
}
