//! Rules that meet what source NAT by the agent has translated already, or not yet. The kernel's translates behind the tables
//! raw and mangle of PREROUTING, and answers have the node's address there; ours does at the device, ahead of all of
//! netfilter. In the other direction it comes behind POSTROUTING.

use ipnet::Ipv4Net;

use super::docker::net;
use super::{Patient, Report};
use crate::node::iptables::{Kind, Tool, nft};
use crate::node::net::nftables::{Chain, Family};
use crate::node::net::{NetError, ip_tables, nftables};

/// Tables of iptables that are met ahead of its own NAT, with the chain.
const AHEAD: [(&str, &str); 2] = [("raw", "PREROUTING"), ("mangle", "PREROUTING")];
const FORWARD: (&str, &str) = ("filter", "FORWARD");

/// `NF_INET_PRE_ROUTING` and `NF_INET_POST_ROUTING`; `NF_IP_PRI_NAT_DST` and `NF_IP_PRI_NAT_SRC`.
const PRE_ROUTING: (u32, i32) = (0, -100);
const POST_ROUTING: (u32, i32) = (4, 100);

/// What a chain sees of packets between pods and the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// Answers that are addressed to pods already.
    Answers,
    /// What leaves, still under pods' addresses.
    Leaving,
    /// Both, and conntrack knows of no translation.
    Both,
}

/// The rules of a chain, where it is, and what it sees.
type Listed = (String, String, Sees);

pub(super) async fn check(patient: &Patient<'_>, network: Option<Ipv4Net>, report: &mut Report) {
    let (Some(_), Some(network)) = (&patient.config.snat, network) else {
        return;
    };
    let bridge = &patient.config.fast_path.bridge;
    for (place, rules, sees) in listed().await.unwrap_or_default() {
        judge(&place, &rules, sees, bridge, network, report);
    }
}

/// What no tool shows is left out: `doctor` has said what is missing.
async fn listed() -> Result<Vec<Listed>, NetError> {
    let mut found = Vec::new();
    let ahead = AHEAD.map(|place| (place, Sees::Answers));
    for ((table, chain), sees) in ahead.into_iter().chain([(FORWARD, Sees::Both)]) {
        let kinds = [
            (Kind::Nft, !nftables::rules(table, chain)?.is_empty()),
            (Kind::Legacy, ip_tables::has_table(table)),
        ];
        for (kind, _) in kinds.into_iter().filter(|(_, is_there)| *is_there) {
            let rules = async { Tool::of(kind).await?.run(&["-t", table, "-S", chain]).await };
            if let Ok(rules) = rules.await {
                found.push((format!("{table}/{chain} ({kind})"), rules, sees));
            }
        }
    }
    for chain in nftables::chains()? {
        let Some(sees) = sees(&chain) else { continue };
        let name = super::name(&chain);
        let words = ["-n", "list", "chain"].into_iter().chain(name.split(' '));
        if let Ok(Some(rules)) = nft(&words.collect::<Vec<_>>()).await {
            found.push((format!("{name} (nftables)"), rules, sees));
        }
    }
    Ok(found)
}

/// Of nftables' own chains.
fn sees(chain: &Chain) -> Option<Sees> {
    let is_iptables = AHEAD.contains(&(chain.table.as_str(), chain.name.as_str()));
    if chain.family == Family::Other || is_iptables {
        return None;
    }
    match chain.hook? {
        (hook, priority) if hook == PRE_ROUTING.0 && priority <= PRE_ROUTING.1 => {
            Some(Sees::Answers)
        }
        (hook, priority) if hook == POST_ROUTING.0 && priority >= POST_ROUTING.1 => {
            Some(Sees::Leaving)
        }
        _ => None,
    }
}

fn judge(
    place: &str,
    rules: &str,
    sees: Sees,
    bridge: &str,
    network: Ipv4Net,
    report: &mut Report,
) {
    for rule in rules.lines().map(str::trim) {
        match sees {
            Sees::Answers if drops(rule, ["-d", "daddr"], bridge, network) => report.failure(
                format!(
                    "{place} drops answers from outside to pods: source NAT by the agent has given them the pods' addresses by \
                     then: `{rule}`"
                ),
                "let the rule spare what belongs to pods' own flows: move it to FORWARD behind one that accepts \
                 ESTABLISHED, or name the senders it is about",
            ),
            Sees::Leaving if drops(rule, ["-s", "saddr"], bridge, network) => report.failure(
                format!(
                    "{place} drops what pods send to the outside: source NAT by the agent comes behind it: `{rule}`"
                ),
                "take the rule out: what leaves under a pod's address is translated or dropped by the agent",
            ),
            Sees::Both if asks_for_translation(rule) => report.warning(
                format!(
                    "{place} looks for what conntrack translated, and source NAT by the agent leaves no trace there: `{rule}`"
                ),
                "match pods' flows by their state instead: -m conntrack --ctstate ESTABLISHED",
            ),
            _ => {}
        }
    }
}

