//! `flows`: the table of the fast path, entry by entry as the kernel hands it out.

mod now;
mod way;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

use clap::Args;
use flannel_common::flow::{Direction, Flow, FlowKey};
use flannel_common::header::{PROTO_TCP, PROTO_UDP};
use flannel_common::outside;
use serde::Serialize;

use super::output::Rows;
use super::{Look, Verdict};
use crate::base::mac::MacAddr;
use now::Now;
use way::Way;

/// `flows …`
#[derive(Debug, Clone, Args)]
pub struct Flows {
    #[command(flatten)]
    pub look: Look,
    /// Only flows from or to this address, a pod's of this node or of another
    #[arg(long, value_name = "IP")]
    pub pod: Option<Ipv4Addr>,
    /// Only flows that skip the stack now, in at least one direction, and pods' ports that count now
    #[arg(long)]
    pub live: bool,
}

/// One flow, decoded.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    local: SocketAddrV4,
    remote: SocketAddrV4,
    proto: String,
    live: bool,
    tx: Way,
    rx: Way,
    /// FIN or RST was seen not long ago.
    closing: bool,
    bulk: bool,
    /// Outer address it is sent to, once proven.
    peer: Option<Ipv4Addr>,
    /// Next hop of what leaves the cluster, once proven, and the longest packet that may take the short way.
    via: Option<Ipv4Addr>,
    longest: Option<u16>,
    pod_mac: Option<MacAddr>,
    epoch: u32,
}

impl Flows {
    pub(super) fn show(&self, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let view = self.look.view()?;
        let now = Now::read(&view)?;
        let mut rows = Rows::begin(out, self.look.output, &heading())?;
        view.flows(|key, flow| {
            let row = Row::new(key, flow, now);
            if self.wants(&row) {
                rows.row(&row, Row::line)?;
            }
            anyhow::Ok(())
        })?;
        Ok(Verdict::Fine)
    }

    fn wants(&self, row: &Row) -> bool {
        let ends = [*row.local.ip(), *row.remote.ip()];
        self.pod.is_none_or(|pod| ends.contains(&pod)) && (!self.live || row.live)
    }
}

impl Row {
    fn new(key: &FlowKey, flow: &Flow, now: Now) -> Self {
        let socket = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), u16::from_be_bytes(port));
        let tx = Way::new(key, flow, Direction::Tx, now);
        let rx = Way::new(key, flow, Direction::Rx, now);
        let sent = Some(flow.peer).filter(|_| flow.tx.verified != 0);
        let way = sent.and_then(|peer| outside::Way::of(&peer));
        Self {
            local: socket(key.local, key.local_port),
            remote: socket(key.remote, key.remote_port),
            proto: match key.proto {
                PROTO_TCP => "tcp".to_owned(),
                PROTO_UDP => "udp".to_owned(),
                0 => "any".to_owned(),
                other => other.to_string(),
            },
            live: flow.is_live(key, now.tick, now.epoch, now.setting),
            closing: flow.is_closing(now.tick),
            bulk: flow.is_bulk(now.tick),
            peer: sent
                .filter(|_| way.is_none())
                .map(|peer| peer.public_ip.into()),
            via: way.map(|way| way.next_hop.into()),
            longest: way.map(|way| way.longest),
            pod_mac: rx.port_ifindex.map(|_| MacAddr(flow.pod_mac)),
            epoch: flow.tx.epoch.max(flow.rx.epoch),
            tx,
            rx,
        }
    }

    fn line(&self) -> String {
        let mut notes = Vec::new();
        notes.extend(self.peer.map(|peer| format!("to {peer}")));
        notes.extend(self.via.map(|via| format!("out via {via}")));
        match (self.tx.port_ifindex, self.rx.port_ifindex) {
            (Some(tx), Some(rx)) if tx != rx => {
                notes.push(format!("from port #{tx}"));
                notes.push(format!("to port #{rx}"));
            }
            (tx, rx) => notes.extend(rx.or(tx).map(|port| format!("port #{port}"))),
        }
        for (way, name) in [(&self.tx, "tx"), (&self.rx, "rx")] {
            notes.extend(way.change.iter().map(|change| format!("{name} {change}")));
        }
        notes.extend(self.bulk.then(|| "bulk".to_owned()));
        notes.extend(self.closing.then(|| "closing".to_owned()));
        let line = columns(
            &self.proto,
            &self.local.to_string(),
            &self.remote.to_string(),
            &self.tx.text(),
            &self.rx.text(),
            &notes.join(", "),
        );
        line.trim_end().to_owned()
    }
}

