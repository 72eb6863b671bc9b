//! Every flag: typed each way, from the environment, its default, and what is wrong about bad values.

mod remote;
mod sources;

use rstest::rstest;

use super::layers::Origin;
use super::*;
use crate::base::options::{LogFormat, SourceCheck};

fn read_with(argv: &[&str], env: &[(&str, &str)]) -> Result<Invocation, String> {
    let argv = std::iter::once("flannel-agent").chain(argv.iter().copied());
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    read(argv.map(OsString::from), &env).map_err(|error| error.to_string())
}

fn flags(argv: &[&str]) -> Flags {
    read_with(argv, &[]).unwrap().cli.flags
}

fn config(argv: &[&str]) -> Result<Config, String> {
    Config::new(&flags(argv)).map_err(|error| error.to_string())
}

#[test]
fn the_definition_is_sound() {
    command().debug_assert();
}

#[test]
fn defaults_are_flannelds() {
    let flags = flags(&[]);
    assert_eq!(
        flags.etcd_endpoints,
        "http://127.0.0.1:4001,http://127.0.0.1:2379"
    );
    assert_eq!(flags.etcd_prefix, "/coreos.com/network");
    assert!(flags.iface.is_empty() && flags.iface_regex.is_empty());
    assert_eq!(flags.subnet_file, "/run/flannel/subnet.env");
    assert_eq!(flags.subnet_lease_renew_margin, 60);
    assert_eq!(
        (flags.healthz_ip.as_str(), flags.healthz_port),
        ("0.0.0.0", 0)
    );
    assert!(!flags.ip_masq && !flags.version && !flags.kube_subnet_mgr);
    assert!(flags.iptables_forward_rules && flags.set_node_network_unavailable);
    assert!(!flags.ip_blackhole_route && !flags.ip_masq_fully_random_disable);
    assert_eq!(flags.iptables_resync, 5);
    assert_eq!(flags.kube_annotation_prefix, "flannel.alpha.coreos.com");
    assert_eq!(flags.net_config_path, "/etc/kube-flannel/net-conf.json");
    for empty in [
        &flags.etcd_keyfile,
        &flags.etcd_certfile,
        &flags.etcd_cafile,
        &flags.etcd_username,
        &flags.iface_can_reach,
        &flags.public_ip,
        &flags.ebpf_object,
        &flags.kube_api_url,
        &flags.kubeconfig_file,
        &flags.inert.public_ipv6,
        &flags.inert.vmodule,
        &flags.inert.log_backtrace_at,
    ] {
        assert_eq!(empty, "");
    }
    assert!(flags.etcd_password.is_empty());
    assert_eq!(flags.v, 0);
    assert_eq!(flags.bpffs, "/sys/fs/bpf");
    assert_eq!(flags.source_check, SourceCheck::Lease);
    assert_eq!(flags.log_format, LogFormat::Auto);
}

/// One typed value per flag, as text.
type Get = fn(&Flags) -> String;

