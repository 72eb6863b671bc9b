//! `--ip-masq` and what goes with it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use flannel_common::maps::{MAX_EXEMPT, MAX_SNAT};
use ipnet::Ipv4Net;

use super::ConfigError;
use super::flags::Flags;
use super::tables::table_entries;
use crate::node::snat_ports::{PortChoice, PortRange};
use crate::reconcile::desired::SourceNat;

/// Value of `--snat-ports` for a range that suits the node.
const AUTO: &str = "auto";
/// Below lie the ports that services listen on.
const PORT_MIN: u16 = 1_024;

/// What the flags say, checked even where source NAT is off.
pub(super) fn source_nat(flags: &Flags) -> Result<Option<SourceNat>, ConfigError> {
    let snat = SourceNat {
        ports: ports(&flags.snat_ports)?,
        keeps_ports: flags.ip_masq_fully_random_disable,
        exempt: exempt(&flags.snat_exempt)?,
    };
    Ok(flags.ip_masq.then_some(snat))
}

fn ports(text: &str) -> Result<PortChoice, ConfigError> {
    if text.trim() == AUTO {
        return Ok(PortChoice::Auto);
    }
    let wrong = |problem: &str| {
        ConfigError::new(
            "snat-ports",
            text,
            problem,
            "give auto, or the first and the last port, such as 49152-65535",
        )
    };
    let (min, max) = text.split_once('-').ok_or_else(|| wrong("no range"))?;
    let number = |text: &str| {
        text.trim()
            .parse::<u16>()
            .map_err(|_| wrong(&format!("{:?} is not a port", text.trim())))
    };
    let (min, max) = (number(min)?, number(max)?);
    if min > max {
        return Err(wrong("an empty range"));
    }
    if min < PORT_MIN {
        return Err(wrong("services listen on ports below 1024"));
    }
    Ok(PortChoice::Fixed(PortRange { min, max }))
}

/// Size of the table of flows.
pub(super) fn entries(text: &str) -> Result<u32, ConfigError> {
    let fix = "leave the flag out for a size that suits the node; each flow takes two";
    if text.trim() == AUTO {
        // Who cannot tell has not little.
        let memory = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |node| node.ram_total());
        return Ok(entries_for(memory));
    }
    let wrong = |_| ConfigError::new("snat-entries", text, "neither a number nor auto", fix);
    table_entries("snat-entries", text.trim().parse().map_err(wrong)?, fix)
}

/// A table is taken at once, 130 bytes an entry: 68 MB, or half of it for a node with so little `memory` in bytes.
fn entries_for(memory: u64) -> u32 {
    const LITTLE: u64 = 4 << 30;
    // What a node of four gigabytes has left after its kernel's own.
    let is_little = memory < LITTLE - (LITTLE >> 3);
    let entries = if is_little { MAX_SNAT / 2 } else { MAX_SNAT };
    u32::try_from(entries).unwrap_or(u32::MAX)
}

fn exempt(texts: &[String]) -> Result<BTreeSet<Ipv4Net>, ConfigError> {
    let wrong =
        |text: &str, problem: &str, fix| ConfigError::new("snat-exempt", text, problem, fix);
    let mut all = BTreeSet::new();
    for text in texts.iter().map(|text| text.trim()) {
        if text.is_empty() {
            continue;
        }
        let address = || text.parse().ok().map(|ip: Ipv4Addr| ip.into());
        let net = text.parse().ok().or_else(address);
        let net: Ipv4Net = net.ok_or_else(|| {
            let fix = "give a network such as 192.168.0.0/16, or an address";
            wrong(text, "no IPv4 network", fix)
        })?;
        all.insert(net.trunc());
    }
    if all.len() > MAX_EXEMPT {
        let problem = format!("{} networks are more than {MAX_EXEMPT}", all.len());
        return Err(wrong("…", &problem, "give larger networks, but fewer"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("49152-65535", 49_152, 65_535)]
    #[case(" 1024 - 1024 ", 1_024, 1_024)]
    fn a_range_of_ports(#[case] text: &str, #[case] min: u16, #[case] max: u16) {
        let fixed = PortChoice::Fixed(PortRange { min, max });
        assert_eq!(ports(text).unwrap(), fixed);
    }

    #[test]
    fn or_none() {
        assert_eq!(ports(" auto ").unwrap(), PortChoice::Auto);
    }

    #[rstest]
    #[case("", "no range")]
    #[case("50000", "no range")]
    #[case("50000-", "not a port")]
    #[case("a-b", "not a port")]
    #[case("50000-70000", "\"70000\" is not a port")]
    #[case("-1-5", "not a port")]
    #[case("60000-50000", "an empty range")]
    #[case("1023-50000", "below 1024")]
    fn no_range_of_ports(#[case] text: &str, #[case] why: &str) {
        let error = ports(text).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("--snat-ports={text}: ")),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_table_suits_the_node() {
        assert_eq!(entries_for(1 << 30), 262_144);
        // Of four gigabytes the kernel keeps some.
        assert_eq!(entries_for((4 << 30) - (200 << 20)), 524_288);
        assert_eq!(entries_for(u64::MAX), 524_288);
        assert_eq!(entries(" 8192 ").unwrap(), 8_192);
        assert!(entries("auto").unwrap() >= 262_144);
        let error = entries("many").unwrap_err().to_string();
        assert!(error.starts_with("--snat-entries=many: neither"), "{error}");
    }

    #[test]
    fn networks_and_addresses_are_exempt() {
        let texts = ["10.1.2.3/8", "192.0.2.1", " 10.0.0.0/8 ", ""].map(str::to_owned);
        let all: Vec<_> = exempt(&texts)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(all, ["10.0.0.0/8", "192.0.2.1/32"]);
        let error = exempt(&["fe80::/10".to_owned()]).unwrap_err().to_string();
        assert!(
            error.contains("--snat-exempt=fe80::/10") && error.contains("192.168"),
            "{error}"
        );
    }

    #[test]
    fn exemptions_have_to_fit_their_map() {
        let text = |n: u32| Ipv4Addr::from_bits(n).to_string();
        let texts: Vec<_> = (0..1_025).map(text).collect();
        let error = exempt(&texts).unwrap_err().to_string();
        assert!(
            error.contains("1025 networks are more than 1024"),
            "{error}"
        );
    }
}
