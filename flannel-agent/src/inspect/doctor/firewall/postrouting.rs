//! Rules by which pods keep their address towards some destinations. flanneld's own rules come behind them (it appends its
//! jump to POSTROUTING), so they count; the agent's translation comes behind all of netfilter and does not read them.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::docker::net;
use super::{Patient, Report};
use crate::node::iptables::{Kind, Tool};
use crate::node::net::{NetError, ip_tables, nftables};

const TABLE: &str = "nat";
const CHAIN: &str = "POSTROUTING";
/// In the comments of flanneld's own.
const FLANNELD: &str = "flanneld masq";

pub(super) async fn check(patient: &Patient<'_>, network: Option<Ipv4Net>, report: &mut Report) {
    let (Some(snat), Some(network)) = (&patient.config.snat, network) else {
        return;
    };
    for (kind, rules) in listed().await.unwrap_or_default() {
        judge(kind, &rules, network, &snat.exempt, report);
    }
}

/// What no tool shows is left out: `doctor` has said what is missing.
async fn listed() -> Result<Vec<(Kind, String)>, NetError> {
    let mut found = Vec::new();
    let kinds = [
        (Kind::Nft, !nftables::rules(TABLE, CHAIN)?.is_empty()),
        (Kind::Legacy, ip_tables::has_table(TABLE)),
    ];
    for (kind, _) in kinds.into_iter().filter(|(_, is_there)| *is_there) {
        let rules = async { Tool::of(kind).await?.run(&["-t", TABLE, "-S", CHAIN]).await };
        if let Ok(rules) = rules.await {
            found.push((kind, rules));
        }
    }
    Ok(found)
}

fn judge(
    kind: Kind,
    rules: &str,
    network: Ipv4Net,
    exempt: &BTreeSet<Ipv4Net>,
    report: &mut Report,
) {
    for rule in rules.lines().filter(|rule| keeps_address(rule, network)) {
        let to = value(rule, "-d").and_then(net);
        if to.is_some_and(|to| exempt.iter().any(|known| known.contains(&to))) {
            continue;
        }
        let fix = match to.filter(|_| !is_inverted(rule, "-d")) {
            Some(to) => format!("give the agent --snat-exempt={to}"),
            None => "name the destinations that it means with --snat-exempt".to_owned(),
        };
        report.warning(
            format!(
                "{TABLE}/{CHAIN} ({kind}) lets pods keep their address, and source NAT by the agent does not read it: `{rule}`"
            ),
            fix,
        );
    }
}

/// Whether a rule ends the chain for packets of pods as they are.
fn keeps_address(rule: &str, network: Ipv4Net) -> bool {
    let ends = ["ACCEPT", "RETURN"]
        .iter()
        .any(|verdict| value(rule, "-j") == Some(verdict));
    let of_pods = match value(rule, "-s").map(net) {
        Some(Some(from)) => {
            let overlaps = from.contains(&network) || network.contains(&from);
            overlaps != is_inverted(rule, "-s")
        }
        Some(None) => false,
        None => true,
    };
    // What stays in the cluster keeps its address anyway.
    let inside = value(rule, "-d")
        .and_then(net)
        .is_some_and(|to| network.contains(&to));
    ends && of_pods && !inside && !rule.contains(FLANNELD)
}

/// The word behind an option.
fn value<'a>(rule: &'a str, option: &str) -> Option<&'a str> {
    let mut words = rule.split(' ').skip_while(|word| *word != option);
    words.nth(1)
}

fn is_inverted(rule: &str, option: &str) -> bool {
    rule.contains(&format!("! {option} "))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::inspect::doctor::Mark;
    use crate::inspect::doctor::tests::{Said, said};

    fn says(rules: &str, exempt: &[&str]) -> Said {
        let network = "10.244.0.0/16".parse().unwrap();
        let exempt: BTreeSet<Ipv4Net> = exempt.iter().map(|net| net.parse().unwrap()).collect();
        said(|report| judge(Kind::Nft, rules, network, &exempt, report))
    }

    #[rstest]
    #[case::by_destination(
        "-A POSTROUTING -s 10.244.0.0/16 -d 172.16.0.0/12 -j ACCEPT",
        "give the agent --snat-exempt=172.16.0.0/12"
    )]
    #[case::of_a_pod(
        "-A POSTROUTING -s 10.244.1.5/32 -d 172.16.1.1/32 -j RETURN",
        "give the agent --snat-exempt=172.16.1.1/32"
    )]
    #[case::of_anybody(
        "-A POSTROUTING -d 172.16.0.0/12 -j ACCEPT",
        "give the agent --snat-exempt=172.16.0.0/12"
    )]
    #[case::by_device(
        "-A POSTROUTING -s 10.0.0.0/8 -o tun0 -j ACCEPT",
        "name the destinations that it means with --snat-exempt"
    )]
    #[case::all_but(
        "-A POSTROUTING -s 10.244.0.0/16 ! -d 8.8.8.8/32 -j ACCEPT",
        "name the destinations that it means with --snat-exempt"
    )]
    fn exemptions_are_named(#[case] rule: &str, #[case] advice: &str) {
        let said = says(rule, &[]);
        let [(Mark::Warning, text, Some(fix))] = &said[..] else {
            panic!("{said:?}");
        };
        assert!(text.contains(rule), "{text}");
        assert_eq!(fix, advice);
    }

    #[rstest]
    #[case::policy("-P POSTROUTING ACCEPT")]
    #[case::of_flanneld(
        "-A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN"
    )]
    #[case::inside("-A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j ACCEPT")]
    #[case::of_others("-A POSTROUTING -s 192.168.0.0/16 -j ACCEPT")]
    #[case::of_all_others("-A POSTROUTING ! -s 10.244.0.0/16 -j RETURN")]
    #[case::translated("-A POSTROUTING -s 10.244.0.0/16 -o eth1 -j MASQUERADE")]
    #[case::elsewhere("-A POSTROUTING -j KUBE-POSTROUTING")]
    fn other_rules_are_none(#[case] rule: &str) {
        assert_eq!(says(rule, &[]), []);
    }

    #[test]
    fn what_the_agent_was_told_is_fine() {
        let rule = "-A POSTROUTING -s 10.244.0.0/16 -d 172.16.0.0/12 -j ACCEPT";
        assert_eq!(says(rule, &["172.16.0.0/12"]), []);
        assert_eq!(says(rule, &["0.0.0.0/0"]), []);
        assert_eq!(says(rule, &["172.16.0.0/16"]).len(), 1);
    }
}