#[rstest]
#[case("etcd-endpoints", "https://e1:2379", |f: &Flags| f.etcd_endpoints.clone())]
#[case("etcd-prefix", "/a/b", |f: &Flags| f.etcd_prefix.clone())]
#[case("etcd-keyfile", "/k", |f: &Flags| f.etcd_keyfile.clone())]
#[case("etcd-certfile", "/c", |f: &Flags| f.etcd_certfile.clone())]
#[case("etcd-cafile", "/ca", |f: &Flags| f.etcd_cafile.clone())]
#[case("etcd-username", "root", |f: &Flags| f.etcd_username.clone())]
#[case("etcd-password", "se=cret", |f: &Flags| f.etcd_password.expose().to_owned())]
#[case("subnet-lease-renew-margin", "90", |f: &Flags| f.subnet_lease_renew_margin.to_string())]
#[case("iface", "eth0", |f: &Flags| f.iface.join("+"))]
#[case("iface-regex", "^en(s|p).*", |f: &Flags| f.iface_regex.join("+"))]
#[case("iface-can-reach", "192.0.2.1", |f: &Flags| f.iface_can_reach.clone())]
#[case("public-ip", "192.0.2.1", |f: &Flags| f.public_ip.clone())]
#[case("public-ipv6", "2001:db8::1", |f: &Flags| f.inert.public_ipv6.clone())]
#[case("subnet-file", "/run/x.env", |f: &Flags| f.subnet_file.clone())]
#[case("ip-masq", "true", |f: &Flags| f.ip_masq.to_string())]
#[case("healthz-ip", "127.0.0.1", |f: &Flags| f.healthz_ip.clone())]
#[case("healthz-port", "8081", |f: &Flags| f.healthz_port.to_string())]
#[case("bpffs", "/bpf", |f: &Flags| f.bpffs.clone())]
#[case("ebpf-object", "/o", |f: &Flags| f.ebpf_object.clone())]
#[case("tunnel-firewall", "ask", |f: &Flags| format!("{:?}", f.tunnel_firewall).to_lowercase())]
#[case("source-check", "off", |f: &Flags| format!("{:?}", f.source_check).to_lowercase())]
#[case("fast-path", "off", |f: &Flags| format!("{:?}", f.fast_path).to_lowercase())]
#[case("pod-hook", "bridge", |f: &Flags| format!("{:?}", f.pod_hook).to_lowercase())]
#[case("pod-bridge", "br0", |f: &Flags| f.pod_bridge.clone())]
#[case("xdp", "auto", |f: &Flags| format!("{:?}", f.xdp).to_lowercase())]
#[case("gro", "anchor", |f: &Flags| f.gro.to_string())]
#[case("flow-entries", "8192", |f: &Flags| f.flow_entries.to_string())]
#[case("snat-ports", "50000-60000", |f: &Flags| f.snat_ports.clone())]
#[case("snat-entries", "8192", |f: &Flags| f.snat_entries.to_string())]
#[case("snat-exempt", "10.0.0.0/8", |f: &Flags| f.snat_exempt.join("+"))]
#[case("log-format", "json", |f: &Flags| format!("{:?}", f.log_format).to_lowercase())]
#[case("v", "6", |f: &Flags| f.v.to_string())]
#[case("kube-subnet-mgr", "true", |f: &Flags| f.kube_subnet_mgr.to_string())]
#[case("kube-api-url", "https://k", |f: &Flags| f.kube_api_url.clone())]
#[case("kubeconfig-file", "/kc", |f: &Flags| f.kubeconfig_file.clone())]
#[case("kube-annotation-prefix", "x.y", |f: &Flags| f.kube_annotation_prefix.clone())]
#[case("net-config-path", "/n", |f: &Flags| f.net_config_path.clone())]
#[case("set-node-network-unavailable", "false", |f: &Flags| f.set_node_network_unavailable.to_string())]
#[case("ip-masq-fully-random-disable", "true", |f: &Flags| f.ip_masq_fully_random_disable.to_string())]
#[case("iptables-forward-rules", "false", |f: &Flags| f.iptables_forward_rules.to_string())]
#[case("iptables-resync", "7", |f: &Flags| f.iptables_resync.to_string())]
#[case("ip-blackhole-route", "true", |f: &Flags| f.ip_blackhole_route.to_string())]
#[case("vmodule", "a=2", |f: &Flags| f.inert.vmodule.clone())]
#[case("log_backtrace_at", "a.go:1", |f: &Flags| f.inert.log_backtrace_at.clone())]
fn each_flag_each_way(#[case] name: &str, #[case] value: &str, #[case] get: Get) {
    assert_ne!(get(&flags(&[])), value, "the default would prove nothing");
    for typed in [format!("--{name}={value}"), format!("-{name}={value}")] {
        assert_eq!(get(&flags(&[&typed])), value, "{typed}");
    }
    let variable = layers::variable_of(name);
    let from_env = read_with(&[], &[(&variable, value)]).unwrap();
    assert_eq!(get(&from_env.cli.flags), value, "{variable}");
    assert_eq!(
        from_env.origins[name],
        Origin::Environment(variable.clone())
    );

    let empty = read_with(&[], &[(&variable, "")]).unwrap();
    assert_eq!(get(&empty.cli.flags), get(&flags(&[])));
    assert_eq!(empty.origins[name], Origin::Default);

    let default = get(&flags(&[]));
    if !default.is_empty() {
        let both = read_with(&[&format!("-{name}={default}")], &[(&variable, value)]).unwrap();
        assert_eq!(get(&both.cli.flags), default, "the command line wins");
        assert_eq!(both.origins[name], Origin::CommandLine);
    }
}

