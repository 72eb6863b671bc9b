//! What can be wrong with a network configuration.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::base::json_fields::FieldError;

/// Why a network configuration cannot be used. Every message names the value and the fix.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the network configuration is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "the network configuration is {0}: write a JSON object, {{\"Network\":\"10.244.0.0/16\",…}}"
    )]
    NotAnObject(String),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(
        "Network is missing: add the range that pods get their addresses from, \"Network\":\"10.244.0.0/16\""
    )]
    NetworkMissing,
    #[error("{field} is {value}: {feature} is not supported yet; {fix}")]
    NotSupportedYet {
        field: &'static str,
        value: bool,
        feature: &'static str,
        fix: &'static str,
    },
    #[error("SubnetLen is {0}: a subnet needs room for pods, write 30 or less")]
    SubnetTooSmall(u32),
    #[error(
        "SubnetLen is {subnet_len}: Network {network} must hold at least four subnets, write {} or more, or make Network larger",
        network.prefix_len() + 2
    )]
    SubnetTooLarge { subnet_len: u32, network: Ipv4Net },
    #[error("Network is {0}: too small to divide into subnets, write a /28 or larger")]
    NetworkTooSmall(Ipv4Net),
    #[error("{field} is {value}: not inside Network {network}, write an address inside it")]
    OutsideNetwork {
        field: &'static str,
        value: Ipv4Addr,
        network: Ipv4Net,
    },
    #[error("{field} is {value}: not the first address of a /{subnet_len} subnet, write {fix}")]
    NotAligned {
        field: &'static str,
        value: Ipv4Addr,
        subnet_len: u8,
        fix: Ipv4Addr,
    },
    #[error("SubnetMin {min} is above SubnetMax {max}: exchange them or correct one")]
    MinAboveMax { min: Ipv4Addr, max: Ipv4Addr },
    #[error(
        "Backend has no Type: add \"Type\":\"vxlan\" or \"Type\":\"host-gw\" to the Backend object"
    )]
    BackendTypeMissing,
    #[error(
        "Backend Type is {0:?}: not supported, write \"vxlan\", \"host-gw\", \"udp\", \"ipip\", \"wireguard\", \"alloc\" or \"extension\""
    )]
    BackendNotSupported(String),
    #[error(
        "PSK is not a key of WireGuard: write 32 bytes in base64, as wg genpsk prints them, or leave it out"
    )]
    NoPsk,
    #[error("Backend Type is {backend:?}, which is not supported: {way_out}")]
    BackendLeftOut {
        backend: String,
        way_out: &'static str,
    },
}