/// Fixed widths: the table is streamed, so nobody knows the longest line.
fn columns(proto: &str, local: &str, remote: &str, tx: &str, rx: &str, notes: &str) -> String {
    format!("{proto:5}  {local:21}  {remote:21}  {tx:15}  {rx:15}  {notes}")
}

fn heading() -> String {
    columns(
        "PROTO",
        "LOCAL",
        "REMOTE",
        "TX (VERIFIED)",
        "RX (VERIFIED)",
        "",
    )
    .trim_end()
    .to_owned()
}

#[cfg(test)]
mod tests {
    use flannel_common::flow::{Half, LIFETIME, PORT_LIFETIME, tick};

    use super::*;
    use crate::base::options::{Hook, Mode};
    use crate::inspect::output::Format;

    /// 1000 s after boot.
    fn now() -> Now {
        under(Mode::Verified)
    }

    fn under(mode: Mode) -> Now {
        Now {
            tick: tick(1_000_000_000_000),
            epoch: 3,
            setting: now::setting(mode, Hook::Port),
        }
    }

    fn key(proto: u8) -> FlowKey {
        FlowKey {
            local: [10, 244, 1, 2],
            remote: [10, 244, 2, 3],
            local_port: 40000_u16.to_be_bytes(),
            remote_port: 80_u16.to_be_bytes(),
            proto,
            pad: [0; 3],
        }
    }

    fn proven(epoch: u32) -> Half {
        Half {
            verified: now().tick.wrapping_sub(1000),
            probed: 0,
            epoch,
            ..Half::EMPTY
        }
    }

    fn flow(tx: Half, rx: Half) -> Flow {
        Flow {
            tx,
            rx,
            ..Flow::EMPTY
        }
    }

    fn states(proto: u8, flow: &Flow) -> (&'static str, &'static str) {
        let row = Row::new(&key(proto), flow, now());
        (row.tx.state, row.rx.state)
    }

    #[test]
    fn a_proof_counts_in_its_epoch_only() {
        assert_eq!(
            states(PROTO_UDP, &flow(proven(3), Half::EMPTY)),
            ("fast", "-")
        );
        assert_eq!(
            states(PROTO_UDP, &flow(proven(2), Half::EMPTY)),
            ("old epoch", "-")
        );
    }

    #[test]
    fn tcp_needs_both_directions() {
        assert_eq!(
            states(PROTO_TCP, &flow(proven(3), Half::EMPTY)),
            ("one-way", "-")
        );
        assert_eq!(
            states(PROTO_TCP, &flow(proven(3), proven(3))),
            ("fast", "fast")
        );
    }

    #[test]
    fn an_old_proof_is_expired() {
        let mut old = proven(3);
        old.verified = now().tick.wrapping_sub(LIFETIME);
        assert_eq!(states(PROTO_UDP, &flow(old, Half::EMPTY)), ("expired", "-"));
    }

    /// The entry of a pod whose port was noted so many ticks ago.
    fn pod(age: u32) -> Row {
        pod_under(Mode::Verified, age)
    }

    fn pod_under(mode: Mode, age: u32) -> Row {
        let mut noted = proven(3);
        noted.verified = now().tick.wrapping_sub(age);
        noted.port = 12;
        let pod = flow(Half::EMPTY, noted);
        Row::new(&FlowKey::pod([10, 244, 1, 2]), &pod, under(mode))
    }