#[rstest]
#[case(&["--ip-masq"], true)]
#[case(&["-ip-masq"], true)]
#[case(&["-ip-masq=1"], true)]
#[case(&["-ip-masq=T"], true)]
#[case(&["--ip-masq=false"], false)]
#[case(&["--ip-masq", "--ip-masq=0"], false)]
fn booleans_as_go_reads_them(#[case] argv: &[&str], #[case] value: bool) {
    assert_eq!(flags(argv).ip_masq, value);
}

#[test]
fn repeatable_flags_keep_their_order_and_others_take_the_last() {
    let flags = flags(&[
        "-iface",
        "eth1",
        "--iface=eth0",
        "--iface-regex=a",
        "-iface-regex",
        "b",
        "-v=1",
        "-v",
        "3",
    ]);
    assert_eq!(flags.iface, ["eth1", "eth0"]);
    assert_eq!(flags.iface_regex, ["a", "b"]);
    assert_eq!(flags.v, 3);
}

#[test]
fn an_unknown_flag_fails_with_the_nearest_one() {
    let error = read_with(&["-etcd-endpoint=http://x"], &[]).unwrap_err();
    assert!(error.contains("--etcd-endpoint"), "{error}");
    assert!(
        error.contains("similar argument exists: '--etcd-endpoints'"),
        "{error}"
    );
}

#[test]
fn a_wrong_variable_is_named() {
    let error = read_with(&[], &[("FLANNELD_HEALTHZ_PORT", "70000")]).unwrap_err();
    assert!(error.contains("70000"), "{error}");
    assert!(error.contains("FLANNELD_HEALTHZ_PORT"), "{error}");
}

/// Each pod of the namespace of a Service `flanneld-healthz` has these.
#[test]
fn variables_that_kubernetes_sets_for_a_service_are_none_of_ours() {
    let links = [
        ("FLANNELD_HEALTHZ_PORT", "tcp://10.96.7.1:8081"),
        ("FLANNELD_HEALTHZ_SERVICE_HOST", "10.96.7.1"),
    ];
    let flags = read_with(&[], &links).unwrap().cli.flags;
    assert_eq!(flags.healthz_port, 0);
}

#[test]
fn an_image_may_carry_its_version_in_a_variable() {
    let invocation = read_with(&[], &[("FLANNELD_VERSION", "v0.28.9")]).unwrap();
    assert!(!invocation.cli.flags.version);
}

