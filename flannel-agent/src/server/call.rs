//! What a request asks for: flannel 0.7's paths, and two questions that older servers do not look at.

use std::net::Ipv4Addr;

use hyper::Method;
use ipnet::Ipv4Net;

use crate::flannel::remote::{UNNAMED, parse_segment};

/// One of the calls, on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Config,
    /// `previous`: the subnet that the node had before.
    Acquire {
        previous: Option<Ipv4Net>,
    },
    /// `was`: the PublicIP that the lease names until now.
    Renew {
        subnet: Ipv4Net,
        was: Option<Ipv4Addr>,
    },
    /// `was`: the PublicIP whose lease it is to be.
    Revoke {
        subnet: Ipv4Net,
        was: Option<Ipv4Addr>,
    },
    Leases {
        cursor: Option<i64>,
    },
    Lease {
        subnet: Ipv4Net,
        cursor: Option<i64>,
    },
    Networks {
        cursor: Option<i64>,
    },
    Reservations,
    Reserve,
    Unreserve(Ipv4Net),
}

/// A request that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("there is nothing at {0}: paths are /v1/{{network}}/config, leases and reservations")]
    Path(String),
    #[error("{0} cannot be done here")]
    Method(Method),
    #[error(
        "{0:?} is no name of a network: letters, digits, dots, dashes and underscores, at most 64"
    )]
    Network(String),
    #[error("{0:?} is no subnet: write 10.3.5.0-24")]
    Subnet(String),
    #[error(
        "{0:?} is no address: write ?was=192.0.2.1, the PublicIP that the lease names, or leave it out"
    )]
    Was(String),
}

const LONGEST_NAME: usize = 64;

impl Call {
    /// The call, and the network that it is about; `None`: the one without a name.
    pub(super) fn parse(
        method: &Method,
        path: &str,
        query: Option<&str>,
    ) -> Result<(Option<String>, Self), Wrong> {
        let nothing = || Wrong::Path(path.chars().take(100).collect());
        let rest = path.strip_prefix("/v1/").ok_or_else(nothing)?;
        // Some clients end a path with a slash.
        let parts: Vec<&str> = rest.strip_suffix('/').unwrap_or(rest).split('/').collect();
        let wrong = || Wrong::Method(method.clone());
        let subnet = |text: &str| parse_segment(text).ok_or_else(|| Wrong::Subnet(text.to_owned()));
        let cursor = || cursor(query);
        let was = || value(query, "was").map(was).transpose();
        let (network, call) = match (&parts[..], method) {
            (&[""], &Method::GET) => return Ok((None, Self::Networks { cursor: cursor() })),
            (&[network, "config"], &Method::GET) => (network, Self::Config),
            (&[network, "leases"], &Method::POST) => {
                let previous = value(query, "previous").and_then(parse_segment);
                (network, Self::Acquire { previous })
            }
            (&[network, "leases"], &Method::GET) => (network, Self::Leases { cursor: cursor() }),
            (&[network, "leases", text], &Method::GET) => {
                let (subnet, cursor) = (subnet(text)?, cursor());
                (network, Self::Lease { subnet, cursor })
            }
            (&[network, "leases", text], &Method::PUT) => {
                let (subnet, was) = (subnet(text)?, was()?);
                (network, Self::Renew { subnet, was })
            }
            (&[network, "leases", text], &Method::DELETE) => {
                let (subnet, was) = (subnet(text)?, was()?);
                (network, Self::Revoke { subnet, was })
            }
            (&[network, "reservations"], &Method::GET) => (network, Self::Reservations),
            (&[network, "reservations"], &Method::POST) => (network, Self::Reserve),
            (&[network, "reservations", text], &Method::DELETE) => {
                (network, Self::Unreserve(subnet(text)?))
            }
            (&[""] | &[_, "config" | "leases" | "reservations"], _)
            | (&[_, "leases" | "reservations", _], _) => return Err(wrong()),
            _ => return Err(nothing()),
        };
        Ok((name(network)?, call))
    }
}

fn name(network: &str) -> Result<Option<String>, Wrong> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if network == UNNAMED {
        return Ok(None);
    }
    let dots = network.bytes().all(|byte| byte == b'.');
    if dots || network.len() > LONGEST_NAME || !network.bytes().all(fits) {
        return Err(Wrong::Network(network.chars().take(LONGEST_NAME).collect()));
    }
    Ok(Some(network.to_owned()))
}

fn value<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query?.split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// One that cannot be read is not the same as none: that would end anybody's lease.
fn was(text: &str) -> Result<Ipv4Addr, Wrong> {
    let wrong = |_| Wrong::Was(text.chars().take(100).collect());
    text.parse().map_err(wrong)
}