    #[test]
    fn a_pod_s_port_is_fast_for_as_long_as_the_bridge_s_program_takes_it() {
        for (row, state) in [(pod(0), "fast"), (pod(PORT_LIFETIME), "expired")] {
            assert_eq!((row.tx.state, row.rx.state), ("-", state));
            assert_eq!((row.live, row.proto.as_str()), (state == "fast", "any"));
        }
    }

    #[test]
    fn without_proof_a_pod_s_port_lasts_as_long_as_a_proof() {
        let row = |age| pod_under(Mode::Always, age);
        assert_eq!((row(0).rx.state, row(0).live), ("fast", true));
        let old = row(LIFETIME);
        assert_eq!((old.rx.state, old.live), ("expired", false));
    }

    #[test]
    fn switched_off_nothing_is_fast() {
        let proven = flow(proven(3), proven(3));
        let row = Row::new(&key(PROTO_TCP), &proven, under(Mode::Off));
        assert_eq!(
            (row.tx.state, row.rx.state, row.live),
            ("off", "off", false)
        );
        let row = pod_under(Mode::Off, 0);
        assert_eq!((row.rx.state, row.live), ("off", false));
    }

    #[test]
    fn a_line_names_both_ends_and_ages() {
        let mut flow = flow(proven(3), proven(3));
        flow.peer.public_ip = [192, 0, 2, 2];
        flow.tx.port = 12;
        flow.rx.port = 12;
        let line = Row::new(&key(PROTO_TCP), &flow, now()).line();
        assert_eq!(
            line,
            "tcp    10.244.1.2:40000       10.244.2.3:80          fast 1.0 s       fast 1.0 s       to 192.0.2.2, port #12"
        );
        let row = serde_json::to_value(Row::new(&key(PROTO_TCP), &flow, now())).unwrap();
        assert_eq!(row["tx"]["verified_ms_ago"], 1048);
        assert_eq!(row["local"], "10.244.1.2:40000");
    }

    #[test]
    fn a_line_says_what_rules_do_to_packets() {
        let mut flow = flow(proven(3), proven(3));
        (flow.tx.port, flow.rx.port) = (12, 13);
        flow.tx.change.tos = 46 << 2;
        flow.rx.change.mark = 0x10;
        flow.rx.change.priority = 0x1_0020;
        let line = Row::new(&key(PROTO_TCP), &flow, now()).line();
        let notes = "from port #12, to port #13, tx DSCP 0 to 46, rx mark 0x10, class 1:20";
        assert!(line.ends_with(notes), "{line}");
    }

    #[test]
    fn what_leaves_the_cluster_has_a_next_hop_and_no_peer() {
        let mut flow = flow(proven(3), proven(3));
        flow.peer = outside::Way::new(2, [192, 0, 2, 254], 1450).into();
        let row = Row::new(&key(PROTO_TCP), &flow, now());
        assert!(
            row.line().ends_with("out via 192.0.2.254"),
            "{}",
            row.line()
        );
        let row = serde_json::to_value(row).unwrap();
        assert_eq!(
            (&row["via"], &row["longest"]),
            (&"192.0.2.254".into(), &1450.into())
        );
        assert!(row["peer"].is_null());
    }

    #[test]
    fn filters_ask_for_either_end() {
        let live = Row::new(&key(PROTO_UDP), &flow(proven(3), Half::EMPTY), now());
        let idle = Row::new(&key(PROTO_UDP), &Flow::EMPTY, now());
        let look = Look {
            bpffs: "/".into(),
            network: None,
            etcd_prefix: None,
            output: Format::Table,
            watch: None,
        };
        let mut flows = Flows {
            look,
            pod: Some([10, 244, 2, 3].into()),
            live: false,
        };
        assert!(flows.wants(&live) && flows.wants(&idle));
        flows.live = true;
        assert!(flows.wants(&live) && !flows.wants(&idle));
        flows.pod = Some([10, 244, 9, 9].into());
        assert!(!flows.wants(&live));
    }
}
