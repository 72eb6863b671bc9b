//! From JSON to a validated [`NetworkConfig`].

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use super::{ConfigError, NetworkConfig};
use crate::base::excerpt::excerpt;
use crate::base::json_fields::{FieldError, Fields};
use crate::flannel::backend::{
    Backend, CommandLine, ExtensionOptions, IpipOptions, TUNNEL_OVERHEAD, UdpOptions, VxlanOptions,
    WIREGUARD_OVERHEAD, WireGuardOptions,
};

/// The port the Linux vxlan driver uses unless told otherwise; older than the IANA's 4789.
const KERNEL_VXLAN_PORT: u16 = 8472;
/// A VNI has 24 bits (RFC 7348 §5), but the device is `flannel.<VNI>`, and a device's name at most 15 bytes: flanneld cannot make it
/// either.
const VNI_MAX: u32 = 9_999_999;
/// The least MTU of IPv4 (RFC 791), for what is inside.
const IP_MTU_MIN: u32 = 68;
const IP_MTU_MAX: u32 = 65_535;

pub(super) fn network_config(json: &str) -> Result<NetworkConfig, ConfigError> {
    let value: Value = serde_json::from_str(json)?;
    let fields = object(&value)?;
    require_ipv4(&fields)?;
    nftables_or_iptables(&fields)?;
    if fields.bool("EnableIPv6")? == Some(true) {
        return Err(ConfigError::NotSupportedYet {
            field: "EnableIPv6",
            value: true,
            feature: "IPv6",
            fix: "write false or leave it out",
        });
    }
    let config = with_subnets(&fields, Backend::Alloc)?;
    Ok(NetworkConfig {
        backend: backend(&fields)?,
        ..config
    })
}

/// Whatever the backend: who hands out subnets needs none.
pub(super) fn subnets(json: &str) -> Result<NetworkConfig, ConfigError> {
    let value: Value = serde_json::from_str(json)?;
    let fields = object(&value)?;
    require_ipv4(&fields)?;
    with_subnets(&fields, Backend::Alloc)
}

fn with_subnets(fields: &Fields<'_>, backend: Backend) -> Result<NetworkConfig, ConfigError> {
    let network = network(fields)?;
    let subnet_len = subnet_len(fields, network)?;
    let (subnet_min, subnet_max) = subnet_range(fields, network, subnet_len)?;
    Ok(NetworkConfig {
        network,
        subnet_len,
        subnet_min,
        subnet_max,
        backend,
    })
}

pub(super) fn for_kubernetes(json: &str) -> Result<(NetworkConfig, bool), ConfigError> {
    let value: Value = serde_json::from_str(json)?;
    let fields = object(&value)?;
    require_ipv4(&fields)?;
    nftables_or_iptables(&fields)?;
    let network = network(&fields)?;
    // What kube-controller-manager makes of a range unless told otherwise; a podCIDR of any length will do.
    let subnet_len = network.prefix_len().max(24);
    let config = NetworkConfig {
        network,
        subnet_len,
        subnet_min: network.network(),
        subnet_max: first_address(network.broadcast(), subnet_len),
        backend: backend(&fields)?,
    };
    Ok((config, fields.bool("EnableIPv6")? == Some(true)))
}

fn object(value: &Value) -> Result<Fields<'_>, ConfigError> {
    let object = value.as_object();
    object
        .map(Fields::new)
        .ok_or_else(|| ConfigError::NotAnObject(excerpt(&value.to_string())))
}

fn network(fields: &Fields<'_>) -> Result<Ipv4Net, ConfigError> {
    let network = fields.parsed::<Ipv4Net>("Network", "an address range like \"10.244.0.0/16\"")?;
    let network = network.ok_or(ConfigError::NetworkMissing)?;
    // flannel cannot tell it from a missing field.
    if network.prefix_len() == 0 {
        let value = Value::from(network.to_string());
        let wanted = "a part of all addresses, like \"10.244.0.0/16\"";
        return Err(FieldError::new("Network", &value, wanted).into());
    }
    // The kernel routes neither to a device.
    let first = network.network();
    if first.is_multicast() || first.is_loopback() {
        let value = Value::from(network.to_string());
        let wanted = "addresses that pods can have, like \"10.244.0.0/16\": neither of 127.0.0.0/8 nor of 224.0.0.0/4";
        return Err(FieldError::new("Network", &value, wanted).into());
    }
    Ok(network.trunc())
}

