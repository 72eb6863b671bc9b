//! What the daemon, ours or flanneld, wrote into `subnet.env`.

use std::fs;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubnetEnv {
    /// Without host bits, each once, as they stand in the file; IPv4 first.
    pub(crate) networks: Vec<IpNet>,
    /// The same, one per family.
    pub(crate) subnets: Vec<IpNet>,
    /// Bytes.
    pub(crate) mtu: u32,
    /// Whether the daemon translates pod addresses.
    pub(crate) ip_masq: bool,
}

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("open {path}: {error}")]
    Unreadable { path: String, error: String },
    #[error("{path}: {variable}: {error}")]
    Invalid {
        path: String,
        variable: &'static str,
        error: String,
    },
    #[error("{path} is missing {variables}")]
    Missing { path: String, variables: String },
}

/// # Errors
/// If the file cannot be read, a variable cannot be understood, or one is missing: a daemon that is about to start
/// writes it.
pub(crate) fn read(path: &Path) -> Result<SubnetEnv, Error> {
    let shown = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => parse(&String::from_utf8_lossy(&bytes), &shown),
        Err(error) => Err(Error::Unreadable {
            error: gos_words(&error),
            path: shown,
        }),
    }
}

/// Without Rust's "(os error 2)": Go's words, in lower case.
fn gos_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    words.to_lowercase()
}

/// Lines `NAME=value`; of two with one name the later one counts. Quotes around a value are taken off, a carriage return
/// at its end, too; what has another name is not ours to judge.
fn parse(text: &str, path: &str) -> Result<SubnetEnv, Error> {
    let (mut networks, mut networks6) = (None, None);
    let (mut subnet, mut subnet6) = (None, None);
    let (mut mtu, mut ip_masq) = (None, None);
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let value = unquoted(value.trim_end());
        let invalid = |variable, error: String| Error::Invalid {
            path: path.to_owned(),
            variable,
            error,
        };
        let cidr = |error| invalid_cidr(value, &error);
        match name {
            "FLANNEL_NETWORK" => {
                let nets = list::<Ipv4Net>(value).map_err(|e| invalid("FLANNEL_NETWORK", e))?;
                networks = Some(nets);
            }
            "FLANNEL_SUBNET" => {
                let net: Ipv4Net = value
                    .parse()
                    .map_err(|e| invalid("FLANNEL_SUBNET", cidr(e)))?;
                subnet = Some(IpNet::from(net.trunc()));
            }
            "FLANNEL_IPV6_NETWORK" => {
                let nets =
                    list::<Ipv6Net>(value).map_err(|e| invalid("FLANNEL_IPV6_NETWORK", e))?;
                networks6 = Some(nets);
            }
            "FLANNEL_IPV6_SUBNET" => {
                let net: Ipv6Net = value
                    .parse()
                    .map_err(|e| invalid("FLANNEL_IPV6_SUBNET", cidr(e)))?;
                subnet6 = Some(IpNet::from(net.trunc()));
            }
            "FLANNEL_MTU" => {
                let number = value.parse().map_err(|error| {
                    invalid("FLANNEL_MTU", format!("{value:?} is no MTU: {error}"))
                })?;
                mtu = Some(number);
            }
            "FLANNEL_IPMASQ" => ip_masq = Some(value == "true"),
            _ => {}
        }
    }
    let mut missing = Vec::new();
    if networks.is_none() && networks6.is_none() {
        missing.extend(["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"]);
    }
    if subnet.is_none() && subnet6.is_none() {
        missing.extend(["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"]);
    }
    if mtu.is_none() {
        missing.push("FLANNEL_MTU");
    }
    if ip_masq.is_none() {
        missing.push("FLANNEL_IPMASQ");
    }
    let (Some(mtu), Some(ip_masq), true) = (mtu, ip_masq, missing.is_empty()) else {
        return Err(Error::Missing {
            path: path.to_owned(),
            variables: missing.join(", "),
        });
    };
    let all = networks.into_iter().chain(networks6);
    Ok(SubnetEnv {
        networks: all.flatten().collect(),
        subnets: subnet.into_iter().chain(subnet6).collect(),
        mtu,
        ip_masq,
    })
}