/// Whether a rule, as iptables or nft words it, drops packets with a pod's address at that end, whoever is at the other.
fn drops(rule: &str, [option, field]: [&str; 2], bridge: &str, network: Ipv4Net) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let has = |part: &[&str]| words.windows(part.len()).any(|window| window == part);
    let ends = ["DROP", "REJECT"]
        .iter()
        .any(|verdict| has(&["-j", verdict]))
        || has(&["drop"])
        || has(&["reject"]);
    // Who named senders (or receivers) meant them. What comes from pods' own side is no answer.
    let other_end = match option {
        "-d" => ["-s", "saddr"],
        _ => ["-d", "daddr"],
    };
    let narrow = other_end.iter().any(|end| has(&[end]))
        || has(&["-i", bridge])
        || has(&["!", "-i", bridge])
        || words.windows(2).any(|pair| {
            ["-i", "iifname", "iif"].contains(&pair[0])
                && (pair[1].trim_matches('"') == bridge
                    || pair[1].trim_matches('"').starts_with("flannel"))
        });
    let not_local = option == "-d"
        && (has(&["fib", "daddr", "type", "!=", "local"]) || has(&["!", "--dst-type", "LOCAL"]));
    let pods = words.iter().enumerate().any(|(at, word)| {
        let (inverted, value) = match (*word, words.get(at + 1)) {
            (word, Some(value)) if word == option => (at > 0 && words[at - 1] == "!", Some(*value)),
            (word, Some(&"!=")) if word == field => (true, words.get(at + 2).copied()),
            (word, Some(value)) if word == field => (false, Some(*value)),
            _ => return false,
        };
        let Some(named) = value.and_then(net) else {
            return false;
        };
        let overlaps = named.contains(&network) || network.contains(&named);
        overlaps != inverted
    });
    ends && !narrow && (pods || not_local)
}

fn asks_for_translation(rule: &str) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    words.windows(2).any(|pair| match pair[0] {
        "--ctstate" => pair[1].split(',').any(|state| state == "SNAT"),
        "--ctrepldst" => true,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::inspect::doctor::Mark;
    use crate::inspect::doctor::tests::said;

    fn marks(rule: &str, sees: Sees) -> Vec<Mark> {
        let network = "10.244.0.0/16".parse().unwrap();
        let said = said(|report| judge("here", rule, sees, "cni0", network, report));
        said.into_iter().map(|(mark, ..)| mark).collect()
    }

    #[rstest]
    #[case::nobody_outside("-A PREROUTING -d 10.244.0.0/16 -i eth0 -j DROP")]
    #[case::one_pod("-A PREROUTING -d 10.244.1.5/32 -j DROP")]
    #[case::but_the_node("-A PREROUTING ! -d 192.0.2.11/32 -i eth0 -j DROP")]
    #[case::no_local("-A PREROUTING -i eth0 -m addrtype ! --dst-type LOCAL -j DROP")]
    #[case::nft("iifname \"eth0\" ip daddr 10.0.0.0/8 counter packets 0 bytes 0 drop")]
    #[case::nft_but_the_node("iifname \"eth0\" ip daddr != 192.0.2.11 drop")]
    #[case::nft_no_local("iifname \"eth0\" fib daddr type != local drop")]
    fn answers_are_dropped(#[case] rule: &str) {
        assert_eq!(marks(rule, Sees::Answers), [Mark::Failure]);
    }

    #[rstest]
    #[case::other_network("-A PREROUTING -d 172.17.0.0/16 -j DROP")]
    #[case::but_pods("-A PREROUTING ! -d 10.0.0.0/8 -j DROP")]
    #[case::a_sender("-A PREROUTING -s 203.0.113.5/32 -d 10.244.0.0/16 -j DROP")]
    #[case::from_pods("-A PREROUTING -d 10.244.0.0/16 -i cni0 -j DROP")]
    #[case::from_nodes("-A PREROUTING -d 10.244.0.0/16 -i flannel.1 -j DROP")]
    #[case::of_docker("-A PREROUTING -d 10.244.1.5/32 ! -i cni0 -j DROP")]
    #[case::no_end("-A PREROUTING -d 10.244.0.0/16 -j MARK --set-xmark 0x1/0x1")]
    #[case::a_policy("-P PREROUTING DROP")]
    fn these_are_about_others(#[case] rule: &str) {
        assert_eq!(marks(rule, Sees::Answers), []);
    }

    #[test]
    fn leaks_that_are_none() {
        let rule = "oifname \"eth0\" ip saddr 10.244.0.0/16 drop";
        assert_eq!(marks(rule, Sees::Leaving), [Mark::Failure]);
        assert_eq!(marks(rule, Sees::Answers), []);
        let other = "oifname \"eth0\" ip saddr 172.17.0.0/16 drop";
        assert_eq!(marks(other, Sees::Leaving), []);
    }

    #[test]
    fn conntrack_knows_of_no_translation() {
        let snat = "-A FORWARD -i eth0 -m conntrack --ctstate SNAT -j ACCEPT";
        assert_eq!(marks(snat, Sees::Both), [Mark::Warning]);
        let reply = "-A FORWARD -m conntrack --ctrepldst 192.0.2.11 -j ACCEPT";
        assert_eq!(marks(reply, Sees::Both), [Mark::Warning]);
        let state = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT";
        assert_eq!(marks(state, Sees::Both), []);
    }
}
