//! Rules that look at single packets of a flow, or count them: of a fast flow they see one in five seconds.

use flannel_common::header::{PROTO_TCP, PROTO_UDP};
use flannel_common::helper;

use super::{Patient, Report, single_nft};
use crate::base::options::Mode;
use crate::node::iptables::{Kind, Tool};
use crate::node::net::{NetError, ip_tables, nftables};

/// Where forwarded packets meet rules all along; nat sees the first of a connection alone.
const TABLES: [&str; 3] = ["filter", "mangle", "raw"];

/// What a rule has that does not judge all packets of a flow alike.
const SINGLE: [&str; 24] = [
    "-m string ",
    "-m quota ",
    "-m limit ",
    "-m hashlimit ",
    "-m connbytes ",
    "-m statistic ",
    "-m recent ",
    "-m time ",
    "-m length ",
    "-m u32 ",
    "-m bpf ",
    "-m nfacct ",
    "-m rateest ",
    "-m mac ",
    "-m ecn ",
    "-j NFQUEUE",
    "-j NFLOG",
    "-j TPROXY",
    "-j TEE",
    "-j RATEEST",
    "-j TCPOPTSTRIP",
    "-j ECN",
    "-j IDLETIMER",
    HELPER,
];

/// Of `CT`: what it reads are the connections that a protocol announces.
const HELPER: &str = "--helper ";

pub(super) async fn check(patient: &Patient<'_>, report: &mut Report) {
    if patient.config.fast_path.mode == Mode::Off {
        return;
    }
    for (place, rules) in listed().await.unwrap_or_default() {
        judge(&place, &rules, report);
    }
    // Who may not look has been told so by the look at FORWARD.
    if let (Ok(chains), Ok(rules)) = (nftables::chains(), nftables::all_rules()) {
        for (chain, words) in single_nft::found(&chains, &rules) {
            let words: Vec<&str> = words.into_iter().collect();
            report.warning(
                format!(
                    "rules in the nftables chain {chain} look at single packets ({}), of which they see one in five seconds once \
                     a flow is fast",
                    words.join(", ")
                ),
                FIX,
            );
        }
    }
}

const FIX: &str =
    "--fast-path=off, if the rule is meant for pods: then it sees all packets, as under flannel";

/// By table and kind. What no tool shows is left out: `doctor` has said what is missing.
async fn listed() -> Result<Vec<(String, String)>, NetError> {
    let chains = nftables::chains()?;
    let mut places = Vec::new();
    for table in TABLES {
        let kinds = [
            (Kind::Nft, chains.iter().any(|chain| chain.table == table)),
            (Kind::Legacy, ip_tables::has_table(table)),
        ];
        for (kind, _) in kinds.into_iter().filter(|(_, is_there)| *is_there) {
            let rules = async { Tool::of(kind).await?.run(&["-t", table, "-S"]).await };
            if let Ok(rules) = rules.await {
                places.push((format!("{table} ({kind})"), rules));
            }
        }
    }
    Ok(places)
}

fn judge(place: &str, rules: &str, report: &mut Report) {
    let mut found = rules.lines().filter(|rule| is_single(rule));
    let Some(rule) = found.next() else {
        return;
    };
    let more = match found.count() {
        0 => String::new(),
        n => format!(", and {n} more like it"),
    };
    report.warning(
        format!(
            "a rule in {place} looks at single packets, of which it sees one in five seconds once a flow is fast: {rule}{more}"
        ),
        FIX,
    );
}

/// One that forwarded packets may meet. Limits of what is logged do no harm.
fn is_single(rule: &str) -> bool {
    let is_own = |chain| rule.starts_with(&format!("-A {chain} "));
    let line = format!("{rule} ");
    rule.starts_with("-A ")
        && !["INPUT", "OUTPUT"].into_iter().any(is_own)
        && !line.contains("-j LOG ")
        && (SINGLE.iter().any(|word| line.contains(word)) || looks_at_flags(&line))
        && !is_for_usual_port(&line)
}

/// By other flags of TCP's than those that open or end a connection, whose segments all take the stack.
fn looks_at_flags(line: &str) -> bool {
    let mask = line.split_once("--tcp-flags ");
    let mask = mask.and_then(|(_, rest)| rest.split(' ').next());
    mask.is_some_and(|mask| {
        mask.split(',')
            .any(|flag| matches!(flag, "URG" | "PSH" | "ALL"))
    })
}

/// A rule that gives a helper its usual port, whose flows are never fast.
fn is_for_usual_port(line: &str) -> bool {
    let port = || {
        line.split_once("--dport ")?
            .1
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    let is_usual = |proto: u8| port().is_some_and(|port| helper::may_read(proto.into(), port));
    line.contains(HELPER)
        && (line.contains("-p tcp ") && is_usual(PROTO_TCP)
            || line.contains("-p udp ") && is_usual(PROTO_UDP))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::inspect::doctor::tests::{Said, odd, said};

    #[rstest]
    #[case(
        "-A FORWARD -m string --string secret --algo bm --to 65535 -j DROP",
        true
    )]
    #[case("-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp", false)]
    #[case("-A PREROUTING -p tcp -m tcp --dport 2121 -j CT --helper ftp", true)]
    #[case("-A PREROUTING -p udp -m udp --dport 21 -j CT --helper ftp", true)]
    #[case("-A PREROUTING -i cni0 -j CT --notrack", false)]
    #[case("-A FORWARD -s 10.244.1.5/32 -m quota --quota 1000 -j ACCEPT", true)]
    #[case(
        "-A KUBE-X -m connbytes --connbytes 10 --connbytes-mode bytes -j DROP",
        true
    )]
    #[case("-A FORWARD -j NFQUEUE --queue-num 1", true)]
    #[case("-A FORWARD -j NFLOG", true)]
    #[case("-A FORWARD -j TEE --gateway 192.0.2.9", true)]
    #[case("-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", false)]
    #[case("-A INPUT -m limit --limit 1/sec -j ACCEPT", false)]
    #[case("-A ufw-logging -m limit --limit 3/min -j LOG --log-prefix x", false)]
    #[case("-N NFQUEUE-of-mine", false)]
    #[case(
        "-A PREROUTING -s 10.244.2.0/24 -m mac ! --mac-source 02:00:00:00:00:02 -j DROP",
        true
    )]
    #[case("-A POSTROUTING -p tcp -j TCPOPTSTRIP --strip-options timestamp", true)]
    #[case("-A POSTROUTING -p tcp -j ECN --ecn-tcp-remove", true)]
    #[case(
        "-A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP",
        true
    )]
    #[case(
        "-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        false
    )]
    #[case("-A FORWARD -m ttl --ttl-lt 5 -j DROP", false)]
    fn rules_that_look_at_single_packets(#[case] rule: &str, #[case] single: bool) {
        assert_eq!(is_single(rule), single);
    }

    #[test]
    fn the_first_is_shown_and_the_rest_counted() {
        let rules = "-P FORWARD ACCEPT\n-A FORWARD -j NFLOG\n-A FORWARD -m quota --quota 1 -j DROP";
        assert_eq!(
            said(|report| judge("filter (iptables-nft)", rules, report)),
            odd(
                "a rule in filter (iptables-nft) looks at single packets, of which it sees one in five seconds once a flow is \
                 fast: -A FORWARD -j NFLOG, and 1 more like it",
                FIX
            )
        );
        let none = said(|report| judge("filter", "-P FORWARD ACCEPT", report));
        assert_eq!(none, Said::new());
    }
}