fn invalid_cidr(value: &str, _: &ipnet::AddrParseError) -> String {
    format!("invalid CIDR address: {value}")
}

/// Networks by commas, without host bits, each once.
fn list<N>(value: &str) -> Result<Vec<IpNet>, String>
where
    N: std::str::FromStr<Err = ipnet::AddrParseError>,
    IpNet: From<N>,
{
    let mut nets = Vec::new();
    for entry in value.split(',') {
        let net: N = entry.parse().map_err(|e| invalid_cidr(entry, &e))?;
        let net = IpNet::from(net).trunc();
        if !nets.contains(&net) {
            nets.push(net);
        }
    }
    Ok(nets)
}

fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const WHOLE: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_whole_file_is_read() {
        let env = parse(WHOLE, "f").unwrap();
        assert_eq!(env.networks, nets(&["10.244.0.0/16"]));
        assert_eq!(env.subnets, nets(&["10.244.3.0/24"]));
        assert_eq!((env.mtu, env.ip_masq), (1450, true));
    }

    #[test]
    fn both_families_and_several_networks_are_read() {
        let text = "FLANNEL_NETWORK=10.0.0.0/8,10.244.1.2/16,10.0.0.0/8\nFLANNEL_IPV6_NETWORK=fd00::/48\n\
            FLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n";
        let env = parse(text, "f").unwrap();
        assert_eq!(
            env.networks,
            nets(&["10.0.0.0/8", "10.244.0.0/16", "fd00::/48"])
        );
        assert_eq!(env.subnets, nets(&["10.244.3.0/24", "fd00:0:0:1::/64"]));
        assert!(!env.ip_masq);
    }

    #[rstest]
    #[case::carriage_returns(WHOLE.replace('\n', "\r\n"))]
    #[case::comments(format!("# by hand\n\n{WHOLE}nonsense\nFLANNEL_NEWS=1\n"))]
    #[case::quotes(WHOLE.replace("10.244.3.1/24", "\"10.244.3.1/24\"").replace("1450", "'1450'"))]
    #[case::an_earlier_line(format!("FLANNEL_MTU=1300\n{WHOLE}"))]
    fn what_others_write_is_read_the_same(#[case] text: String) {
        assert_eq!(parse(&text, "f").unwrap(), parse(WHOLE, "f").unwrap());
    }

    #[rstest]
    #[case(
        "",
        "f is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
    )]
    #[case(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBN",
        "f is missing FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
    )]
    #[case(
        "FLANNEL_SUBNET=10.244.3",
        "f: FLANNEL_SUBNET: invalid CIDR address: 10.244.3"
    )]
    #[case(
        "FLANNEL_SUBNET=fd00::1/64",
        "f: FLANNEL_SUBNET: invalid CIDR address: fd00::1/64"
    )]
    #[case(
        "FLANNEL_NETWORK=10.0.0.0/8,",
        "f: FLANNEL_NETWORK: invalid CIDR address: "
    )]
    #[case(
        "FLANNEL_MTU=-1",
        "f: FLANNEL_MTU: \"-1\" is no MTU: invalid digit found in string"
    )]
    #[case(
        "export FLANNEL_MTU=1450",
        "f is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
    )]
    fn a_broken_file_is_named(#[case] text: &str, #[case] says: &str) {
        assert_eq!(parse(text, "f").unwrap_err().to_string(), says);
    }

    #[test]
    fn a_missing_file_is_said_in_flannels_words() {
        let error = read(Path::new("/nope")).unwrap_err();
        assert_eq!(error.to_string(), "open /nope: no such file or directory");
    }
}