fn require_ipv4(fields: &Fields<'_>) -> Result<(), ConfigError> {
    if fields.bool("EnableIPv4")? == Some(false) {
        return Err(ConfigError::NotSupportedYet {
            field: "EnableIPv4",
            value: false,
            feature: "a network without IPv4",
            fix: "write true or leave it out",
        });
    }
    Ok(())
}

/// There are no rules to write one way or the other; only its type is checked, as flannel does.
fn nftables_or_iptables(fields: &Fields<'_>) -> Result<(), FieldError> {
    fields.bool("EnableNFTables").map(|_| ())
}

fn subnet_len(fields: &Fields<'_>, network: Ipv4Net) -> Result<u8, ConfigError> {
    let least = network.prefix_len() + 2;
    // flannel cannot tell an explicit 0 from a missing field either.
    match fields.uint("SubnetLen", u32::MAX)?.filter(|len| *len != 0) {
        None if network.prefix_len() > 28 => Err(ConfigError::NetworkTooSmall(network)),
        None if network.prefix_len() > 22 => Ok(least),
        None => Ok(24),
        Some(len) => match u8::try_from(len) {
            Ok(len) if len > 30 => Err(ConfigError::SubnetTooSmall(len.into())),
            Err(_) => Err(ConfigError::SubnetTooSmall(len)),
            Ok(len) if len < least => Err(ConfigError::SubnetTooLarge {
                subnet_len: len.into(),
                network,
            }),
            Ok(len) => Ok(len),
        },
    }
}

fn subnet_range(
    fields: &Fields<'_>,
    network: Ipv4Net,
    subnet_len: u8,
) -> Result<(Ipv4Addr, Ipv4Addr), ConfigError> {
    let size = 1 << (32 - subnet_len);
    // The first subnet is left out by default, as flannel does.
    let second = Ipv4Addr::from_bits(network.network().to_bits() + size);
    let last = first_address(network.broadcast(), subnet_len);
    let min = bound(fields, "SubnetMin", network, subnet_len)?.unwrap_or(second);
    let max = bound(fields, "SubnetMax", network, subnet_len)?.unwrap_or(last);
    if min > max {
        return Err(ConfigError::MinAboveMax { min, max });
    }
    Ok((min, max))
}

fn bound(
    fields: &Fields<'_>,
    field: &'static str,
    network: Ipv4Net,
    subnet_len: u8,
) -> Result<Option<Ipv4Addr>, ConfigError> {
    let parsed = fields.parsed::<Ipv4Addr>(field, "an address like \"10.244.16.0\"")?;
    // flannel cannot tell 0.0.0.0 from a missing field either.
    let Some(value) = parsed.filter(|address| !address.is_unspecified()) else {
        return Ok(None);
    };
    if !network.contains(&value) {
        return Err(ConfigError::OutsideNetwork {
            field,
            value,
            network,
        });
    }
    let fix = first_address(value, subnet_len);
    if fix != value {
        return Err(ConfigError::NotAligned {
            field,
            value,
            subnet_len,
            fix,
        });
    }
    Ok(Some(value))
}

fn first_address(address: Ipv4Addr, subnet_len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() & flannel_common::cidr::mask(subnet_len))
}

fn backend(fields: &Fields<'_>) -> Result<Backend, ConfigError> {
    // flannel's oldest backend is its default.
    let Some(options) = fields.object("Backend")? else {
        return Ok(Backend::Udp(UdpOptions::default()));
    };
    let backend_type = options
        .str("Type")?
        .filter(|name| !name.is_empty())
        .ok_or(ConfigError::BackendTypeMissing)?;
    match backend_type.to_lowercase().as_str() {
        "vxlan" => vxlan(&options).map(Backend::Vxlan),
        "udp" => udp(&options).map(Backend::Udp),
        "ipip" => Ok(Backend::Ipip(IpipOptions {
            direct_routing: options.bool("DirectRouting")?.unwrap_or(false),
        })),
        "host-gw" => Ok(Backend::HostGw),
        "alloc" => Ok(Backend::Alloc),
        "extension" => extension(&options).map(Backend::Extension),
        "wireguard" => wireguard(&options).map(Backend::WireGuard),
        "ipsec" | "tencent-vpc" => Err(ConfigError::BackendLeftOut {
            backend: backend_type.to_owned(),
            way_out: match backend_type.to_lowercase().as_str() {
                "ipsec" => IPSEC_WAY_OUT,
                _ => TENCENT_WAY_OUT,
            },
        }),
        _ => Err(ConfigError::BackendNotSupported(excerpt(backend_type))),
    }
}

