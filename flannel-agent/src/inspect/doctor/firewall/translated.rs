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
    let met = rules
        .lines()
        .map(str::trim)
        .take_while(|rule| !lets_answers_by(rule));
    for rule in met {
        match sees {
            Sees::Answers if drops(rule, ["-d", "daddr"], bridge, network) => report.warning(
                format!(
                    "{place} drops answers from outside to pods: source NAT by the agent has given them the pods' addresses by \
                     then: `{rule}`"
                ),
                "let the rule spare what belongs to pods' own flows: move it to FORWARD behind one that accepts \
                 ESTABLISHED, or name the senders it is about",
            ),
            Sees::Leaving if drops(rule, ["-s", "saddr"], bridge, network) => report.warning(
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

/// Behind it no answer comes by any more.
fn lets_answers_by(rule: &str) -> bool {
    let accepts = rule.contains("-j ACCEPT") || rule.ends_with("accept");
    let lowercase = rule.to_ascii_lowercase();
    accepts && lowercase.contains("established")
}

/// Of iptables and nft: what a rule asks besides addresses and devices, so that it need not be about answers.
const CONDITIONS: [&str; 7] = ["-p", "ct", "tcp", "udp", "icmp", "meta", "limit"];
/// Modules of iptables that ask nothing of the kind.
const PLAIN: [&str; 2] = ["comment", "addrtype"];

/// Whether a rule, as iptables or nft words it, drops packets with a pod's address at that end, whoever is at the other.
fn drops(rule: &str, [option, field]: [&str; 2], bridge: &str, network: Ipv4Net) -> bool {
    // Comments may say anything.
    let plain: String = rule
        .split('"')
        .enumerate()
        .filter_map(|(at, part)| (at % 2 == 0 || !part.contains(' ')).then_some(part))
        .collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    let has = |part: &[&str]| words.windows(part.len()).any(|window| window == part);
    let ends = ["DROP", "REJECT"]
        .iter()
        .any(|verdict| has(&["-j", verdict]))
        || has(&["drop"])
        || has(&["reject"]);
    // Who named senders (or receivers) meant them. What comes from pods' own side is no answer, and what is excepted by a
    // device may be just that.
    let other_end = match option {
        "-d" => ["-s", "saddr"],
        _ => ["-d", "daddr"],
    };
    let narrow = other_end.iter().any(|end| has(&[end]))
        || CONDITIONS.iter().any(|word| has(&[word]))
        || words
            .windows(2)
            .any(|pair| pair[0] == "-m" && !PLAIN.contains(&pair[1]))
        || ["-i", "-o"].iter().any(|device| has(&["!", device]))
        || words.windows(2).any(|pair| {
            let of_device = ["-i", "-o", "iifname", "oifname", "iif", "oif"].contains(&pair[0]);
            of_device && !may_lead_out(pair[1], bridge)
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

/// Whether answers may come by a device of this name. A list of them, or all but one, may be anything.
fn may_lead_out(device: &str, bridge: &str) -> bool {
    let inside = ["flannel", "docker", "br-", "veth", "cni", "lo"];
    !["{", "!="].contains(&device)
        && device != bridge
        && !inside.iter().any(|name| device.starts_with(name))
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
    #[case::with_a_comment(
        "-A PREROUTING -i eth0 -d 10.244.0.0/16 -m comment --comment \"no one\" -j DROP"
    )]
    #[case::one_pod("-A PREROUTING -d 10.244.1.5/32 -j DROP")]
    #[case::but_the_node("-A PREROUTING ! -d 192.0.2.11/32 -i eth0 -j DROP")]
    #[case::no_local("-A PREROUTING -i eth0 -m addrtype ! --dst-type LOCAL -j DROP")]
    #[case::nft("iifname \"eth0\" ip daddr 10.0.0.0/8 counter packets 0 bytes 0 drop")]
    #[case::nft_but_the_node("iifname \"eth0\" ip daddr != 192.0.2.11 drop")]
    #[case::nft_no_local("iifname \"eth0\" fib daddr type != local drop")]
    fn answers_are_dropped(#[case] rule: &str) {
        assert_eq!(marks(rule, Sees::Answers), [Mark::Warning]);
    }

    #[rstest]
    #[case::other_network("-A PREROUTING -d 172.17.0.0/16 -j DROP")]
    #[case::but_pods("-A PREROUTING ! -d 10.0.0.0/8 -j DROP")]
    #[case::a_sender("-A PREROUTING -s 203.0.113.5/32 -d 10.244.0.0/16 -j DROP")]
    #[case::from_pods("-A PREROUTING -d 10.244.0.0/16 -i cni0 -j DROP")]
    #[case::from_nodes("-A PREROUTING -d 10.244.0.0/16 -i flannel.1 -j DROP")]
    #[case::of_docker("-A PREROUTING -d 10.244.1.5/32 ! -i cni0 -j DROP")]
    #[case::new_ones("-A PREROUTING -i eth0 -d 10.244.0.0/16 -m conntrack --ctstate NEW -j DROP")]
    #[case::invalid("iifname \"eth0\" ip daddr 10.244.0.0/16 ct state invalid drop")]
    #[case::a_port("-A PREROUTING -i eth0 -d 10.244.0.0/16 -p tcp -m tcp --dport 22 -j DROP")]
    #[case::of_another_device("-A PREROUTING -i docker0 -d 10.244.0.0/16 -j DROP")]
    #[case::all_but_the_uplink("-A PREROUTING ! -i eth0 -d 10.244.0.0/16 -j DROP")]
    #[case::some_devices("iifname { \"cni0\", \"lo\" } ip daddr 10.244.0.0/16 drop")]
    #[case::a_comment("ip daddr 10.244.0.0/16 accept comment \"do not drop this\"")]
    #[case::no_end("-A PREROUTING -d 10.244.0.0/16 -j MARK --set-xmark 0x1/0x1")]
    #[case::a_policy("-P PREROUTING DROP")]
    fn these_are_about_others(#[case] rule: &str) {
        assert_eq!(marks(rule, Sees::Answers), []);
    }

    #[test]
    fn behind_what_lets_answers_by_nothing_is_about_them() {
        let drop = "-A PREROUTING -i eth0 -d 10.244.0.0/16 -j DROP";
        let rules = format!(
            "-P PREROUTING ACCEPT\n-A PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n{drop}"
        );
        assert_eq!(marks(&rules, Sees::Answers), []);
        let later = format!("{drop}\n-A PREROUTING -m conntrack --ctstate ESTABLISHED -j ACCEPT");
        assert_eq!(marks(&later, Sees::Answers), [Mark::Warning]);
        let nft =
            "ct state established,related accept\niifname \"eth0\" ip daddr 10.244.0.0/16 drop";
        assert_eq!(marks(nft, Sees::Answers), []);
    }

    #[test]
    fn leaks_that_are_none() {
        let rule = "oifname \"eth0\" ip saddr 10.244.0.0/16 drop";
        assert_eq!(marks(rule, Sees::Leaving), [Mark::Warning]);
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
