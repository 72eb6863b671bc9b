//! Tunnel packets that do not come from where a lease says: of peers with several addresses or behind NAT, which are taken,
//! and of strangers, which are dropped. A counter alone would be silence.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use flannel_common::maps::Peer;
use flannel_common::reason::Reason;
use flannel_common::source::{Sender, SenderKey, TAKEN};
use ipnet::Ipv4Net;
use serde::Serialize;
use tokio::time::Instant;

use crate::base::clock;
use crate::base::mac::MacAddr;
use crate::dataplane::view::{View, ViewError};

/// What was seen longer ago is over.
const RECENT: Duration = Duration::from_secs(600);
/// The same is said again after this time, if it goes on.
const SAY_AGAIN: Duration = Duration::from_secs(3600);
/// Lines in the log at once: whoever forges addresses has many.
const LINES: usize = 10;

/// An outer source, and what became of its packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Odd {
    /// Outer source.
    pub from: Ipv4Addr,
    /// Why its packets are dropped; `None`: they are taken.
    pub dropped: Option<&'static str>,
    /// Of the last packet: inner source address and MAC.
    pub inner: Ipv4Addr,
    pub mac: MacAddr,
    pub packets: u64,
    pub ago_s: u64,
    /// The lease that covers the inner source, or else has the MAC by which the packets are taken, and its PublicIP.
    pub lease: Option<(Ipv4Net, Ipv4Addr)>,
    /// Whether the MAC is that lease's.
    pub mac_of_lease: bool,
}

impl Odd {
    /// Those of the last ten minutes, the latest first.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn read(view: &View) -> Result<Vec<Self>, ViewError> {
        let senders = view.senders()?;
        if senders.is_empty() {
            return Ok(Vec::new());
        }
        Ok(recent(&senders, &view.peers()?, clock()))
    }
}

fn recent(senders: &[(SenderKey, Sender)], peers: &BTreeMap<Ipv4Net, Peer>, now: u64) -> Vec<Odd> {
    let odd = senders.iter().map(|(key, sender)| {
        let inner = Ipv4Addr::from(sender.inner);
        let covers = peers.iter().filter(|(subnet, _)| subnet.contains(&inner));
        let covers = covers.max_by_key(|(subnet, _)| subnet.prefix_len());
        let by_mac = || {
            let mut all = peers.iter();
            all.find(|(_, peer)| key.reason == TAKEN && peer.vtep_mac == sender.mac)
        };
        let lease = covers.or_else(by_mac);
        Odd {
            from: key.outer.into(),
            dropped: (key.reason != TAKEN).then(|| name(key.reason)),
            inner,
            mac: MacAddr(sender.mac),
            packets: sender.packets,
            ago_s: Duration::from_nanos(now.saturating_sub(sender.last)).as_secs(),
            lease: lease.map(|(subnet, peer)| (*subnet, peer.public_ip.into())),
            mac_of_lease: lease.is_some_and(|(_, peer)| peer.vtep_mac == sender.mac),
        }
    });
    let mut odd: Vec<Odd> = odd.filter(|odd| odd.ago_s < RECENT.as_secs()).collect();
    odd.sort_by_key(|odd| (odd.ago_s, odd.from));
    odd
}

fn name(reason: u8) -> &'static str {
    let mut all = Reason::ALL.iter();
    let found = all.find(|known| **known as u32 == u32::from(reason));
    found.map_or("dropped", |reason| reason.name())
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from, inner, mac, ..
        } = self;
        match (self.dropped, &self.lease) {
            (None, Some((subnet, public_ip))) => write!(
                f,
                "the node {public_ip} ({subnet}) sends from {from}: it has several addresses, or is behind NAT; \
                 its packets are taken by their VTEP MAC {mac}"
            ),
            (None, None) => write!(
                f,
                "packets from {from}, the address of no lease, are taken by their VTEP MAC {mac}"
            ),
            (Some(_), Some((subnet, public_ip))) if from == public_ip => write!(
                f,
                "packets from {from} were dropped: their inner source {inner} is in {subnet}, which is leased to it now, \
                 and was not when they came"
            ),
            (Some(_), Some((subnet, public_ip))) if self.mac_of_lease => write!(
                f,
                "packets from {from} are dropped: their inner source {inner} is in {subnet}, which is leased to {public_ip}; \
                 their MAC {mac} is that node's, but --source-check=strict asks for its address"
            ),
            (Some(_), Some((subnet, public_ip))) => write!(
                f,
                "packets from {from} are dropped: their inner source {inner} is in {subnet}, which is leased to {public_ip}, \
                 and their MAC {mac} is not that node's"
            ),
            (Some(reason), None) if reason == Reason::SpoofedSource.name() => write!(
                f,
                "packets from {from} are dropped: their inner source {inner} is in this node's own subnet"
            ),
            (Some(_), None) => write!(
                f,
                "packets from {from} are dropped: no lease has this address or the MAC {mac} (inner source {inner})"
            ),
        }
    }
}

/// Names whoever is new in the log, and does not repeat itself.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    said: BTreeMap<(Ipv4Addr, Option<&'static str>), Instant>,
    looked: Option<u64>,
}

impl Watch {
    /// Looks, and logs.
    pub(crate) fn look(&mut self, view: &View) {
        let since = self.looked.replace(clock());
        let age = since.map(|since| Duration::from_nanos(clock().saturating_sub(since)));
        match Odd::read(view) {
            // Before the first look everything is old: an earlier agent named it.
            Ok(odd) => age.map_or((), |age| self.say(odd, age)),
            Err(error) => tracing::debug!("cannot read who sends from elsewhere: {error}"),
        }
    }

