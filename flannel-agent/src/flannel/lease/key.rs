//! The last part of a lease's key: `10.5.52.0-24`, or `10.5.52.0-24&fd00:12:13::-56` in a dual-stack network.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::base::excerpt::excerpt;

/// flannel reads the IPv4 length with a 5-bit limit and the IPv6 length with a 7-bit one.
const V4_LEN_MAX: u8 = 31;
const V6_LEN_MAX: u8 = 127;

/// The subnets a lease stands for. The IPv6 one is not used yet, only kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubnetKey {
    pub v4: Ipv4Net,
    pub v6: Option<Ipv6Net>,
}

/// A key that is no lease's. Peers running flannel would take it for an empty list of leases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "lease key {:?}: {reason}; a lease key looks like 10.5.52.0-24",
    excerpt(key)
)]
pub struct KeyError {
    pub key: String,
    pub reason: &'static str,
}

impl From<Ipv4Net> for SubnetKey {
    fn from(v4: Ipv4Net) -> Self {
        Self { v4, v6: None }
    }
}

impl fmt::Display for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.v4.addr(), self.v4.prefix_len())?;
        match self.v6 {
            Some(v6) => write!(f, "&{}-{}", v6.addr(), v6.prefix_len()),
            None => Ok(()),
        }
    }
}

impl FromStr for SubnetKey {
    type Err = KeyError;

    fn from_str(key: &str) -> Result<Self, Self::Err> {
        parse(key).map_err(|reason| KeyError {
            key: key.to_owned(),
            reason,
        })
    }
}

fn parse(key: &str) -> Result<SubnetKey, &'static str> {
    let (v4, v6) = match key.split_once('&') {
        Some((v4, v6)) => (v4, Some(v6)),
        None => (key, None),
    };
    let (address, len) = v4.rsplit_once('-').ok_or("no length after a dash")?;
    let address: Ipv4Addr = address.parse().map_err(|_| "no IPv4 address in front")?;
    let len = length(len, V4_LEN_MAX).ok_or("the IPv4 length is no number from 0 to 31")?;
    let v4 = Ipv4Net::new(address, len).map_err(|_| "the IPv4 length is too large")?;
    if v4 != v4.trunc() {
        // flannel would ask the kernel for a route that it refuses.
        return Err("the address is not the first of its subnet");
    }
    let v6 = v6.map(parse_v6).transpose()?;
    Ok(SubnetKey { v4, v6 })
}

fn parse_v6(text: &str) -> Result<Ipv6Net, &'static str> {
    let (address, len) = text.rsplit_once('-').ok_or("no IPv6 length after a dash")?;
    if address.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the IPv6 address is not in lower case");
    }
    let address: Ipv6Addr = address.parse().map_err(|_| "no IPv6 address after the &")?;
    let len = length(len, V6_LEN_MAX).ok_or("the IPv6 length is no number from 0 to 127")?;
    Ipv6Net::new(address, len).map_err(|_| "the IPv6 length is too large")
}

/// Digits only: `u8::from_str` alone would take a plus sign.
fn length(text: &str, max: u8) -> Option<u8> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|len| *len <= max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::sk1("10.12.13.0-24")]
    #[case::sk2("10.12.13.0-24&fd00:12:13::-56")]
    #[case("10.0.0.0-8&::-0")]
    fn sk_prints_back_identically(#[case] key: &str) {
        assert_eq!(key.parse::<SubnetKey>().unwrap().to_string(), key);
    }

    #[test]
    fn sk1_is_the_subnet() {
        let key: SubnetKey = "10.12.13.0-24".parse().unwrap();
        assert_eq!(
            key,
            SubnetKey::from("10.12.13.0/24".parse::<Ipv4Net>().unwrap())
        );
    }

    #[rstest]
    #[case("")]
    #[case("10")]
    #[case("10.12.13.0")]
    #[case("10.12.13-24")]
    #[case("10.12.13.300-24")]
    #[case("10.12.13.0-24hi")]
    #[case("&2001::-56")]
    #[case("10.12.13.0-24&:12:13:-56")]
    #[case("10.12.13.0-24&20011::-56")]
    #[case("10.12.13.0-24&2001-56")]
    #[case("10.12.13.0-24&2001::")]
    #[case("10.12.13.0-24&2001::-56hi")]
    #[case("10.12.13.0-24&FD00::-56")]
    #[case("10.12.13.0-24&")]
    #[case("10.12.13.0-32")]
    #[case("10.12.13.0-+24")]
    #[case("10.12.13.0-24&fd00::-128")]
    #[case("10.12.13.0-")]
    #[case("10.12.13.7-24")]
    #[case("x/10.12.13.0-24")]
    fn sk3_rejected(#[case] key: &str) {
        let error = key.parse::<SubnetKey>().unwrap_err();
        assert!(error.to_string().contains(&format!("{key:?}")), "{error}");
    }

    #[test]
    fn errors_show_the_beginning_of_what_is_long() {
        let error = "x".repeat(1 << 20).parse::<SubnetKey>().unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("xxx…") && error.len() < 400,
            "{}",
            error.len()
        );
    }

    proptest! {
        #[test]
        fn fz_key_never_panics(key in ".{0,60}") {
            let _ = key.parse::<SubnetKey>();
        }

        #[test]
        fn fz_key_like_text_never_panics(key in "[0-9a-f.:&/+-]{0,60}") {
            let _ = key.parse::<SubnetKey>();
        }

        #[test]
        fn every_subnet_reads_back(
            v4 in any::<u32>(), v4_len in 0u8..=31, v6 in any::<Option<u128>>(), v6_len in 0u8..=127,
        ) {
            let key = SubnetKey {
                v4: Ipv4Net::new(v4.into(), v4_len).unwrap().trunc(),
                v6: v6.map(|v6| Ipv6Net::new(v6.into(), v6_len).unwrap()),
            };
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }
    }
}
