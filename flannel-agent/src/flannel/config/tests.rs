//! Cases CF1–CF3 and the validation rules of flannel's etcd mode.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::flannel::backend::{IpipOptions, UdpOptions, VxlanOptions, WireGuardOptions};

fn parse(json: &str) -> Result<NetworkConfig, ConfigError> {
    NetworkConfig::parse(json)
}

/// A configuration with a vxlan backend and these further fields.
fn with(fields: &str) -> String {
    format!(r#"{{{fields},"Backend":{{"Type":"vxlan"}}}}"#)
}

fn vxlan_options(options: &str) -> Result<VxlanOptions, ConfigError> {
    let json = format!(r#"{{"Network":"10.0.0.0/8","Backend":{{"Type":"vxlan"{options}}}}}"#);
    match parse(&json)?.backend {
        Backend::Vxlan(options) => Ok(options),
        _ => panic!("asked for vxlan"),
    }
}

#[test]
fn cf1_defaults_and_a_lower_case_key() {
    let config = parse(&with(r#""network":"10.3.0.0/16""#)).unwrap();
    assert_eq!(
        config,
        NetworkConfig {
            network: "10.3.0.0/16".parse().unwrap(),
            subnet_len: 24,
            subnet_min: "10.3.1.0".parse().unwrap(),
            subnet_max: "10.3.255.0".parse().unwrap(),
            backend: Backend::Vxlan(VxlanOptions {
                vni: 1,
                port: 8472,
                mtu: None,
                direct_routing: false,
                gbp: false,
            }),
        }
    );
}

#[test]
fn cf2_ipv6_is_refused_by_name() {
    let json = with(r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48""#);
    let error = parse(&json).unwrap_err().to_string();
    assert!(error.contains("EnableIPv4 is false"), "{error}");
    let json = with(r#""Network":"10.3.0.0/16","enableipv6":true,"IPv6Network":"fc00::/48""#);
    let error = parse(&json).unwrap_err().to_string();
    assert!(
        error.contains("EnableIPv6 is true") && error.contains("not supported yet"),
        "{error}"
    );
}

#[test]
fn cf3_explicit_range_is_kept() {
    let config = parse(&with(
        r#""Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0","SubnetLen":28"#,
    ))
    .unwrap();
    assert_eq!(config.subnet_len, 28);
    assert_eq!(config.subnet_min, Ipv4Addr::new(10, 3, 5, 0));
    assert_eq!(config.subnet_max, Ipv4Addr::new(10, 3, 8, 0));
}

#[rstest]
#[case("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0")]
#[case("10.3.4.0/22", 24, "10.3.5.0", "10.3.7.0")]
#[case("10.3.4.0/23", 25, "10.3.4.128", "10.3.5.128")]
#[case("10.3.4.0/28", 30, "10.3.4.4", "10.3.4.12")]
#[case("255.255.0.0/16", 24, "255.255.1.0", "255.255.255.0")]
fn cf_default_range(
    #[case] network: &str,
    #[case] len: u8,
    #[case] min: Ipv4Addr,
    #[case] max: Ipv4Addr,
) {
    let config = parse(&with(&format!(r#""Network":"{network}""#))).unwrap();
    assert_eq!(
        (config.subnet_len, config.subnet_min, config.subnet_max),
        (len, min, max)
    );
}

#[test]
fn cf_host_bits_of_network_are_masked() {
    let config = parse(&with(r#""Network":"10.3.77.1/16""#)).unwrap();
    assert_eq!(config.network.to_string(), "10.3.0.0/16");
}

#[test]
fn cf_unset_values_take_defaults() {
    let config = parse(&with(
        r#""Network":"10.3.0.0/16","SubnetLen":0,"SubnetMin":"","SubnetMax":"0.0.0.0","EnableIPv4":null,"EnableNFTables":true,"Unknown":[1]"#,
    ))
    .unwrap();
    assert_eq!(config.subnet_len, 24);
    assert_eq!(config.subnet_min, Ipv4Addr::new(10, 3, 1, 0));
    assert_eq!(config.subnet_max, Ipv4Addr::new(10, 3, 255, 0));
}

#[rstest]
#[case::empty("", "not JSON")]
#[case::cut_off(r#"{"Network":"#, "not JSON")]
#[case::list("[]", "write a JSON object")]
#[case::no_network(r#"{"Backend":{"Type":"vxlan"}}"#, "Network is missing")]
#[case::empty_network(r#"{"Network":""}"#, "Network is missing")]
#[case::bad_network(r#"{"Network":"10.3.0.0"}"#, r#"Network is "10.3.0.0""#)]
#[case::all_addresses(r#"{"Network":"0.0.0.0/0"}"#, r#"Network is "0.0.0.0/0""#)]
#[case::multicast(
    r#"{"Network":"224.0.0.0/8"}"#,
    r#"Network is "224.0.0.0/8": write addresses that pods can have"#
)]
#[case::loopback(r#"{"Network":"127.8.0.0/16"}"#, r#"Network is "127.8.0.0/16""#)]
#[case::leading_zeros_of_an_address(
    r#"{"Network":"10.3.0.0/16","SubnetMin":"10.03.1.0"}"#,
    r#"SubnetMin is "10.03.1.0": write an address like "10.244.16.0", no number with a leading 0"#
)]
#[case::nftables_text(
    r#"{"Network":"10.3.0.0/16","EnableNFTables":"yes"}"#,
    r#"EnableNFTables is "yes": write true or false, without quotes"#
)]
#[case::v6_network(r#"{"Network":"fc00::/48"}"#, r#"Network is "fc00::/48""#)]
#[case::network_number(r#"{"Network":10}"#, "Network is 10")]
#[case::too_small(r#"{"Network":"10.3.0.0/29"}"#, "Network is 10.3.0.0/29")]
#[case::len_31(r#"{"Network":"10.3.0.0/16","SubnetLen":31}"#, "SubnetLen is 31")]
#[case::len_huge(r#"{"Network":"10.3.0.0/16","SubnetLen":300}"#, "SubnetLen is 300")]
#[case::len_text(
    r#"{"Network":"10.3.0.0/16","SubnetLen":"24"}"#,
    r#"SubnetLen is "24""#
)]
#[case::three_subnets(r#"{"Network":"10.3.0.0/16","SubnetLen":17}"#, "write 18 or more")]
#[case::min_outside(
    r#"{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}"#,
    "SubnetMin is 10.4.0.0"
)]
#[case::max_outside(
    r#"{"Network":"10.3.0.0/16","SubnetMax":"10.4.0.0"}"#,
    "SubnetMax is 10.4.0.0"
)]
#[case::min_not_aligned(
    r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.7"}"#,
    "write 10.3.5.0"
)]
#[case::exchanged(
    r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.5.0"}"#,
    "SubnetMin 10.3.9.0 is above SubnetMax 10.3.5.0"
)]
#[case::no_type(r#"{"Network":"10.3.0.0/16","Backend":{}}"#, "Backend has no Type")]
#[case::backend_text(
    r#"{"Network":"10.3.0.0/16","Backend":"vxlan"}"#,
    r#"Backend is "vxlan""#
)]
#[case::unknown_backend(
    r#"{"Network":"10.3.0.0/16","Backend":{"Type":"gre"}}"#,
    r#"Backend Type is "gre""#
)]
#[case::wireguard_ipv6(
    r#"{"Network":"10.3.0.0/16","Backend":{"Type":"wireguard","Mode":"ipv6"}}"#,
    r#"Mode is "ipv6": write "separate", "auto" or "ipv4""#
)]
#[case::wireguard_mode(
    r#"{"Network":"10.3.0.0/16","Backend":{"Type":"wireguard","Mode":""}}"#,
    r#"Mode is "": write"#
)]
#[case::wireguard_port(
    r#"{"Network":"10.3.0.0/16","Backend":{"Type":"wireguard","ListenPort":0}}"#,
    "ListenPort is 0"
)]
#[case::wireguard_keepalive(
    r#"{"Network":"10.3.0.0/16","Backend":{"Type":"wireguard","PersistentKeepaliveInterval":65536}}"#,
    "PersistentKeepaliveInterval is 65536"
)]
#[case::wireguard_mtu(
    r#"{"Network":"10.3.0.0/16","Backend":{"Type":"wireguard","MTU":147}}"#,
    "MTU is 147: write 148 or more"
)]
fn cf_errors_name_the_value(#[case] json: &str, #[case] expected: &str) {
    let error = parse(json).unwrap_err().to_string();
    assert!(
        error.contains(expected),
        "{error:?} does not say {expected:?}"
    );
}

