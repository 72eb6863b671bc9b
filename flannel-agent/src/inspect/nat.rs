//! `nat`: who left as whom, flow by flow as the kernel hands the table out.

use std::io::Write;
use std::net::Ipv4Addr;

use clap::Args;
use flannel_common::header::{PROTO_ICMP, PROTO_TCP, PROTO_UDP};
use flannel_common::snat::{
    Endpoint, Flow, KIND_OWN, KIND_PAIR, NANOS, Times, Transport, WAY_OUT, state,
};
use serde::Serialize;

use super::output::{Rows, or_dash};
use super::{Look, Verdict};
use crate::base::clock;
use crate::dataplane::view::SnatFlow;

/// `nat …`
#[derive(Debug, Clone, Args)]
pub struct Nat {
    #[command(flatten)]
    pub look: Look,
    /// Only flows from this pod, to this address, or under it
    #[arg(long, value_name = "IP")]
    pub pod: Option<Ipv4Addr>,
}

/// One flow, decoded.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    proto: String,
    /// `snat`: translated; `kept`: came in, so its answers keep their source; `own`: the node's own, or the
    /// kernel's NAT's, in our range of ports.
    kind: &'static str,
    pod: Option<String>,
    /// As whom it leaves.
    node: Option<String>,
    remote: String,
    state: &'static str,
    /// `out` or `in`: the LRU took the other half, which comes back with the next packet.
    half: Option<&'static str>,
    age_seconds: u64,
    idle_seconds: u64,
    /// Until it may be removed, if no packet comes.
    left_seconds: u64,
    #[serde(skip)]
    addresses: Vec<[u8; 4]>,
}

impl Nat {
    pub(super) fn show(&self, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let view = self.look.view()?;
        let now = clock();
        let times = view.snat_times()?;
        let mut rows = Rows::begin(out, self.look.output, &heading())?;
        view.snat(|flow| {
            let row = Row::new(flow, &times, now);
            if self.wants(&row) {
                rows.row(&row, Row::line)?;
            }
            anyhow::Ok(())
        })?;
        Ok(Verdict::Fine)
    }

    fn wants(&self, row: &Row) -> bool {
        self.pod
            .is_none_or(|pod| row.addresses.contains(&pod.octets()))
    }
}

impl Row {
    pub(super) fn new(flow: &SnatFlow, times: &Times, now: u64) -> Self {
        let SnatFlow { key, entry, other } = flow;
        let proto = key.proto;
        let is_out = key.way == WAY_OUT;
        let (ours, remote) = match is_out {
            true => (key.source(), key.destination()),
            false => (key.destination(), key.source()),
        };
        let (kind, pod, node) = match (entry.kind, is_out) {
            (KIND_PAIR, true) => ("snat", Some(ours), Some(entry.target())),
            (KIND_PAIR, false) => ("snat", Some(entry.target()), Some(ours)),
            (KIND_OWN, _) => ("own", None, Some(ours)),
            _ => ("kept", Some(ours), None),
        };
        // Each half knows one way only; the flow is as old as its older and as fresh as its fresher half.
        let both = Flow::of(key, entry, other.as_ref());
        let opened = other.map_or(entry.opened, |o| entry.opened.min(o.opened));
        let idle = now.saturating_sub(both.last_seen);
        let addresses = [pod, node, Some(remote)];
        Self {
            proto: name(proto),
            kind,
            pod: pod.map(|end| text(proto, end)),
            node: node.map(|end| text(proto, end)),
            remote: match proto {
                // The other "port" is the type of the query.
                PROTO_ICMP => Ipv4Addr::from(remote.addr).to_string(),
                _ => text(proto, remote),
            },
            state: state(proto, both.seen),
            half: match (entry.kind, other) {
                (KIND_PAIR, None) if is_out => Some("out"),
                (KIND_PAIR, None) => Some("in"),
                _ => None,
            },
            age_seconds: now.saturating_sub(opened) / NANOS,
            idle_seconds: idle / NANOS,
            left_seconds: both.lifetime(times, proto).saturating_sub(idle) / NANOS,
            addresses: addresses.into_iter().flatten().map(|e| e.addr).collect(),
        }
    }

    fn line(&self) -> String {
        let note = match self.half {
            Some(half) => format!("{}, {half} half only", self.kind),
            None => self.kind.to_owned(),
        };
        columns([
            &self.proto,
            &or_dash(self.pod.as_ref()),
            &or_dash(self.node.as_ref()),
            &self.remote,
            self.state,
            &format!("{} s", self.age_seconds),
            &format!("{} s", self.idle_seconds),
            &format!("{} s", self.left_seconds),
            &note,
        ])
    }
}

