//! What the maps hold at this moment: the programs' counters, entries and room.

use flannel_common::maps::{EPOCH, STATS};
use flannel_common::program::Program;
use flannel_common::reason::Class;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::base::counters::Labels;
use crate::dataplane::view::{MAPS, Sums, View};

/// Registers what can be read. A map that is not there (yet) is left out, which alerts can see.
pub(super) fn register(view: &View, registry: &mut Registry) {
    if let Ok(sums) = view.stats() {
        packets(&sums, registry);
    }
    if let Ok(lost) = view.events_lost() {
        let counter = Counter::<u64>::default();
        counter.inc_by(lost);
        registry.register(
            "ringbuf_lost",
            "Events for `monitor` that found no room",
            counter,
        );
    }
    maps(view, registry);
}

fn packets(sums: &Sums, registry: &mut Registry) {
    let forwarded = Family::<Labels, Counter>::default();
    let bytes = Family::<Labels, Counter>::default();
    let dropped = Family::<Labels, Counter>::default();
    let fallback = Family::<Labels, Counter>::default();
    for (program, reasons) in sums {
        for (reason, count) in reasons {
            let labels = |name: &'static str| {
                vec![
                    (name, reason.name().to_owned()),
                    ("direction", direction(*program).to_owned()),
                    ("program", program.name().to_owned()),
                ]
            };
            match reason.class() {
                Class::Forward => {
                    forwarded
                        .get_or_create(&labels("path"))
                        .inc_by(count.packets);
                    bytes.get_or_create(&labels("path")).inc_by(count.bytes);
                }
                Class::Drop => {
                    dropped
                        .get_or_create(&labels("reason"))
                        .inc_by(count.packets);
                }
                Class::Pass => {
                    fallback
                        .get_or_create(&labels("reason"))
                        .inc_by(count.packets);
                }
            }
        }
    }
    registry.register(
        "forwarded_packets",
        "Packets forwarded by our programs",
        forwarded,
    );
    registry.register("forwarded_bytes", "Their bytes", bytes);
    registry.register(
        "dropped_packets",
        "Packets dropped by our programs",
        dropped,
    );
    registry.register(
        "fallback_packets",
        "Packets left to the kernel's stack",
        fallback,
    );
}

/// As seen from the pods of this node.
const fn direction(program: Program) -> &'static str {
    match program {
        Program::OverlayTx
        | Program::OverlayCatch
        | Program::PodTx
        | Program::DirectTx
        | Program::UplinkTx
        | Program::OverlaySnatTx
        | Program::SnatOpen
        | Program::SnatOddTx => "tx",
        _ => "rx",
    }
}

fn maps(view: &View, registry: &mut Registry) {
    let entries = Family::<Labels, Gauge>::default();
    let capacity = Family::<Labels, Gauge>::default();
    // Arrays are neither full nor empty.
    for name in MAPS
        .into_iter()
        .filter(|name| ![EPOCH, STATS].contains(name))
    {
        let (Ok(Some(facts)), Ok(count)) = (view.facts(name), view.entries(name)) else {
            continue;
        };
        let labels = vec![("map", name.to_owned())];
        entries.get_or_create(&labels).set(signed(count));
        capacity
            .get_or_create(&labels)
            .set(facts.max_entries.into());
    }
    registry.register("map_entries", "Entries in a BPF map", entries);
    registry.register("map_capacity", "Entries that a BPF map can hold", capacity);
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use flannel_common::reason::Reason;
    use flannel_common::stats::Count;
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn each_class_has_its_metric() {
        let count = Count {
            packets: 5,
            bytes: 500,
        };
        let reasons = [Reason::Encap, Reason::NoPeer, Reason::NotIpv4].map(|r| (r, count));
        let sums = [(Program::OverlayTx, reasons.into())].into();
        let mut registry = Registry::with_prefix("f");
        packets(&sums, &mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"f_forwarded_packets_total{path="encap",direction="tx",program="overlay_tx"} 5"#,
            r#"f_forwarded_bytes_total{path="encap",direction="tx",program="overlay_tx"} 500"#,
            r#"f_dropped_packets_total{reason="no_peer",direction="tx",program="overlay_tx"} 5"#,
            r#"f_fallback_packets_total{reason="not_ipv4",direction="tx",program="overlay_tx"} 5"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