fn udp(options: &Fields<'_>) -> Result<UdpOptions, ConfigError> {
    let port = options.uint("Port", u16::MAX.into())?.unwrap_or(0);
    Ok(match u16::try_from(port) {
        Ok(port) if port != 0 => UdpOptions { port },
        _ => UdpOptions::default(),
    })
}

/// What encrypts is the kernel's, and any tunnel of ours goes through it.
const IPSEC_WAY_OUT: &str = "it encrypts by a strongSwan daemon of its own; write \"wireguard\", which encrypts, too, or \
    \"vxlan\", and have IPsec on the node encrypt what goes to UDP port 8472 (policies of the kernel are honoured)";
const TENCENT_WAY_OUT: &str = "it writes to the cloud's own route table; write \"vxlan\", which works in any VPC, or \"host-gw\" where \
    all nodes are in one subnet of it";

fn extension(options: &Fields<'_>) -> Result<ExtensionOptions, ConfigError> {
    let command = |field| Ok::<_, FieldError>(options.str(field)?.and_then(CommandLine::new));
    Ok(ExtensionOptions {
        pre_startup: command("PreStartupCommand")?,
        post_startup: command("PostStartupCommand")?,
        subnet_add: command("SubnetAddCommand")?,
        subnet_remove: command("SubnetRemoveCommand")?,
    })
}

/// Of a tunnel that puts `overhead` bytes around a packet.
fn underlay_mtu(options: &Fields<'_>, overhead: u32) -> Result<Option<u32>, ConfigError> {
    let least = overhead + IP_MTU_MIN;
    let mtu = options.uint("MTU", IP_MTU_MAX)?.filter(|mtu| *mtu != 0);
    if let Some(mtu) = mtu.filter(|mtu| *mtu < least) {
        let wanted =
            format!("{least} or more, the uplink's MTU; or leave it out to use the uplink's own");
        return Err(FieldError::new("MTU", &Value::from(mtu), wanted).into());
    }
    Ok(mtu)
}

fn wireguard(options: &Fields<'_>) -> Result<WireGuardOptions, ConfigError> {
    const MODES: &str = "\"separate\", \"auto\" or \"ipv4\", which are the same without IPv6";
    if let Some(mode) = options.str("Mode")?
        && !["separate", "auto", "ipv4"].contains(&mode)
    {
        return Err(FieldError::new("Mode", &Value::from(mode), MODES).into());
    }
    // Of IPv6; only its type is checked.
    options.uint("ListenPortV6", u16::MAX.into())?;
    let default = WireGuardOptions::default();
    let port = |number: u32| match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        // flannel takes any port then, and tells its peers none.
        _ => Err(FieldError::new(
            "ListenPort",
            &Value::from(number),
            "a UDP port; or leave it out for 51820",
        )),
    };
    let keepalive = options.uint("PersistentKeepaliveInterval", u16::MAX.into())?;
    let psk = match options.get("PSK") {
        None => default.psk,
        // What is wrong with a secret is said without it.
        Some(value) => value
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or(ConfigError::NoPsk)?,
    };
    Ok(WireGuardOptions {
        port: match options.uint("ListenPort", u32::MAX)? {
            Some(number) => port(number)?,
            None => default.port,
        },
        mtu: underlay_mtu(options, WIREGUARD_OVERHEAD)?,
        psk,
        keepalive: keepalive.map_or(Ok(0), u16::try_from).unwrap_or(u16::MAX),
    })
}

fn vni(options: &Fields<'_>) -> Result<u32, FieldError> {
    match options.uint("VNI", u32::MAX)? {
        Some(vni) if vni > VNI_MAX => Err(FieldError::new(
            "VNI",
            &Value::from(vni),
            format!(
                "{VNI_MAX} or less: a device cannot have a longer name than \"flannel.{VNI_MAX}\""
            ),
        )),
        vni => Ok(vni.unwrap_or(1)),
    }
}

fn vxlan(options: &Fields<'_>) -> Result<VxlanOptions, ConfigError> {
    // Peers come from leases alone, so learning changes nothing; only its type is checked.
    options.bool("Learning")?;

    let port = options.uint("Port", u16::MAX.into())?.unwrap_or(0);
    let mtu = underlay_mtu(options, TUNNEL_OVERHEAD)?;
    Ok(VxlanOptions {
        vni: vni(options)?,
        port: match u16::try_from(port) {
            Ok(port) if port != 0 => port,
            _ => KERNEL_VXLAN_PORT,
        },
        mtu,
        direct_routing: options.bool("DirectRouting")?.unwrap_or(false),
        gbp: options.bool("GBP")?.unwrap_or(false),
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
