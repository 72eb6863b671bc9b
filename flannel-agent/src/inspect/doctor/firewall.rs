//! The node's firewall, read only: a policy of DROP for forwarded packets stops what takes the stack.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::Report;
use crate::config::NetworkConfig;
use crate::net::sysctl;

pub(super) fn check(network: Option<&NetworkConfig>, report: &mut Report) {
    forward(network, report);
    let key = "net/netfilter/nf_conntrack_tcp_be_liberal";
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

fn forward(network: Option<&NetworkConfig>, report: &mut Report) {
    let nft = run("nft", &["-j", "list", "chains"]).and_then(|text| nft_drops(&text));
    // The legacy tables are not in nft's list, and asking for them loads a module: only where it is loaded.
    let legacy = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|tables| tables.lines().any(|table| table == "filter"));
    let rules = run(
        if legacy {
            "iptables-legacy"
        } else {
            "iptables"
        },
        &["-S"],
    )
    .filter(|_| legacy || nft.as_ref().is_some_and(|chains| !chains.is_empty()));
    judge(nft, legacy, rules.as_deref(), network, report);
}

/// `nft`: its chains that drop, if it is there; `rules`: what iptables lists, of the legacy tables where these are.
fn judge(
    nft: Option<Vec<String>>,
    legacy: bool,
    rules: Option<&str>,
    network: Option<&NetworkConfig>,
    report: &mut Report,
) {
    let legacy_drops = legacy && rules.is_some_and(drops);
    let chains = match (nft, legacy_drops) {
        (_, true) => vec!["iptables FORWARD".to_owned()],
        (Some(chains), false) => chains,
        (None, false) if legacy => Vec::new(),
        (None, false) => {
            report.warning(
                "cannot tell whether the firewall drops forwarded packets: there is no nft here",
                "install nftables, or look by hand: iptables -S FORWARD",
            );
            return;
        }
    };
    if chains.is_empty() {
        report.ok("the firewall's policy for forwarded packets is not DROP");
        return;
    }
    let chains = chains.join(", ");
    let cidr = network.map_or_else(
        || "NETWORK".to_owned(),
        |network| network.network.to_string(),
    );
    if rules.is_some_and(|rules| accepts(rules, &cidr)) {
        report.ok(format!(
            "{chains} drops by default, with exceptions for {cidr}"
        ));
        return;
    }
    report.warning(
        format!("{chains} drops by default: packets between pods and {cidr} need an exception"),
        format!(
            "let the agent add them (--iptables-forward-rules=true), or: \
             iptables -A FORWARD -s {cidr} -j ACCEPT; iptables -A FORWARD -d {cidr} -j ACCEPT"
        ),
    );
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Base chains on the forward hook of IPv4 whose policy is drop, by name.
fn nft_drops(text: &str) -> Option<Vec<String>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let chains = value["nftables"].as_array()?.iter();
    Some(
        chains
            .map(|item| &item["chain"])
            .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
            .filter(|chain| chain["family"] == "ip" || chain["family"] == "inet")
            .map(|chain| {
                let word = |key: &str| chain[key].as_str().unwrap_or("?").to_owned();
                format!("{} {} {}", word("family"), word("table"), word("name"))
            })
            .collect(),
    )
}

fn drops(rules: &str) -> bool {
    rules.lines().any(|rule| rule.trim() == "-P FORWARD DROP")
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
    use crate::inspect::doctor::tests::{fine, odd, said};

    #[test]
    fn a_policy_of_drop_needs_exceptions() {
        let json = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let network = NetworkConfig::parse(json).unwrap();
        let said = |nft: Option<&[&str]>, legacy, rules| {
            let nft = nft.map(|chains| chains.iter().map(|c| (*c).to_owned()).collect());
            said(|report| judge(nft, legacy, rules, Some(&network), report))
        };
        let none = fine("the firewall's policy for forwarded packets is not DROP");
        assert_eq!(said(Some(&[]), false, None), none);
        assert_eq!(said(None, true, Some("-P FORWARD ACCEPT\n")), none);
        assert_eq!(
            said(None, false, None),
            odd(
                "cannot tell whether the firewall drops forwarded packets: there is no nft here",
                "install nftables, or look by hand: iptables -S FORWARD"
            )
        );
        let drops = |chain: &str| {
            odd(
                &format!(
                    "{chain} drops by default: packets between pods and 10.244.0.0/16 need an exception"
                ),
                "let the agent add them (--iptables-forward-rules=true), or: \
                 iptables -A FORWARD -s 10.244.0.0/16 -j ACCEPT; iptables -A FORWARD -d 10.244.0.0/16 -j ACCEPT",
            )
        };
        let policy = "-P FORWARD DROP\n";
        assert_eq!(
            said(Some(&[]), true, Some(policy)),
            drops("iptables FORWARD")
        );
        let chain = ["ip filter FORWARD"];
        assert_eq!(said(Some(&chain), false, Some(policy)), drops(chain[0]));
        let rules = "-P FORWARD DROP\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n\
                     -A FORWARD -d 10.244.0.0/16 -j ACCEPT\n";
        assert_eq!(
            said(Some(&chain), false, Some(rules)),
            fine("ip filter FORWARD drops by default, with exceptions for 10.244.0.0/16")
        );
    }

    #[test]
    fn chains_that_drop_forwarded_packets_are_found() {
        let text = r#"{"nftables":[{"metainfo":{}},
            {"chain":{"family":"ip","table":"filter","name":"FORWARD","hook":"forward","policy":"drop"}},
            {"chain":{"family":"ip6","table":"filter","name":"FORWARD","hook":"forward","policy":"drop"}},
            {"chain":{"family":"ip","table":"filter","name":"INPUT","hook":"input","policy":"drop"}},
            {"chain":{"family":"inet","table":"fw","name":"fwd","hook":"forward","policy":"accept"}},
            {"chain":{"family":"ip","table":"filter","name":"DOCKER"}}]}"#;
        assert_eq!(nft_drops(text).unwrap(), ["ip filter FORWARD"]);
        assert_eq!(nft_drops("not JSON"), None);
    }

    #[test]
    fn an_exception_has_to_cover_both_directions() {
        let one = "-P FORWARD DROP\n-A FORWARD -s 10.244.0.0/16 -m comment --comment x -j ACCEPT\n";
        assert!(drops(one) && !accepts(one, "10.244.0.0/16"));
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
