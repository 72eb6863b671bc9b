//! dockerd's rules where pods hang on its bridge. Since release 28 it lets in from other devices what is published, and nothing
//! else: a packet from another node's pod comes by flannel's device.

use ipnet::Ipv4Net;

use super::{Patient, Report};
use crate::node::iptables::{Kind, Tool, nft};
use crate::node::net::{NetError, ip_tables, nftables};

const TABLE: &str = "raw";
const CHAIN: &str = "PREROUTING";
/// dockerd's own table (`--firewall-backend=nftables`).
const NFT: [&str; 2] = ["docker-bridges", "raw-PREROUTING"];

/// Whether somebody's rules keep other nodes from this node's pods.
pub(super) async fn check(patient: &Patient<'_>, report: &mut Report) {
    let bridge = &patient.config.fast_path.bridge;
    let subnet = crate::flannel::subnet_env::read(patient.subnet_file()).ok();
    let Some(subnet) = subnet.and_then(|file| file.subnet) else {
        return;
    };
    if patient.link(bridge).is_none() {
        return;
    }
    for (place, rules) in listed().await.unwrap_or_default() {
        judge(&place, &rules, bridge, subnet, report);
    }
}

/// What there is, by the place where it is. What no tool shows is left out: `doctor` has said what is missing.
async fn listed() -> Result<Vec<(String, String)>, NetError> {
    let mut places = Vec::new();
    let kinds = [
        (Kind::Nft, !nftables::rules(TABLE, CHAIN)?.is_empty()),
        (Kind::Legacy, ip_tables::has_table(TABLE)),
    ];
    for (kind, _) in kinds.into_iter().filter(|(_, is_there)| *is_there) {
        let rules = async { Tool::of(kind).await?.run(&["-t", TABLE, "-S", CHAIN]).await };
        if let Ok(rules) = rules.await {
            places.push((format!("{TABLE}/{CHAIN} ({kind})"), rules));
        }
    }
    let [table, chain] = NFT;
    if !nftables::rules(table, chain)?.is_empty()
        && let Ok(Some(rules)) = nft(&["-n", "list", "chain", "ip", table, chain]).await
    {
        places.push((format!("ip {table} {chain} (nftables)"), rules));
    }
    Ok(places)
}

fn judge(place: &str, rules: &str, bridge: &str, subnet: Ipv4Net, report: &mut Report) {
    let mut against = rules
        .lines()
        .filter(|rule| is_against(rule, bridge, subnet));
    let Some(rule) = against.next() else {
        return;
    };
    let more = match against.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    report.failure(
        format!(
            "{place} drops what other nodes send to pods behind {bridge}: `{}`{more}",
            rule.trim()
        ),
        format!(
            "dockerd 28 and later writes such rules: start it with --allow-direct-routing (28.2), or with \
             DOCKER_INSECURE_NO_IPTABLES_RAW=1 in its environment, or let pods hang on another bridge than {bridge}"
        ),
    );
}

/// Whether a rule drops packets to pods that did not come by their own bridge, as iptables or nft words it.
fn is_against(rule: &str, bridge: &str, subnet: Ipv4Net) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let follows = |first: &str, then: &str| words.windows(2).any(|pair| pair == [first, then]);
    let drops = follows("-j", "DROP") || words.contains(&"drop");
    let by_others = words.windows(3).any(|part| {
        part == ["!", "-i", bridge]
            || part[..2] == ["iifname", "!="] && part[2].trim_matches('"') == bridge
    }) || words.windows(3).any(|part| part == ["iifname", "!=", "{"])
        && rule.contains(bridge);
    let to_pods = words
        .windows(2)
        .filter(|pair| ["-d", "daddr"].contains(&pair[0]))
        .filter_map(|pair| net(pair[1]))
        .any(|to| subnet.contains(&to) || to.contains(&subnet));
    drops && by_others && to_pods
}

/// An address is a network of its own.
pub(super) fn net(text: &str) -> Option<Ipv4Net> {
    let address = || {
        text.parse()
            .ok()
            .map(|address| Ipv4Net::new_assert(address, 32))
    };
    text.parse().ok().or_else(address)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::inspect::doctor::Mark;
    use crate::inspect::doctor::tests::said;

    #[rstest]
    #[case::of_28("-A PREROUTING -d 10.244.1.2/32 ! -i docker0 -j DROP", true)]
    #[case::of_the_subnet("-A PREROUTING -d 10.244.1.0/24 ! -i docker0 -j DROP", true)]
    #[case::in_nftables("\t\tip daddr 10.244.1.2 iifname != \"docker0\" counter drop", true)]
    #[case::with_trusted("ip daddr 10.244.1.0/24 iifname != { docker0, lo } counter drop", true)]
    #[case::another_bridge("-A PREROUTING -d 10.244.1.2/32 ! -i br-1 -j DROP", false)]
    #[case::another_network("-A PREROUTING -d 172.18.0.2/32 ! -i docker0 -j DROP", false)]
    #[case::an_exception("-A PREROUTING -d 10.244.1.0/24 -i lo -j ACCEPT", false)]
    #[case::from_the_bridge("-A PREROUTING -d 10.244.1.2/32 -i docker0 -j DROP", false)]
    #[case::policy("-P PREROUTING ACCEPT", false)]
    fn rules_against_other_nodes(#[case] rule: &str, #[case] against: bool) {
        let subnet = "10.244.1.0/24".parse().unwrap();
        assert_eq!(is_against(rule, "docker0", subnet), against);
    }

    #[test]
    fn a_rule_is_shown_and_the_others_counted() {
        let rules = ["2", "3", "4"]
            .map(|pod| format!("-A PREROUTING -d 10.244.1.{pod}/32 ! -i docker0 -j DROP\n"))
            .concat();
        let subnet = "10.244.1.0/24".parse().unwrap();
        let said = said(|report| judge("raw/PREROUTING", &rules, "docker0", subnet, report));
        let [(Mark::Failure, text, Some(fix))] = &said[..] else {
            panic!("{said:?}");
        };
        assert!(
            text.contains("-d 10.244.1.2/32") && text.ends_with("and 2 more"),
            "{text}"
        );
        assert!(fix.contains("--allow-direct-routing"), "{fix}");
    }
}