#[test]
fn the_password_is_shown_nowhere() {
    let argv = ["--etcd-username=root", "--etcd-password=hunter2"];
    let flags = flags(&argv);
    let config = Config::new(&flags).unwrap();
    assert_eq!(config.etcd.login.as_ref().unwrap().password, "hunter2");
    let env = [("FLANNELD_ETCD_PASSWORD", "hunter2")];
    for text in [
        format!("{flags:?}"),
        format!("{config:?}"),
        read_with(&["--help"], &env).unwrap_err(),
        read_with(&["--etcd-password=hunter2", "--nonsense"], &[]).unwrap_err(),
        config_error(&["--etcd-password=hunter2"]),
    ] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

fn config_error(argv: &[&str]) -> String {
    config(argv).unwrap_err()
}

#[rstest]
#[case("--etcd-prefix=//", "no key prefix")]
#[case("--etcd-certfile=/c", "without its key")]
#[case("--etcd-keyfile=/k", "without its certificate")]
#[case("--etcd-password=x", "without a user")]
#[case("--iface-regex=eth(", "unclosed group")]
#[case("--iface-can-reach=example.org", "not an IPv4 address")]
#[case("--public-ip=10.0.0.1/24", "not an IPv4 address")]
#[case("--subnet-lease-renew-margin=0", "1 to 1439")]
#[case("--subnet-lease-renew-margin=1440", "1 to 1439")]
#[case("--subnet-lease-renew-margin=-5", "1 to 1439")]
#[case("--subnet-file=", "no file name")]
#[case("--bpffs=bpf", "not an absolute path")]
#[case("--snat-ports=50000", "no range")]
#[case("--snat-exempt=pods", "no IPv4 network")]
#[case("--snat-entries=100", "not between 8192 and 16777216")]
fn an_unusable_value_is_explained(#[case] argument: &str, #[case] why: &str) {
    let error = config_error(&[argument]);
    let flag = argument.split('=').next().unwrap();
    assert!(error.starts_with(flag), "{error}");
    assert!(error.contains(why), "{error}");
}

#[test]
fn a_wrong_health_address_only_matters_when_health_is_on() {
    assert!(config(&["--healthz-ip=nowhere"]).unwrap().health.is_none());
    let all = config(&["--healthz-ip=", "--healthz-port=8081"]).unwrap();
    assert_eq!(all.health, Some("0.0.0.0:8081".parse().unwrap()));
    let error = config_error(&["--healthz-ip=nowhere", "--healthz-port=8081"]);
    assert!(error.starts_with("--healthz-ip=nowhere"), "{error}");
}

#[rstest]
#[case("/coreos.com/network", "/coreos.com/network")]
#[case("//coreos.com//network/", "/coreos.com/network")]
#[case("coreos.com/network", "coreos.com/network")]
fn prefixes_are_joined_as_paths(#[case] typed: &str, #[case] meant: &str) {
    let config = config(&[&format!("--etcd-prefix={typed}")]).unwrap();
    assert_eq!(config.etcd.prefix, meant);
}

#[rstest]
#[case("127.0.0.1:2379", &["127.0.0.1:2379"])]
#[case("http://a:1, https://b:2/,", &["http://a:1", "https://b:2/"])]
fn endpoints_are_a_list(#[case] typed: &str, #[case] meant: &[&str]) {
    let config = config(&[&format!("--etcd-endpoints={typed}")]).unwrap();
    assert_eq!(config.etcd.endpoints, meant);
}

#[test]
fn exemptions_are_repeated_or_listed() {
    let argv = [
        "--ip-masq",
        "--snat-exempt=10.0.0.0/8,192.0.2.1",
        "-snat-exempt",
        "172.16.0.0/12",
    ];
    let snat = config(&argv).unwrap().snat.unwrap();
    let all: Vec<_> = snat.exempt.iter().map(ToString::to_string).collect();
    assert_eq!(all, ["10.0.0.0/8", "172.16.0.0/12", "192.0.2.1/32"]);
    assert_eq!(snat.ports.to_string(), "auto");
    assert!(config(&argv[1..]).unwrap().snat.is_none(), "off is off");
}

#[test]
fn flags_without_effect_say_so_only_when_given() {
    for quiet in [
        &["--iface=eth0"][..],
        &["--ip-masq", "--snat-ports=2000-3000"],
    ] {
        let quiet = read_with(quiet, &[]).unwrap();
        assert!(notices::notices(&quiet.cli.flags, &quiet.origins).is_empty());
    }
    let loud = read_with(&["-net-config-path=/n"], &[("FLANNELD_VMODULE", "a=1")]).unwrap();
    let notices = notices::notices(&loud.cli.flags, &loud.origins).join("\n");
    assert!(
        notices.contains("--net-config-path (from the command line)"),
        "{notices}"
    );
    assert!(
        notices.contains("--vmodule (from the environment variable FLANNELD_VMODULE)"),
        "{notices}"
    );
    let loud = read_with(&["--snat-ports=2000-3000"], &[]).unwrap();
    let notices = notices::notices(&loud.cli.flags, &loud.origins).join("\n");
    assert!(notices.contains("--ip-masq is off"), "{notices}");
}

#[rstest]
#[case::before_the_command(
    &["--etcd-prefix=/x", "-v", "2", "status", "--output=json"],
    "flags come behind the command: flannel-agent status --output=json --etcd-prefix=/x --v=2"
)]
#[case::before_two_words(&["-etcd-prefix", "/x", "config", "show"], "flannel-agent config show --etcd-prefix=/x")]
#[case::a_switch(&["--ip-masq", "true", "--iface=eth0"], "behind an equals sign: --ip-masq=true")]
#[case::a_switch_of_a_command(&["config", "show", "-ip-masq", "false"], "behind an equals sign: --ip-masq=false")]
fn who_types_it_otherwise_is_told_how(#[case] argv: &[&str], #[case] tip: &str) {
    let error = read_with(argv, &[]).unwrap_err();
    assert!(error.contains(tip), "{error}");
}