#[test]
fn cf_backend_type_and_keys_in_any_case() {
    let json = r#"{"Network":"10.3.0.0/16","backend":{"tYPE":"VXLAN","vni":7,"PORT":4789}}"#;
    let Backend::Vxlan(options) = parse(json).unwrap().backend else {
        panic!("asked for vxlan");
    };
    assert_eq!((options.vni, options.port), (7, 4789));
    let json = r#"{"Network":"10.3.0.0/16","Backend":{"Type":"Host-GW"}}"#;
    assert_eq!(parse(json).unwrap().backend, Backend::HostGw);
    for (udp, port) in [
        ("", 8285),
        (r#","Backend":{"Type":"udp"}"#, 8285),
        (r#","Backend":{"Type":"UDP","Port":7000}"#, 7000),
    ] {
        let json = format!(r#"{{"Network":"10.3.0.0/16"{udp}}}"#);
        let backend = parse(&json).unwrap().backend;
        assert_eq!(backend, Backend::Udp(UdpOptions { port }), "{json}");
    }
    for (options, direct_routing) in [("", false), (r#","DirectRouting":true"#, true)] {
        let json = format!(r#"{{"Network":"10.3.0.0/16","Backend":{{"Type":"ipip"{options}}}}}"#);
        let backend = parse(&json).unwrap().backend;
        assert_eq!(backend, Backend::Ipip(IpipOptions { direct_routing }));
    }
    let json = r#"{"Network":"10.3.0.0/16","Backend":{"Type":"alloc"}}"#;
    assert_eq!(parse(json).unwrap().backend, Backend::Alloc);
}

#[test]
fn cf_wireguard_has_flannels_defaults() {
    let parse = |options: &str| {
        let json =
            format!(r#"{{"Network":"10.3.0.0/16","Backend":{{"Type":"wireguard"{options}}}}}"#);
        match parse(&json)?.backend {
            Backend::WireGuard(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    };
    let default = WireGuardOptions::default();
    assert_eq!(parse("").unwrap(), default);
    assert_eq!(
        (default.port, default.keepalive, default.mtu),
        (51_820, 0, None)
    );
    for mode in ["separate", "auto", "ipv4"] {
        let options = format!(r#","mode":"{mode}","listenportv6":7,"PSK":"","MTU":0"#);
        assert_eq!(parse(&options).unwrap(), default);
    }
    let psk = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    let all =
        format!(r#","ListenPort":7,"PSK":"{psk}","PersistentKeepaliveInterval":25,"MTU":1400"#);
    let all = parse(&all).unwrap();
    assert_eq!((all.port, all.keepalive, all.mtu), (7, 25, Some(1400)));
    assert_eq!(all.psk, psk.parse().unwrap());
    // What is wrong with it is a secret all the same.
    for wrong in [r#""almost""#, "4711", r#"["almost"]"#] {
        let error: ConfigError = parse(&format!(r#","PSK":{wrong}"#)).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("PSK is not a key"), "{said}");
        assert!(!said.contains("almost") && !said.contains("4711"), "{said}");
    }
}

#[test]
fn cf_extension_has_commands_and_what_is_left_out_has_a_way_out() {
    let parse = |backend: &str| {
        parse(&format!(
            r#"{{"Network":"10.3.0.0/16","Backend":{backend}}}"#
        ))
    };
    let json = r#"{"Type":"extension","preStartupCommand":"a $B","SubnetAddCommand":" ","ShutdownCommand":"x"}"#;
    let Backend::Extension(options) = parse(json).unwrap().backend else {
        panic!("asked for extension");
    };
    assert_eq!(options.pre_startup.unwrap().to_string(), "a $B");
    assert_eq!((options.subnet_add, options.subnet_remove), (None, None));
    for (backend, way_out) in [("ipsec", "IPsec on the node"), ("tencent-vpc", "host-gw")] {
        let error = parse(&format!(r#"{{"Type":"{backend}"}}"#))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(backend) && error.contains(way_out),
            "{error}"
        );
    }
    let error = parse(r#"{"Type":"extension","SubnetAddCommand":7}"#).unwrap_err();
    assert!(
        error.to_string().contains("SubnetAddCommand is 7"),
        "{error}"
    );
}

#[test]
fn cf_vxlan_options() {
    let options = vxlan_options(
        r#","VNI":9999999,"Port":0,"MTU":1400,"DirectRouting":true,"GBP":true,"Learning":true"#,
    )
    .unwrap();
    assert_eq!(
        options,
        VxlanOptions {
            vni: 9_999_999,
            port: 8472,
            mtu: Some(1400),
            direct_routing: true,
            gbp: true,
        }
    );
}

#[rstest]
#[case(r#","VNI":16777216"#, "VNI is 16777216")]
#[case(r#","VNI":10000000"#, "VNI is 10000000: write 9999999 or less")]
#[case(r#","VNI":"1""#, r#"VNI is "1""#)]
#[case(r#","Port":65536"#, "Port is 65536")]
#[case(r#","MTU":60"#, "MTU is 60")]
#[case(r#","MTU":"1500""#, r#"MTU is "1500""#)]
#[case(r#","GBP":1"#, "GBP is 1")]
#[case(r#","DirectRouting":1"#, "DirectRouting is 1")]
fn cf_vxlan_option_errors(#[case] options: &str, #[case] expected: &str) {
    let error = vxlan_options(options).unwrap_err().to_string();
    assert!(
        error.contains(expected),
        "{error:?} does not say {expected:?}"
    );
}

#[test]
fn cf_admits_only_what_it_would_lease() {
    let config = parse(&with(r#""Network":"10.3.0.0/16""#)).unwrap();
    for (subnet, admitted) in [
        ("10.3.1.0/24", true),
        ("10.3.255.0/24", true),
        ("10.3.0.0/24", false),
        ("10.3.1.0/25", false),
        ("10.3.1.7/24", false),
        ("10.4.1.0/24", false),
    ] {
        assert_eq!(config.admits(subnet.parse().unwrap()), admitted, "{subnet}");
    }
}

proptest! {
    #[test]
    fn fz_config_never_panics(text in ".{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn fz_config_shaped_input_never_panics(
        a in any::<u32>(), len in 0u8..=40, subnet_len in any::<u64>(), min in any::<u32>(), max in any::<u32>(),
    ) {
        let (a, min, max) = (Ipv4Addr::from(a), Ipv4Addr::from(min), Ipv4Addr::from(max));
        let _ = parse(&with(&format!(
            r#""Network":"{a}/{len}","SubnetLen":{subnet_len},"SubnetMin":"{min}","SubnetMax":"{max}""#
        )));
    }

    #[test]
    fn fz_accepted_config_has_a_range_that_it_admits(a in any::<u32>(), len in 1u8..=28, more in 2u8..=30) {
        let subnet_len = (len + more).min(30);
        let network = Ipv4Addr::from(a);
        let begins = Ipv4Net::new(network, len).unwrap().network();
        prop_assume!(!begins.is_loopback() && !begins.is_multicast());
        let json = with(&format!(r#""Network":"{network}/{len}","SubnetLen":{subnet_len}"#));
        let config = parse(&json).unwrap();
        for bound in [config.subnet_min, config.subnet_max] {
            prop_assert!(config.admits(Ipv4Net::new(bound, subnet_len).unwrap()));
        }
    }
}

#[test]
fn for_kubernetes_subnets_are_not_looked_at_and_ipv6_is_told() {
    let parse = NetworkConfig::parse_for_kubernetes;
    let json = r#"{"Network":"10.244.0.0/16","EnableNFTables":false,"SubnetLen":99,"SubnetMin":"x","Backend":{"Type":"vxlan"}}"#;
    let (config, ipv6) = parse(json).unwrap();
    assert_eq!(config.network, "10.244.0.0/16".parse().unwrap());
    assert!(!ipv6);
    let dual = r#"{"Network":"10.0.0.0/30","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"host-gw"}}"#;
    let (config, ipv6) = parse(dual).unwrap();
    assert!(ipv6 && config.backend == Backend::HostGw);
    assert!(parse(r#"{"EnableIPv4":false,"Backend":{"Type":"vxlan"}}"#).is_err());
}

#[test]
fn cf_errors_show_the_beginning_of_what_is_long() {
    let long = "x".repeat(1 << 20);
    for json in [
        format!("{long:?}"),
        format!(r#"{{"Network":{long:?}}}"#),
        format!(r#"{{"Network":"10.1.0.0/16","Backend":{{"Type":{long:?}}}}}"#),
    ] {
        let error = parse(&json).unwrap_err().to_string();
        assert!(
            error.contains("xxx…") && error.len() < 500,
            "{}",
            error.len()
        );
    }
}
