//! The node's firewall, read only: a policy of DROP for forwarded packets stops what takes the stack.

mod docker;
mod postrouting;
mod single;
mod single_nft;
mod translated;

use ipnet::Ipv4Net;

use super::{Patient, Report};
use crate::flannel::config::NetworkConfig;
use crate::node::iptables::{IptablesError, Kind, Tool};
use crate::node::net::nftables::{Chain, Family};
use crate::node::net::{NetError, ip_tables, nftables, sysctl};

pub(super) async fn check(
    patient: &Patient<'_>,
    network: Option<&NetworkConfig>,
    report: &mut Report,
) {
    let network = network.map(|network| network.network);
    forward(network, report).await;
    docker::check(patient, report).await;
    postrouting::check(patient, network, report).await;
    translated::check(patient, network, report).await;
    single::check(patient, report).await;
    let key = crate::reconcile::desired::LIBERAL;
    if let Ok(Some(value)) = sysctl::read(key) {
        report.ok(format!(
            "conntrack is {}",
            if value == "1" {
                "liberal about TCP windows"
            } else {
                "strict about TCP windows"
            }
        ));
    }
}

/// A base chain at the forward hook.
#[derive(Debug, PartialEq, Eq)]
enum Dropping {
    /// FORWARD of a kind of iptables, and its rules, which only the tool shows.
    Iptables(Kind, Result<String, String>),
    /// Anybody else's, by family, table and name. A rule that accepts in one chain does not help in the next.
    Nftables(String),
}

async fn forward(network: Option<Ipv4Net>, report: &mut Report) {
    match dropping().await {
        Ok(chains) => judge(&chains, network, report),
        Err(error) => report.warning(
            format!("cannot tell whether the firewall drops forwarded packets: {error}"),
            "run this as root, or look by hand: iptables -S FORWARD; nft list chains",
        ),
    }
}

async fn dropping() -> Result<Vec<Dropping>, NetError> {
    let mut found = Vec::new();
    for chain in nftables::chains()?
        .iter()
        .filter(|chain| chain.drops_forwarded())
    {
        found.push(match is_of_iptables(chain) {
            true => Dropping::Iptables(Kind::Nft, rules(Kind::Nft).await),
            false => Dropping::Nftables(name(chain)),
        });
    }
    if ip_tables::forward_drops()? {
        found.push(Dropping::Iptables(Kind::Legacy, rules(Kind::Legacy).await));
    }
    Ok(found)
}

fn is_of_iptables(chain: &Chain) -> bool {
    chain.family == Family::Ipv4 && chain.table == "filter" && chain.name == "FORWARD"
}

fn name(chain: &Chain) -> String {
    let family = match chain.family {
        Family::Ipv4 => "ip",
        Family::Inet | Family::Other => "inet",
    };
    format!("{family} {} {}", chain.table, chain.name)
}

async fn rules(kind: Kind) -> Result<String, String> {
    let listed = async { Tool::of(kind).await?.run(&["-S"]).await };
    listed
        .await
        .map_err(|error: IptablesError| error.to_string())
}

fn judge(chains: &[Dropping], network: Option<Ipv4Net>, report: &mut Report) {
    if chains.is_empty() {
        report.ok("the firewall's policy for forwarded packets is not DROP");
    }
    let cidr = network.map_or_else(|| "NETWORK".to_owned(), |network| network.to_string());
    for chain in chains {
        match chain {
            Dropping::Iptables(kind, Ok(rules)) if accepts(rules, &cidr) => report.ok(format!(
                "FORWARD ({kind}) drops by default, with exceptions for {cidr}"
            )),
            Dropping::Iptables(kind, Ok(_)) => report.warning(
                format!("FORWARD ({kind}) drops by default: packets between pods and {cidr} need an exception"),
                format!(
                    "let the agent add them (--iptables-forward-rules=true), or: \
                     {kind} -A FORWARD -s {cidr} -j ACCEPT; {kind} -A FORWARD -d {cidr} -j ACCEPT"
                ),
            ),
            Dropping::Iptables(kind, Err(why)) => report.failure(
                format!(
                    "FORWARD ({kind}) drops by default, and neither doctor nor the agent can look for exceptions or add them: {why}"
                ),
                "install iptables where the agent runs (the shipped image has it), or accept the network's packets yourself \
                 and give --iptables-forward-rules=false",
            ),
            Dropping::Nftables(chain) => report.warning(
                format!(
                    "the chain {chain} drops forwarded packets by default, and rules of iptables do not help there: \
                     packets between pods and {cidr} need an exception"
                ),
                format!("nft insert rule {chain} ip saddr {cidr} accept; nft insert rule {chain} ip daddr {cidr} accept, if there is none yet"),
            ),
        }
    }
}