fn name(proto: u8) -> String {
    match proto {
        PROTO_TCP => "tcp".to_owned(),
        PROTO_UDP => "udp".to_owned(),
        PROTO_ICMP => "icmp".to_owned(),
        other => other.to_string(),
    }
}

fn text(proto: u8, end: Endpoint) -> String {
    let (addr, port) = (Ipv4Addr::from(end.addr), u16::from_be_bytes(end.port));
    match Transport::of(proto) {
        Transport::Icmp => format!("{addr} id {port}"),
        Transport::Other => addr.to_string(),
        _ => format!("{addr}:{port}"),
    }
}

/// Fixed widths: the table is streamed, so nobody knows the longest line.
fn columns(texts: [&str; 9]) -> String {
    let [proto, pod, node, remote, state, age, idle, left, note] = texts;
    format!(
        "{proto:5}  {pod:21}  {node:21}  {remote:21}  {state:12}  {age:>8}  {idle:>8}  {left:>8}  {note}"
    )
}

fn heading() -> String {
    columns([
        "PROTO",
        "POD",
        "LEAVES AS",
        "REMOTE",
        "STATE",
        "AGE",
        "IDLE",
        "LEFT",
        "KIND",
    ])
}

#[cfg(test)]
mod tests {
    use flannel_common::snat::{Entry, KIND_LEAVE, Key, Seen};

    use super::*;

    const OUT: Key = Key {
        src: [10, 244, 1, 5],
        dst: [198, 51, 100, 9],
        src_port: 40_000_u16.to_be_bytes(),
        dst_port: [0, 80],
        proto: PROTO_TCP,
        way: WAY_OUT,
        pad: [0; 2],
    };
    const US: Endpoint = Endpoint {
        addr: [192, 168, 0, 1],
        port: 50_001_u16.to_be_bytes(),
    };

    fn flow() -> SnatFlow {
        let out = Seen::out(Seen::SYN | Seen::ACK);
        let back = Seen::back(Seen::SYN | Seen::ACK);
        let entry = Entry::new(KIND_PAIR, US, out, 10 * NANOS);
        let mut other = Entry::new(KIND_PAIR, OUT.source(), back, 10 * NANOS);
        other.last_seen = 15 * NANOS;
        SnatFlow {
            key: OUT,
            entry,
            other: Some(other),
        }
    }

    #[test]
    fn both_halves_make_one_line() {
        let row = Row::new(&flow(), &Times::DEFAULT, 40 * NANOS);
        assert_eq!(
            row.line().split_whitespace().collect::<Vec<_>>().join(" "),
            "tcp 10.244.1.5:40000 192.168.0.1:50001 198.51.100.9:80 established 30 s 25 s 431975 s snat"
        );
        let value = serde_json::to_value(&row).unwrap();
        assert_eq!(value["node"], "192.168.0.1:50001");
        assert_eq!(value["half"], serde_json::Value::Null);
    }

    #[test]
    fn a_lone_half_still_names_everybody() {
        let alone = SnatFlow {
            other: None,
            ..flow()
        };
        let row = Row::new(&alone, &Times::DEFAULT, 40 * NANOS);
        assert_eq!((row.half, row.state), (Some("out"), "syn_sent"));
        let back = SnatFlow {
            key: OUT.reply_to(US),
            entry: flow().other.unwrap(),
            other: None,
        };
        let row = Row::new(&back, &Times::DEFAULT, 40 * NANOS);
        assert_eq!(row.pod.as_deref(), Some("10.244.1.5:40000"));
        assert_eq!(row.node.as_deref(), Some("192.168.0.1:50001"));
        assert_eq!(
            (row.remote.as_str(), row.half),
            ("198.51.100.9:80", Some("in"))
        );
    }

    #[test]
    fn what_is_not_translated_says_so() {
        let kept = SnatFlow {
            entry: Entry::new(KIND_LEAVE, OUT.source(), Seen::out(Seen::ACK), 0),
            other: None,
            key: OUT,
        };
        let row = Row::new(&kept, &Times::DEFAULT, NANOS);
        assert_eq!((row.kind, row.node, row.half), ("kept", None, None));
    }

    #[test]
    fn pings_have_an_id_and_no_port() {
        let mut ping = flow();
        ping.key.proto = PROTO_ICMP;
        let row = Row::new(&ping, &Times::DEFAULT, 15 * NANOS);
        assert_eq!(row.pod.as_deref(), Some("10.244.1.5 id 40000"));
        assert_eq!(row.remote, "198.51.100.9");
        assert_eq!((row.state, row.left_seconds), ("answered", 30));
    }
}