/// What is no number is as out of range as one that is too low.
fn cursor(query: Option<&str>) -> Option<i64> {
    let text = value(query, "next").filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn parse(method: &str, target: &str) -> Result<(Option<String>, Call), Wrong> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Call::parse(&method.parse().unwrap(), path, query)
    }

    fn subnet() -> Ipv4Net {
        "10.3.0.0/24".parse().unwrap()
    }

    #[rstest]
    #[case("GET", "/v1/_/config", Call::Config)]
    #[case("POST", "/v1/_/leases", Call::Acquire { previous: None })]
    #[case::with_a_slash("POST", "/v1/_/leases/", Call::Acquire { previous: None })]
    #[case("POST", "/v1/_/leases?previous=10.3.0.0-24", Call::Acquire { previous: Some(subnet()) })]
    #[case("PUT", "/v1/_/leases/10.3.0.0-24", Call::Renew { subnet: subnet(), was: None })]
    #[case("PUT", "/v1/_/leases/10.3.0.0-24?was=192.0.2.1", Call::Renew { subnet: subnet(), was: Some(Ipv4Addr::new(192, 0, 2, 1)) })]
    #[case("DELETE", "/v1/_/leases/10.3.0.0-24", Call::Revoke { subnet: subnet(), was: None })]
    #[case("DELETE", "/v1/_/leases/10.3.0.0-24?was=192.0.2.1", Call::Revoke { subnet: subnet(), was: Some(Ipv4Addr::new(192, 0, 2, 1)) })]
    #[case("GET", "/v1/_/leases", Call::Leases { cursor: None })]
    #[case("GET", "/v1/_/leases?next=", Call::Leases { cursor: None })]
    #[case("GET", "/v1/_/leases?next=12", Call::Leases { cursor: Some(12) })]
    #[case("GET", "/v1/_/leases?next=x", Call::Leases { cursor: Some(-1) })]
    #[case("GET", "/v1/_/leases/10.3.0.0-24?next=12", Call::Lease { subnet: subnet(), cursor: Some(12) })]
    #[case("GET", "/v1/?next=12", Call::Networks { cursor: Some(12) })]
    #[case("GET", "/v1/", Call::Networks { cursor: None })]
    #[case("GET", "/v1/_/reservations", Call::Reservations)]
    #[case("POST", "/v1/_/reservations", Call::Reserve)]
    #[case("DELETE", "/v1/_/reservations/10.3.0.0-24", Call::Unreserve(subnet()))]
    fn calls(#[case] method: &str, #[case] target: &str, #[case] call: Call) {
        assert_eq!(parse(method, target), Ok((None, call)));
    }

    #[test]
    fn a_network_has_a_name() {
        let (network, _) = parse("GET", "/v1/blue-2/config").unwrap();
        assert_eq!(network.as_deref(), Some("blue-2"));
        for name in ["..", "a%2Fb", "a b", &"x".repeat(65)] {
            let error = parse("GET", &format!("/v1/{name}/config")).unwrap_err();
            assert!(matches!(error, Wrong::Network(_)), "{name}");
        }
    }

    #[rstest]
    #[case("GET", "/", Wrong::Path("/".to_owned()))]
    #[case("GET", "/v1/_", Wrong::Path("/v1/_".to_owned()))]
    #[case("GET", "/v1/_/x", Wrong::Path("/v1/_/x".to_owned()))]
    #[case("GET", "/v1/_/leases/10.3.0.0-24/x", Wrong::Path("/v1/_/leases/10.3.0.0-24/x".to_owned()))]
    #[case("PUT", "/v1/_/config", Wrong::Method(Method::PUT))]
    #[case("PATCH", "/v1/_/leases/10.3.0.0-24", Wrong::Method(Method::PATCH))]
    #[case("PUT", "/v1/_/leases/10.3.0.0", Wrong::Subnet("10.3.0.0".to_owned()))]
    #[case("DELETE", "/v1/_/leases/10.3.0.0-24?was=10.0.0", Wrong::Was("10.0.0".to_owned()))]
    #[case("DELETE", "/v1/_/leases/10.3.0.0-24?was=", Wrong::Was(String::new()))]
    #[case("DELETE", "/v1/_/leases/10.3.0.0-24?was", Wrong::Was(String::new()))]
    #[case("PUT", "/v1/_/leases/10.3.0.0-24?was=node", Wrong::Was("node".to_owned()))]
    fn what_nobody_asks(#[case] method: &str, #[case] target: &str, #[case] wrong: Wrong) {
        assert_eq!(parse(method, target), Err(wrong));
    }

    proptest! {
        #[test]
        fn fz_path_and_query_never_panic(target in "/v1/[_a-z0-9./?=&-]{0,60}") {
            let _ = parse("GET", &target);
            let _ = parse("PUT", &target);
        }
    }
}
