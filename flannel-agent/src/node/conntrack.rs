//! conntrack's time-outs, as this node has them: those of source NAT.

use std::fmt;

use flannel_common::snat::Times;
use serde::ser::{SerializeMap as _, Serializer};

use super::net::{NetError, sysctl};
use super::node_sysctls::NodeSysctls;

/// How long conntrack keeps an idle connection whose data is all acknowledged.
pub(crate) const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";

/// How long it keeps a connection whose data nobody has acknowledged. The fast path has a wish for it.
pub(crate) const UNACKNOWLEDGED: &str = "net/netfilter/nf_conntrack_tcp_timeout_unacknowledged";

type Field = fn(&mut Times) -> &mut u32;

/// Sysctls, without what their names begin with, and what each decides.
const SYSCTLS: [(&str, Field); 15] = [
    ("tcp_timeout_syn_sent", |t| &mut t.tcp_syn_sent),
    ("tcp_timeout_syn_recv", |t| &mut t.tcp_syn_recv),
    ("tcp_timeout_established", |t| &mut t.tcp_established),
    ("tcp_timeout_close_wait", |t| &mut t.tcp_close_wait),
    ("tcp_timeout_time_wait", |t| &mut t.tcp_time_wait),
    ("tcp_timeout_close", |t| &mut t.tcp_close),
    ("tcp_timeout_unacknowledged", |t| &mut t.tcp_unacknowledged),
    ("tcp_timeout_max_retrans", |t| &mut t.tcp_max_retrans),
    ("udp_timeout", |t| &mut t.udp),
    ("udp_timeout_stream", |t| &mut t.udp_stream),
    ("icmp_timeout", |t| &mut t.icmp),
    ("generic_timeout", |t| &mut t.generic),
    ("gre_timeout", |t| &mut t.gre),
    ("gre_timeout_stream", |t| &mut t.gre_stream),
    ("sctp_timeout_established", |t| &mut t.sctp_established),
];

/// What SCTP may be while only one side has spoken: nobody looks into it here, so the longest counts.
const SCTP: [&str; 3] = [
    "sctp_timeout_cookie_wait",
    "sctp_timeout_cookie_echoed",
    "sctp_timeout_heartbeat_sent",
];

/// Reads them. Where conntrack is not loaded, or a sysctl is out of sight or no number, the kernel's own count.
#[must_use]
pub fn times(shared: &NodeSysctls) -> Times {
    times_by(|key| read(shared, key).ok().flatten())
}

/// The same for whoever knows what they were before.
///
/// # Errors
/// If one cannot be read though it is in sight: then nobody knows what it is now.
pub fn try_times(shared: &NodeSysctls) -> Result<Times, NetError> {
    let mut failed = None;
    let times = times_by(|key| match read(shared, key) {
        Ok(value) => value,
        Err(error) if error.is_denied() => None,
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    failed.map_or(Ok(times), Err)
}

fn read(shared: &NodeSysctls, key: &str) -> Result<Option<String>, NetError> {
    match key == UNACKNOWLEDGED {
        true => shared.without_ours(key),
        false => sysctl::read(key),
    }
}

fn times_by(mut read: impl FnMut(&str) -> Option<String>) -> Times {
    let mut read = |name: &str| seconds(&read(&format!("net/netfilter/nf_conntrack_{name}"))?);
    let mut times = Times::DEFAULT;
    for (name, field) in SYSCTLS {
        if let Some(seconds) = read(name) {
            *field(&mut times) = seconds;
        }
    }
    if let Some(longest) = SCTP.iter().filter_map(|name| read(name)).max() {
        times.sctp = longest;
    }
    times
}

/// The kernel takes 0 and less as well, and then forgets each flow at once.
fn seconds(text: &str) -> Option<u32> {
    let seconds: i64 = text.parse().ok()?;
    let bounded = seconds.clamp(Times::LEAST.into(), Times::MOST.into());
    u32::try_from(bounded).ok()
}

/// Where flows live by other times than the node has. What the fast path sets is no wish of the node's, and whoever looks may not know
/// the folder where that is written down.
#[must_use]
pub fn differences(node: &Times, used: &Times) -> Vec<String> {
    let (mut node, mut used) = (*node, *used);
    if node.tcp_unacknowledged == node.tcp_established {
        node.tcp_unacknowledged = used.tcp_unacknowledged;
    }
    let mut differences = Vec::new();
    for (name, field) in SYSCTLS {
        let (is, lives) = (*field(&mut node), *field(&mut used));
        if is != lives {
            let line = format!("nf_conntrack_{name} is {is}, and flows live for {lives} s");
            differences.push(line);
        }
    }
    differences
}

/// Seconds. conntrack is shown one packet of a fast flow every five ([`flannel_common::flow::REFRESH`]), or the next one there is; what it
/// forgets by then is no answer any more to rules that let through nothing else.
const SHOWN: u32 = 10;

/// The sysctl by which conntrack forgets fast flows between two packets that it is shown, with its value.
#[must_use]
pub(crate) fn forgets_fast_flows(times: &Times) -> Option<String> {
    let streams = [
        // Until it is two seconds old, a flow has this one, whoever answers.
        ("udp_timeout", times.udp),
        ("udp_timeout_stream", times.udp_stream),
        ("tcp_timeout_established", times.tcp_established),
    ];
    let mut soon = streams.iter().filter(|(_, seconds)| *seconds < SHOWN);
    let (name, seconds) = soon.next()?;
    Some(format!("net.netfilter.nf_conntrack_{name} is {seconds}"))
}

/// Those that people ask for.
#[derive(Debug, Clone, Copy)]
pub struct Brief<'a>(pub &'a Times);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = self.0;
        write!(
            f,
            "UDP {} s, in streams {} s; TCP established {} s, half closed {} s; ICMP {} s",
            times.udp, times.udp_stream, times.tcp_established, times.tcp_close_wait, times.icmp
        )
    }
}

