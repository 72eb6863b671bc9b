//! The same in tables of nftables' own, which no iptables shows.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::net::nftables::{Chain, Expression, Family, Rule, Touched};

/// What iptables-nft calls its chains in tables of `ip`; the tool lists them.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// `linux/netfilter/nf_tables.h`
const LOG_GROUP: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_FROM: u16 = 5;
const LINK_HEADER: u32 = 0;
const TRANSPORT_HEADER: u32 = 2;
const INNER_HEADER: u32 = 3;
const KEY: u16 = 2;
/// `NFTA_EXTHDR_OP`.
const EXTENSION_OF: u16 = 6;
const OF_TCP: u32 = 1;
/// `NFTA_EXTHDR_TYPE` of the option that only segments have that open a connection.
const MAXIMUM_SEGMENT: u8 = 2;
const META_LENGTH: u32 = 0;
const META_TIMES: std::ops::RangeInclusive<u32> = 30..=32;
const CT_COUNTERS: std::ops::RangeInclusive<u32> = 14..=16;
const OBJECT_TYPE: u16 = 1;
const OBJECT_QUOTA: u32 = 2;
const OBJECT_LIMIT: u32 = 4;
/// `NFTA_DYNSET_EXPR` and `NFTA_DYNSET_EXPRESSIONS`: a meter.
const METERS: [u16; 2] = [7, 10];

/// By chain, in words: what rules there look at that is not alike for all packets of a flow.
pub(super) fn found(chains: &[Chain], rules: &[Rule]) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut found = BTreeMap::<String, BTreeSet<&'static str>>::new();
    for rule in rules.iter().filter(|rule| may_meet(chains, &rule.of)) {
        let parts: Vec<Expression<'_>> = rule.expressions().collect();
        let words = single(&parts);
        if !words.is_empty() {
            let Touched { table, chain, .. } = &rule.of;
            let family = match rule.of.family {
                Family::Inet => "inet",
                _ => "ip",
            };
            let name = chain.as_deref().unwrap_or_default();
            let place = format!("{family} {table} {name}");
            found.entry(place).or_default().extend(words);
        }
    }
    found
}

/// Whether forwarded packets may meet rules of a chain: each of them, and not only the first of a connection.
fn may_meet(chains: &[Chain], of: &Touched) -> bool {
    let of_table = |chain: &&Chain| chain.family == of.family && chain.table == of.table;
    let table = || chains.iter().filter(of_table);
    let is_iptables =
        of.family == Family::Ipv4 && table().any(|chain| BUILT_IN.contains(&chain.name.as_str()));
    let own = table().find(|chain| Some(chain.name.as_str()) == of.chain.as_deref());
    let Some(own) = own.filter(|_| of.family != Family::Other && !is_iptables) else {
        return false;
    };
    match own.hook {
        Some(_) => own.sees_forwarded(),
        // Who jumps there is not looked for. kube-proxy's choice of an endpoint, say, is in such a chain, and meets first packets.
        None => table().any(Chain::sees_forwarded) && !table().any(|chain| chain.translates),
    }
}

/// As nft writes it. Limits of what is logged for people do no harm.
fn single(parts: &[Expression<'_>]) -> Vec<&'static str> {
    let is_plain_log = |part: &Expression<'_>| part.name == "log" && !part.has(LOG_GROUP);
    if parts.iter().any(is_plain_log) {
        return Vec::new();
    }
    parts.iter().filter_map(word).collect()
}

fn word(part: &Expression<'_>) -> Option<&'static str> {
    Some(match part.name {
        "limit" => "limit",
        "quota" => "quota",
        "queue" => "queue",
        "numgen" => "numgen",
        "dup" => "dup",
        "tproxy" => "tproxy",
        "log" => "log group",
        "ct" if part
            .number(KEY)
            .is_some_and(|key| CT_COUNTERS.contains(&key)) =>
        {
            "ct bytes or packets"
        }
        "meta" if part.number(KEY) == Some(META_LENGTH) => "meta length",
        "meta"
            if part
                .number(KEY)
                .is_some_and(|key| META_TIMES.contains(&key)) =>
        {
            "meta time"
        }
        "payload" if part.number(PAYLOAD_BASE) == Some(INNER_HEADER) => "@ih",
        "payload" if part.number(PAYLOAD_BASE) == Some(LINK_HEADER) => "ether",
        "payload"
            if part.number(PAYLOAD_BASE) == Some(TRANSPORT_HEADER) && part.has(PAYLOAD_FROM) =>
        {
            "set of a transport header"
        }
        "exthdr"
            if part.number(EXTENSION_OF) == Some(OF_TCP)
                && part.byte(KEY) != Some(MAXIMUM_SEGMENT) =>
        {
            "tcp option"
        }
        "dynset" if METERS.iter().any(|meter| part.has(*meter)) => "meter",
        "objref" => match part.number(OBJECT_TYPE)? {
            OBJECT_QUOTA => "quota",
            OBJECT_LIMIT => "limit",
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn chain(table: &str, name: &str, hook: Option<u32>, translates: bool) -> Chain {
        Chain {
            family: if table == "filter" {
                Family::Ipv4
            } else {
                Family::Inet
            },
            table: table.to_owned(),
            name: name.to_owned(),
            hook: hook.map(|hook| (hook, 0)),
            translates,
            drops: false,
        }
    }

    #[rstest]
    #[case::forward("mine", "forward", true)]
    #[case::input("mine", "input", false)]
    #[case::jumped_to("mine", "jumped", true)]
    #[case::of_a_host_alone("host", "jumped", false)]
    #[case::translating("proxy", "dnat", false)]
    #[case::jumped_to_from_there("proxy", "endpoint", false)]
    #[case::of_iptables("filter", "KUBE-X", false)]
    #[case::gone("mine", "gone", false)]
    fn whom_forwarded_packets_meet(#[case] table: &str, #[case] name: &str, #[case] may: bool) {
        let chains = [
            chain("mine", "forward", Some(2), false),
            chain("mine", "input", Some(1), false),
            chain("mine", "jumped", None, false),
            chain("host", "input", Some(1), false),
            chain("host", "jumped", None, false),
            chain("proxy", "forward", Some(2), false),
            chain("proxy", "dnat", Some(0), true),
            chain("proxy", "endpoint", None, false),
            chain("filter", "FORWARD", Some(2), false),
            chain("filter", "KUBE-X", None, false),
        ];
        let of = Touched {
            family: if table == "filter" {
                Family::Ipv4
            } else {
                Family::Inet
            },
            table: table.to_owned(),
            chain: Some(name.to_owned()),
        };
        assert_eq!(may_meet(&chains, &of), may);
    }
}