/// Both directions, in FORWARD itself or in a chain that it jumps to, as flannel's own rules have it.
fn accepts(rules: &str, cidr: &str) -> bool {
    let jumps = rules
        .lines()
        .filter(|rule| rule.starts_with("-A FORWARD "))
        .filter_map(|rule| rule.split_once(" -j ")?.1.split(' ').next());
    let chains: Vec<String> = std::iter::once("FORWARD")
        .chain(jumps)
        .map(|chain| format!("-A {chain} "))
        .collect();
    let is_met = |rule: &str| chains.iter().any(|chain| rule.starts_with(chain.as_str()));
    ["-s", "-d"].iter().all(|end| {
        let end = format!(" {end} {cidr} ");
        rules
            .lines()
            .any(|rule| is_met(rule) && rule.contains(&end) && rule.ends_with("-j ACCEPT"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::Mark;
    use crate::inspect::doctor::tests::{Said, fine, odd, said};

    fn says(chains: &[Dropping]) -> Said {
        let network = "10.244.0.0/16".parse().unwrap();
        said(|report| judge(chains, Some(network), report))
    }

    fn iptables(kind: Kind, rules: &str) -> Dropping {
        Dropping::Iptables(kind, Ok(rules.to_owned()))
    }

    #[test]
    fn a_policy_of_drop_needs_exceptions() {
        let none = fine("the firewall's policy for forwarded packets is not DROP");
        assert_eq!(says(&[]), none);
        assert_eq!(
            says(&[iptables(Kind::Legacy, "-P FORWARD DROP\n")]),
            odd(
                "FORWARD (iptables-legacy) drops by default: packets between pods and 10.244.0.0/16 need an exception",
                "let the agent add them (--iptables-forward-rules=true), or: \
                 iptables-legacy -A FORWARD -s 10.244.0.0/16 -j ACCEPT; iptables-legacy -A FORWARD -d 10.244.0.0/16 -j ACCEPT",
            )
        );
        let rules = "-P FORWARD DROP\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n\
                     -A FORWARD -d 10.244.0.0/16 -j ACCEPT\n";
        assert_eq!(
            says(&[iptables(Kind::Nft, rules)]),
            fine("FORWARD (iptables-nft) drops by default, with exceptions for 10.244.0.0/16")
        );
    }

    #[test]
    fn what_nobody_can_repair_here_is_a_failure() {
        let why = Dropping::Iptables(Kind::Nft, Err("there is no iptables-nft".to_owned()));
        let [(mark, text, _)] = &says(&[why])[..] else {
            panic!("one line");
        };
        assert_eq!(*mark, Mark::Failure);
        assert!(text.contains("there is no iptables-nft"), "{text}");
    }

    #[test]
    fn iptables_does_not_help_in_other_chains() {
        let said = says(&[Dropping::Nftables("inet fw forward".to_owned())]);
        let [(Mark::Warning, text, Some(fix))] = &said[..] else {
            panic!("{said:?}");
        };
        assert!(text.contains("the chain inet fw forward"), "{text}");
        assert!(
            fix.contains("nft insert rule inet fw forward ip saddr 10.244.0.0/16"),
            "{fix}"
        );
    }

    #[test]
    fn an_exception_has_to_cover_both_directions() {
        let one = "-P FORWARD DROP\n-A FORWARD -s 10.244.0.0/16 -m comment --comment x -j ACCEPT\n";
        assert!(!accepts(one, "10.244.0.0/16"));
        let both = format!("{one}-A FORWARD -d 10.244.0.0/16 -j ACCEPT\n");
        assert!(accepts(&both, "10.244.0.0/16"));
        assert!(!accepts(&both, "10.244.0.0/1"));
    }

    #[test]
    fn an_exception_in_a_chain_counts_where_packets_meet_it() {
        let chain = "-P FORWARD DROP\n-N FLANNEL-FWD\n\
             -A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n\
             -A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n";
        assert!(!accepts(chain, "10.244.0.0/16"));
        let met = format!("{chain}-A FORWARD -m comment --comment x -j FLANNEL-FWD\n");
        assert!(accepts(&met, "10.244.0.0/16"));
    }
}