/// All of them by name.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(times: &Times, serializer: S) -> Result<S::Ok, S::Error> {
    let mut times = *times;
    let mut map = serializer.serialize_map(Some(SYSCTLS.len() + 1))?;
    for (name, field) in SYSCTLS {
        map.serialize_entry(name, field(&mut times))?;
    }
    map.serialize_entry("sctp_timeout", &times.sctp)?;
    map.end()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rstest::rstest;

    use super::*;

    #[test]
    fn without_conntrack_they_are_the_kernels_own() {
        assert_eq!(times_by(|_| None), Times::DEFAULT);
    }

    #[test]
    fn each_sysctl_has_its_field() {
        let fields = SYSCTLS.map(|(name, _)| {
            let key = format!("net/netfilter/nf_conntrack_{name}");
            let one = times_by(|asked| (asked == key).then(|| "77".to_owned()));
            let mut changed = SYSCTLS.iter().filter(|(_, field)| {
                let (mut one, mut default) = (one, Times::DEFAULT);
                field(&mut one) != field(&mut default)
            });
            let name_of_field = changed.next().map(|(name, _)| *name);
            assert_eq!((name_of_field, changed.next()), (Some(name), None));
            name
        });
        assert_eq!(fields.iter().collect::<BTreeSet<_>>().len(), fields.len());
    }

    #[test]
    fn what_is_forgotten_between_two_looks_is_named() {
        let forgets = |udp, udp_stream, tcp_established| {
            forgets_fast_flows(&Times {
                udp,
                udp_stream,
                tcp_established,
                ..Times::DEFAULT
            })
        };
        assert_eq!(forgets(10, 10, 10), None);
        let said = |name| Some(format!("net.netfilter.nf_conntrack_{name} is 9"));
        assert_eq!(forgets(9, 10, 10), said("udp_timeout"));
        assert_eq!(forgets(10, 9, 10), said("udp_timeout_stream"));
        assert_eq!(forgets(10, 10, 9), said("tcp_timeout_established"));
    }

    #[test]
    fn of_sctp_nobody_has_answered_the_longest_counts() {
        let by = |heartbeat: &'static str| {
            times_by(move |key| {
                let echoed = key.ends_with("cookie_echoed").then_some("40");
                let heartbeat = key.ends_with("heartbeat_sent").then_some(heartbeat);
                echoed.or(heartbeat).map(str::to_owned)
            })
        };
        assert_eq!((by("30").sctp, by("50").sctp), (40, 50));
    }

    #[rstest]
    #[case::usual("200", Some(200))]
    #[case::zero("0", Some(1))]
    #[case::negative("-5", Some(1))]
    #[case::absurd("99999999999", Some(Times::MOST))]
    #[case::no_number("soon", None)]
    #[case::empty("", None)]
    fn what_is_absurd_is_bounded(#[case] text: &str, #[case] expected: Option<u32>) {
        assert_eq!(seconds(text), expected);
        let times = times_by(|_| Some(text.to_owned()));
        assert_eq!(times.udp, expected.unwrap_or(Times::DEFAULT.udp));
    }
}
