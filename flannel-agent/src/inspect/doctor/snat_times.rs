//! Conntrack's time-outs, which source NAT by the agent does not read: its own are conntrack's defaults.

use crate::node::net::sysctl;

use super::Report;

/// Sysctl, what flows live here in seconds, and what the kernel's default is, which nobody chose.
const TIMES: [(&str, u64, u64); 3] = [
    ("nf_conntrack_udp_timeout", 30, 30),
    ("nf_conntrack_udp_timeout_stream", 120, 120),
    ("nf_conntrack_tcp_timeout_established", 86_400, 432_000),
];

/// Warns of those that somebody raised, with kube-proxy's `--conntrack-udp-timeout` and its like or by hand.
pub(super) fn check(report: &mut Report) {
    for (name, ours, default) in TIMES {
        let value = sysctl::read(&format!("net/netfilter/{name}"));
        // Without conntrack, or out of sight: nobody relies on it.
        let seconds = value.ok().flatten().and_then(|text| text.parse().ok());
        judge(name, seconds, ours, default, report);
    }
}

fn judge(name: &str, seconds: Option<u64>, ours: u64, default: u64, report: &mut Report) {
    if let Some(seconds) = seconds.filter(|seconds| *seconds > default) {
        report.warning(
            format!("net.netfilter.{name} is {seconds}, and what pods send outside is translated for {ours} seconds of silence all the same"),
            "have both sides speak more often (keepalives), or leave --ip-masq out and masquerade by a rule of your own",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::tests::said;

    #[test]
    fn only_what_somebody_raised_is_named() {
        let about =
            |seconds| said(|report| judge("nf_conntrack_udp_timeout", seconds, 30, 30, report));
        for usual in [None, Some(30), Some(10)] {
            assert!(about(usual).is_empty());
        }
        let raised = about(Some(200));
        assert!(
            raised[0].1.contains("nf_conntrack_udp_timeout is 200"),
            "{raised:?}"
        );
    }

    /// The agent's own, by the packets' state.
    #[test]
    fn ours_are_as_they_are_said_to_be() {
        use flannel_common::snat::{Seen, lifetime};
        let seconds = |proto, seen| lifetime(proto, seen) / 1_000_000_000;
        let ack = Seen::ACK;
        assert_eq!(seconds(17, Seen::out(ack)), TIMES[0].1);
        assert_eq!(
            seconds(17, Seen::out(ack).then(Seen::back(ack))),
            TIMES[1].1
        );
        assert_eq!(seconds(6, Seen::out(ack).then(Seen::back(ack))), TIMES[2].1);
    }
}
