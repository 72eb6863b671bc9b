//! Every flag, once: name, default and help. What the values mean is decided in [`super::config`].

use std::num::NonZeroUsize;

use crate::base::options::{
    Authorize, Gro, Hook, LogFormat, Mode, Secret, SourceCheck, TunnelFirewall, Xdp,
};

use clap::{ArgAction, Args};

/// What was typed: flanneld's flags with flanneld's defaults, and ours.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Comma-separated etcd endpoints
    #[arg(
        long,
        value_name = "URLS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        help_heading = "Datastore"
    )]
    pub etcd_endpoints: String,
    /// Key prefix of this network in etcd
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "/coreos.com/network",
        help_heading = "Datastore"
    )]
    pub etcd_prefix: String,
    /// Client key for TLS to etcd (needs --etcd-certfile)
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        help_heading = "Datastore"
    )]
    pub etcd_keyfile: String,
    /// Client certificate for TLS to etcd (needs --etcd-keyfile)
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        help_heading = "Datastore"
    )]
    pub etcd_certfile: String,
    /// Authority that signed etcd's certificate [default: the system's]
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        help_heading = "Datastore"
    )]
    pub etcd_cafile: String,
    /// User name for etcd
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        help_heading = "Datastore"
    )]
    pub etcd_username: String,
    /// Password for etcd; better given as FLANNELD_ETCD_PASSWORD, since `ps` shows flags to everybody
    #[arg(
        long,
        value_name = "PASSWORD",
        default_value = "",
        hide_default_value = true,
        help_heading = "Datastore"
    )]
    pub etcd_password: Secret,
    /// Minutes before its expiry at which the lease is renewed
    #[arg(
        long,
        value_name = "MINUTES",
        default_value_t = 60,
        help_heading = "Datastore"
    )]
    pub subnet_lease_renew_margin: i64,

    /// Contact the Kubernetes API for subnet assignment instead of etcd. The node's name is in NODE_NAME, or that of POD_NAME in
    /// POD_NAMESPACE; flanneld's EVENT_QUEUE_DEPTH and CONT_WHEN_CACHE_NOT_READY mean nothing here
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, action = ArgAction::Set, help_heading = "Kubernetes")]
    pub kube_subnet_mgr: bool,
    /// Kubernetes API server URL; not needed in a pod
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        help_heading = "Kubernetes"
    )]
    pub kube_api_url: String,
    /// kubeconfig file location; not needed in a pod
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        help_heading = "Kubernetes"
    )]
    pub kubeconfig_file: String,
    /// Kubernetes annotation prefix; can contain a single slash, otherwise one is appended
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "flannel.alpha.coreos.com",
        help_heading = "Kubernetes"
    )]
    pub kube_annotation_prefix: String,
    /// Path to the network configuration file
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/kube-flannel/net-conf.json",
        help_heading = "Kubernetes"
    )]
    pub net_config_path: String,
    /// Set NodeNetworkUnavailable to false when the node forwards
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = go_bool, action = ArgAction::Set, help_heading = "Kubernetes")]
    pub set_node_network_unavailable: bool,

    /// Take leases from these servers (flannel-agent --listen) instead of etcd: host:port, with commas between; the next one is
    /// asked when one does not answer
    #[arg(
        long,
        value_name = "SERVERS",
        default_value = "",
        help_heading = "Client and server"
    )]
    pub remote: String,
    /// Serve the networks in etcd to other nodes at this address, or at a socket of systemd (fd://, fd://5), and do nothing else
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        help_heading = "Client and server"
    )]
    pub listen: String,
    /// Key for TLS between client and server (needs --remote-certfile)
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        help_heading = "Client and server"
    )]
    pub remote_keyfile: String,
    /// Certificate for TLS between client and server (needs --remote-keyfile)
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        help_heading = "Client and server"
    )]
    pub remote_certfile: String,
    /// Authority that signed the other side's certificate; a server then asks clients for one
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        help_heading = "Client and server"
    )]
    pub remote_cafile: String,
    /// Who may write at the server. none: everybody that may connect; public-ip: only whoever shows a certificate for the lease's
    /// PublicIP (an IP address among its subject alternative names)
    #[arg(
        long,
        value_name = "WHO",
        default_value = "none",
        help_heading = "Client and server"
    )]
    pub remote_authorize: Authorize,
    /// How many connections a server takes at a time; each client keeps one. The rest is refused
    #[arg(
        long,
        value_name = "N",
        default_value = "20000",
        help_heading = "Client and server"
    )]
    pub remote_connections: NonZeroUsize,

    /// Interface (name or address) towards the other nodes; the first that exists is used (repeatable)
    #[arg(long, value_name = "NAME|IP", action = ArgAction::Append, help_heading = "Uplink")]
    pub iface: Vec<String>,
    /// Regular expression for the interface's addresses or, if none matches, names (repeatable)
    #[arg(long, value_name = "REGEX", action = ArgAction::Append, help_heading = "Uplink")]
    pub iface_regex: Vec<String>,
    /// Use the interface over which the kernel reaches this address
    #[arg(long, value_name = "IP", default_value = "", help_heading = "Uplink")]
    pub iface_can_reach: String,
    /// Address that other nodes send to, if it is not the uplink's own
    #[arg(long, value_name = "IP", default_value = "", help_heading = "Uplink")]
    pub public_ip: String,

    /// Where network, subnet and MTU are written for CNI plugins and scripts
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env",
        help_heading = "Node"
    )]
    pub subnet_file: String,
    /// Where agents write down what they did (for `status` and `debug bundle`) and which sysctls they changed; one folder
    /// for all agents of a node, lost at reboot
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/flannel",
        help_heading = "Node"
    )]
    pub state_dir: String,
    /// Where the agent keeps what the datastore last said, for a boot while that does not answer; has to outlast a
    /// reboot [empty: nowhere, such a boot waits]
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/flannel-ebpf",
        help_heading = "Node"
    )]
    pub snapshot_dir: String,
    /// Write a CNI network (bridge, host-local, portmap) here, usually /etc/cni/net.d [default: none]
    #[arg(long, value_name = "DIR", default_value = "", help_heading = "Node")]
    pub cni_conf_dir: String,
    /// Accept the network's packets in iptables where FORWARD's policy is DROP, as Docker and ufw set it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = go_bool, action = ArgAction::Set, help_heading = "Node")]
    pub iptables_forward_rules: bool,
    /// How often to look whether these rules are there; nftables' own notices are followed at once
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 5,
        help_heading = "Node"
    )]
    pub iptables_resync: i64,
    /// Drop packets to addresses of this node's subnet that nobody has (for CNI plugins without a bridge)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, action = ArgAction::Set, help_heading = "Node")]
    pub ip_blackhole_route: bool,
    /// Address of the health endpoints
    #[arg(
        long,
        value_name = "IP",
        default_value = "0.0.0.0",
        help_heading = "Node"
    )]
    pub healthz_ip: String,
    /// TCP port of /healthz and /readyz; 0 turns them off
    #[arg(long, value_name = "PORT", default_value_t = 0, help_heading = "Node")]
    pub healthz_port: u16,

    /// Where the bpf file system is mounted
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/sys/fs/bpf",
        help_heading = "eBPF"
    )]
    pub bpffs: String,
    /// Load the programs from this object instead of the built-in one
    #[arg(long, value_name = "FILE", default_value = "", help_heading = "eBPF")]
    pub ebpf_object: String,
    /// Whose tunnel packets are taken. lease: whoever has the address of the inner source's lease, or its VTEP MAC in the frame
    /// (nodes with several addresses, or behind NAT); strict: by the address alone; off: everybody's, as flannel
    #[arg(
        long,
        value_name = "MODE",
        default_value = "lease",
        help_heading = "eBPF"
    )]
    pub source_check: SourceCheck,
    /// Whether rules of the node's firewall (INPUT, OUTPUT) are about tunnel packets. ask: one packet in five seconds, each way and
    /// peer, takes the node's stack, and peers that a rule drops get and send nothing; one that asks an agent in the moment of its
    /// death is lost. past: no rule sees tunnel packets
    #[arg(
        long,
        value_name = "MODE",
        default_value = "past",
        help_heading = "eBPF"
    )]
    pub tunnel_firewall: TunnelFirewall,

    /// Which flows may skip the stack
    #[arg(
        long,
        value_name = "MODE",
        default_value = "verified",
        help_heading = "Fast path"
    )]
    pub fast_path: Mode,
    /// Where packets of pods are met
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "port",
        help_heading = "Fast path"
    )]
    pub pod_hook: Hook,
    /// The bridge that pods hang on; --cni-conf-dir names it, too. With several networks, {network} is the name of each
    #[arg(
        long,
        value_name = "NAME",
        default_value = "cni0",
        help_heading = "Fast path"
    )]
    pub pod_bridge: String,
    /// Flows remembered at once; the least recently used one makes room
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 131_072,
        help_heading = "Fast path"
    )]
    pub flow_entries: u32,

    /// Take outer headers off in the uplink's driver (native XDP), before GRO
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "off",
        help_heading = "Fast path"
    )]
    pub xdp: Xdp,
    /// What merges packets of TCP streams that come through the tunnel
    #[arg(
        long,
        value_name = "BY",
        default_value = "pair",
        help_heading = "Fast path"
    )]
    pub gro: Gro,
    /// Pods reach the outside under the node's address (source NAT)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, action = ArgAction::Set, help_heading = "Source NAT")]
    pub ip_masq: bool,
    /// Destinations to which pods keep their own address (repeatable, or with commas)
    #[arg(long, value_name = "CIDR", action = ArgAction::Append, value_delimiter = ',', help_heading = "Source NAT")]
    pub snat_exempt: Vec<String>,
    /// Ports that pods' flows leave under; not below 1024, and without the VXLAN port. auto: 49152-65535, or another
    /// range if that left the node too few ports of its own (net.ipv4.ip_local_port_range)
    #[arg(
        long,
        value_name = "MIN-MAX",
        default_value = "auto",
        help_heading = "Source NAT"
    )]
    pub snat_ports: String,
    /// A flow keeps its own port, in --snat-ports or not, where nobody else has it; without this, ports are drawn at random
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, action = ArgAction::Set, help_heading = "Source NAT")]
    pub ip_masq_fully_random_disable: bool,
    /// Size of the table of translated flows, two entries a flow; the least recently used makes room. auto: 524288, which is as many
    /// flows as the kernel's conntrack has room for, and 262144 on a node with less than 4 GiB of memory
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "auto",
        help_heading = "Source NAT"
    )]
    pub snat_entries: String,

    /// TOML file with further settings: flags' names as keys
    #[arg(long, value_name = "FILE", default_value = "", help_heading = "Node")]
    pub config: String,

    /// Log verbosity: 0 and 1 info, from 2 debug, from 6 trace
    #[arg(
        long,
        value_name = "LEVEL",
        default_value_t = 0,
        help_heading = "Logging"
    )]
    pub v: i32,
    /// auto: text on a terminal, JSON lines otherwise
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "auto",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,

    /// Print the version to stderr and exit
    #[arg(long, short = 'V', value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", hide_default_value = true, value_parser = go_bool, action = ArgAction::Set)]
    pub version: bool,

    #[command(flatten)]
    pub several: NetworksFlags,
    #[command(flatten)]
    pub inert: InertFlags,
}