    fn say(&mut self, odd: Vec<Odd>, age: Duration) {
        let lines = self.news(odd, age, Instant::now());
        let left = lines.len().saturating_sub(LINES);
        for odd in lines.iter().take(LINES) {
            match odd.dropped {
                None => tracing::info!(from = %odd.from, "{odd}"),
                Some(reason) => tracing::warn!(from = %odd.from, reason, "{odd}"),
            }
        }
        if left > 0 {
            tracing::warn!("and from {left} addresses more (`flannel-agent status` lists them)");
        }
    }

    /// Those seen since the look before, `age` ago, that were not named lately.
    fn news(&mut self, odd: Vec<Odd>, age: Duration, now: Instant) -> Vec<Odd> {
        self.said.retain(|_, at| now - *at < SAY_AGAIN);
        let is_new = |odd: &Odd| odd.ago_s <= age.as_secs();
        let mut news: Vec<Odd> = odd.into_iter().filter(is_new).collect();
        news.retain(|odd| {
            let key = (odd.from, odd.dropped);
            let known = self.said.contains_key(&key);
            self.said.entry(key).or_insert(now);
            !known
        });
        news
    }
}

#[cfg(test)]
mod tests {
    use flannel_common::maps::PEER_VXLAN;
    use flannel_common::source::{Claim, Proof};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const SECOND: u64 = 1_000_000_000;

    fn sender(
        outcome: Result<Proof, Reason>,
        outer: u8,
        inner: [u8; 4],
        mac: [u8; 6],
        at: u64,
    ) -> (SenderKey, Sender) {
        let claim = Claim {
            outer: [192, 0, 2, outer],
            inner,
            mac,
        };
        let key = SenderKey::of(&claim, outcome).unwrap();
        (key, Sender::of(&claim, 7, at * SECOND))
    }

    fn peers() -> BTreeMap<Ipv4Net, Peer> {
        let peer = Peer {
            public_ip: [192, 0, 2, 22],
            next_hop: [192, 0, 2, 22],
            vtep_mac: MAC,
            kind: PEER_VXLAN,
            narrow: 0,
        };
        BTreeMap::from([("10.244.2.0/24".parse().unwrap(), peer)])
    }

    #[test]
    fn whoever_sends_from_elsewhere_is_named_with_its_lease() {
        let elsewhere = [10, 244, 2, 7];
        let all = [
            sender(Ok(Proof::VtepMac), 12, elsewhere, MAC, 990),
            sender(Ok(Proof::VtepMac), 13, [192, 0, 2, 13], MAC, 980),
            sender(Err(Reason::UnknownVtep), 66, elsewhere, [9; 6], 970),
            sender(Err(Reason::UnknownVtep), 67, [172, 16, 0, 1], [9; 6], 960),
            sender(Err(Reason::SpoofedSource), 22, [10, 244, 1, 7], MAC, 950),
            sender(Err(Reason::UnknownVtep), 12, elsewhere, MAC, 940),
            sender(Err(Reason::UnknownVtep), 22, elsewhere, MAC, 930),
            sender(Err(Reason::UnknownVtep), 99, elsewhere, [9; 6], 100),
        ];
        let odd = recent(&all, &peers(), 1000 * SECOND);
        let words: Vec<String> = odd.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "the node 192.0.2.22 (10.244.2.0/24) sends from 192.0.2.12: it has several addresses, or is behind NAT; its packets are taken by their VTEP MAC 02:00:00:00:00:02",
                "the node 192.0.2.22 (10.244.2.0/24) sends from 192.0.2.13: it has several addresses, or is behind NAT; its packets are taken by their VTEP MAC 02:00:00:00:00:02",
                "packets from 192.0.2.66 are dropped: their inner source 10.244.2.7 is in 10.244.2.0/24, which is leased to 192.0.2.22, and their MAC 09:09:09:09:09:09 is not that node's",
                "packets from 192.0.2.67 are dropped: no lease has this address or the MAC 09:09:09:09:09:09 (inner source 172.16.0.1)",
                "packets from 192.0.2.22 are dropped: their inner source 10.244.1.7 is in this node's own subnet",
                "packets from 192.0.2.12 are dropped: their inner source 10.244.2.7 is in 10.244.2.0/24, which is leased to 192.0.2.22; their MAC 02:00:00:00:00:02 is that node's, but --source-check=strict asks for its address",
                "packets from 192.0.2.22 were dropped: their inner source 10.244.2.7 is in 10.244.2.0/24, which is leased to it now, and was not when they came",
            ]
        );
        assert_eq!((odd[0].ago_s, odd[0].packets), (10, 7));
        assert_eq!(odd[2].dropped, Some("unknown_vtep"));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_named_twice_within_an_hour() {
        let mut watch = Watch::default();
        let all = [sender(
            Err(Reason::UnknownVtep),
            66,
            [10, 244, 2, 7],
            [9; 6],
            995,
        )];
        let odd = || recent(&all, &peers(), 1000 * SECOND);
        let look = Duration::from_secs(30);
        assert_eq!(watch.news(odd(), look, Instant::now()).len(), 1);
        assert_eq!(watch.news(odd(), look, Instant::now()).len(), 0);
        tokio::time::advance(SAY_AGAIN).await;
        assert_eq!(watch.news(odd(), look, Instant::now()).len(), 1);
        let short = Duration::from_secs(1);
        assert_eq!(
            Watch::default().news(odd(), short, Instant::now()).len(),
            0,
            "old"
        );
    }
}