/// flannel's flags of the time before 0.8, as they were.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Several networks")]
pub struct NetworksFlags {
    /// Names of networks, separated by commas, all of which this daemon serves: blue has its configuration and leases in etcd under
    /// PREFIX/blue/
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "",
        help_heading = "Several networks"
    )]
    pub networks: String,
    /// Serve all networks that have a configuration in etcd under the prefix, also those that come later; with --networks only
    /// those named there. One whose configuration is deleted is taken off the node
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, action = ArgAction::Set, help_heading = "Several networks")]
    pub watch_networks: bool,
    /// Folder of each network's subnet file, NAME.env
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/flannel/networks",
        help_heading = "Several networks"
    )]
    pub subnet_dir: String,
}

/// flanneld's flags that do nothing here; accepted so that no unit file or manifest has to change.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Accepted for flanneld's sake")]
pub struct InertFlags {
    /// IPv6 is not supported yet
    #[arg(long, value_name = "IP", default_value = "")]
    pub public_ipv6: String,
    /// Per-module verbosity of Go's klog
    #[arg(long, value_name = "PATTERNS", default_value = "")]
    pub vmodule: String,
    /// Stack traces of Go's klog
    #[arg(
        long = "log_backtrace_at",
        value_name = "FILE:LINE",
        default_value = ""
    )]
    pub log_backtrace_at: String,
}

/// The spellings that Go's `strconv.ParseBool` takes.
pub(crate) fn go_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false"),
    }
}
