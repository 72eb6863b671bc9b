//! From what was typed to what it means: [`Config`] holds only values that can be used.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use super::ConfigError;
use super::flags::Flags;
use super::networks::{self, Networks};
use super::remote::{self, ServerOptions};
use super::snat;
use super::tables::table_entries;
use super::values::{absolute, path};
use crate::base::options::{FastPath, SourceCheck, TunnelFirewall, UplinkChoice};
use crate::base::redact::without_login;
use crate::dataplane::{AttachMode, Options};
use crate::node::mark;
use crate::reconcile::desired::SourceNat;
use crate::source::etcd::{ClientIdentity, EtcdOptions, Login, Tls};
use crate::source::kube::{KubeOptions, Names};
use crate::source::place::Place;
use crate::source::remote::RemoteOptions;

const ETCD: &str = "etcd";
const KUBERNETES: &str = "kubernetes";
const REMOTE: &str = "remote";

/// The agent's settings, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// `None`: the daemon serves one network, without a name.
    pub networks: Option<Networks>,
    /// The Kubernetes API is the datastore.
    pub kube: Option<KubeOptions>,
    /// A server is, which has etcd behind it. With neither, etcd is.
    pub remote: Option<RemoteOptions>,
    /// This is such a server.
    pub server: Option<ServerOptions>,
    /// Its prefix names the network, also beside the others.
    pub etcd: EtcdOptions,
    pub uplink: UplinkChoice,
    pub subnet_file: PathBuf,
    /// Shared by all agents of the node.
    pub state_dir: PathBuf,
    /// `None`: what the datastore says is not kept for the next boot.
    pub snapshot_dir: Option<PathBuf>,
    /// `None`: no CNI network is written.
    pub cni_conf_dir: Option<PathBuf>,
    /// `None`: pods' packets leave as they are.
    pub snat: Option<SourceNat>,
    pub snat_entries: u32,
    pub forward_rules: bool,
    /// How often these are looked at without being told of a change.
    pub iptables_resync: Duration,
    pub blackhole: bool,
    /// `None`: no health endpoints.
    pub health: Option<SocketAddr>,
    pub bpffs: PathBuf,
    /// `None`: the object built into the binary.
    pub ebpf_object: Option<PathBuf>,
    pub source_check: SourceCheck,
    /// Whether the node's INPUT and OUTPUT are asked about tunnel packets.
    pub asks_firewall: bool,
    pub fast_path: FastPath,
    pub flow_entries: u32,
}

/// flanneld's bounds: a lease lives for 1,440 minutes.
const RENEW_MARGIN_MINUTES: std::ops::RangeInclusive<i64> = 1..=1439;

impl Config {
    /// Name of the datastore.
    pub(crate) fn source(&self) -> &'static str {
        match (&self.kube, &self.remote) {
            (Some(_), _) => KUBERNETES,
            (None, Some(_)) => REMOTE,
            (None, None) => ETCD,
        }
    }

    /// Where this network's last word of the datastore is kept.
    pub(crate) fn snapshot(&self) -> Option<PathBuf> {
        self.snapshot_of(self.source())
    }

    /// The same for whichever datastore.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = PathBuf> {
        [ETCD, KUBERNETES, REMOTE]
            .into_iter()
            .filter_map(|source| self.snapshot_of(source))
    }

    /// Where what the datastore says holds.
    pub(crate) fn place(&self) -> Place {
        let kube = self.kube.as_ref().map(KubeOptions::place);
        kube.unwrap_or_else(Place::here)
    }

    /// Where the names of several networks are kept for a start without the datastore.
    pub(crate) fn names_file(&self) -> Option<PathBuf> {
        let name = format!("{}.networks.json", mark::network_name(&self.etcd.prefix));
        self.snapshot_dir.as_ref().map(|folder| folder.join(name))
    }

    fn snapshot_of(&self, source: &str) -> Option<PathBuf> {
        let name = format!("{}.{source}.json", mark::network_name(&self.etcd.prefix));
        self.snapshot_dir.as_ref().map(|folder| folder.join(name))
    }

    /// What the dataplane is opened with, to change it or only to look.
    pub(crate) fn dataplane(&self) -> Options {
        Options {
            bpffs: self.bpffs.clone(),
            network: mark::network_name(&self.etcd.prefix),
            ebpf_object: self.ebpf_object.clone(),
            attach: AttachMode::Auto,
            state_dir: self.state_dir.clone(),
            flow_entries: self.flow_entries,
            snat_entries: self.snat.is_some().then_some(self.snat_entries),
        }
    }

    /// # Errors
    /// The first flag whose value makes no sense.
    pub fn new(flags: &Flags) -> Result<Self, ConfigError> {
        let kube = kube(flags)?;
        let etcd = etcd(flags)?;
        Ok(Self {
            networks: Networks::new(flags)?,
            kube,
            remote: remote::client(flags, etcd.renew_margin)?,
            server: remote::server(flags)?,
            etcd,
            uplink: uplink(flags)?,
            subnet_file: path(&flags.subnet_file).ok_or_else(|| {
                ConfigError::new(
                    "subnet-file",
                    "",
                    "no file name",
                    "leave the flag out for /run/flannel/subnet.env",
                )
            })?,
            state_dir: absolute(
                "state-dir",
                &flags.state_dir,
                "leave the flag out for /run/flannel",
            )?,
            snapshot_dir: path(&flags.snapshot_dir),
            cni_conf_dir: path(&flags.cni_conf_dir),
            snat: snat::source_nat(flags)?,
            snat_entries: snat::entries(&flags.snat_entries)?,
            forward_rules: flags.iptables_forward_rules,
            iptables_resync: Duration::from_secs(
                u64::try_from(flags.iptables_resync).unwrap_or(0).max(1),
            ),
            blackhole: flags.ip_blackhole_route,
            health: health(flags)?,
            bpffs: absolute(
                "bpffs",
                &flags.bpffs,
                "give the folder where the bpf file system is mounted, usually /sys/fs/bpf",
            )?,
            ebpf_object: path(&flags.ebpf_object),
            source_check: flags.source_check,
            asks_firewall: flags.tunnel_firewall == TunnelFirewall::Ask,
            fast_path: FastPath {
                mode: flags.fast_path,
                hook: flags.pod_hook,
                xdp: flags.xdp,
                gro: flags.gro,
                bridge: networks::pod_bridge(flags)?,
            },
            flow_entries: table_entries(
                "flow-entries",
                flags.flow_entries,
                "leave the flag out for 131072, or switch the fast path off (--fast-path=off)",
            )?,
        })
    }
}

/// Server and files are looked at by [`crate::source::kube::KubeSource`].
fn kube(flags: &Flags) -> Result<Option<KubeOptions>, ConfigError> {
    if !flags.kube_subnet_mgr {
        return Ok(None);
    }
    let prefix = &flags.kube_annotation_prefix;
    Ok(Some(KubeOptions {
        api_url: (!flags.kube_api_url.is_empty()).then(|| flags.kube_api_url.clone()),
        kubeconfig: path(&flags.kubeconfig_file),
        names: Names::new(prefix).map_err(|problem| {
            ConfigError::new(
                "kube-annotation-prefix",
                prefix,
                problem,
                "give a domain name, and behind a slash more if you like: flannel.alpha.coreos.com",
            )
        })?,
        net_config: path(&flags.net_config_path).ok_or_else(|| {
            ConfigError::new(
                "net-config-path",
                "",
                "no file name",
                "leave the flag out for /etc/kube-flannel/net-conf.json",
            )
        })?,
        set_network_available: flags.set_node_network_unavailable,
    }))
}

/// Endpoints and files are looked at by [`crate::source::etcd::EtcdSource`].
fn etcd(flags: &Flags) -> Result<EtcdOptions, ConfigError> {
    let identity = match (path(&flags.etcd_certfile), path(&flags.etcd_keyfile)) {
        (Some(cert_file), Some(key_file)) => Some(ClientIdentity {
            cert_file,
            key_file,
        }),
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError::new(
                "etcd-certfile",
                &flags.etcd_certfile,
                "a certificate without its key",
                "give --etcd-keyfile, too",
            ));
        }
        (None, Some(_)) => {
            return Err(ConfigError::new(
                "etcd-keyfile",
                &flags.etcd_keyfile,
                "a key without its certificate",
                "give --etcd-certfile, too",
            ));
        }
    };
    let login = match (flags.etcd_username.as_str(), &flags.etcd_password) {
        ("", password) if password.is_empty() => None,
        ("", _) => {
            return Err(ConfigError::new(
                "etcd-password",
                "***",
                "a password without a user",
                "give --etcd-username, too",
            ));
        }
        (username, password) => Some(Login {
            username: username.to_owned(),
            password: password.expose().to_owned(),
        }),
    };
    let endpoints = flags.etcd_endpoints.split(',').map(str::trim);
    Ok(EtcdOptions {
        endpoints: endpoints
            .filter(|endpoint| !endpoint.is_empty())
            .map(without_login)
            .collect(),
        prefix: prefix(&flags.etcd_prefix)?,
        tls: Tls {
            ca_file: path(&flags.etcd_cafile),
            identity,
        },
        login,
        renew_margin: renew_margin(flags.subnet_lease_renew_margin)?,
    })
}

/// flanneld joins prefix and key as a path, so slashes in excess are no difference.
fn prefix(text: &str) -> Result<String, ConfigError> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(ConfigError::new(
            "etcd-prefix",
            text,
            "no key prefix",
            "give the folder of the network's keys, such as /coreos.com/network",
        ));
    }
    let root = if text.starts_with('/') { "/" } else { "" };
    Ok(format!("{root}{}", parts.join("/")))
}

fn uplink(flags: &Flags) -> Result<UplinkChoice, ConfigError> {
    let regexes = flags
        .iface_regex
        .iter()
        .filter(|regex| !regex.is_empty())
        .map(|regex| {
            Regex::new(regex).map_err(|error| {
                // The crate draws a picture over several lines; the last one says what is wrong.
                let text = error.to_string();
                let problem = text.lines().last().unwrap_or_default();
                ConfigError::new(
                    "iface-regex",
                    regex,
                    problem.trim_start_matches("error: "),
                    "correct the expression, for example ^eth[0-9]+$",
                )
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(UplinkChoice {
        interfaces: flags
            .iface
            .iter()
            .filter(|name| !name.is_empty())
            .cloned()
            .collect(),
        regexes,
        can_reach: ipv4("iface-can-reach", &flags.iface_can_reach)?,
        public_ip: ipv4("public-ip", &flags.public_ip)?,
    })
}

fn ipv4(flag: &'static str, text: &str) -> Result<Option<Ipv4Addr>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ConfigError::new(
            flag,
            text,
            "not an IPv4 address",
            "give an address such as 192.0.2.10, without a prefix length",
        )
    })
}

fn renew_margin(minutes: i64) -> Result<Duration, ConfigError> {
    u64::try_from(minutes)
        .ok()
        .filter(|_| RENEW_MARGIN_MINUTES.contains(&minutes))
        .map(|minutes| Duration::from_secs(minutes * 60))
        .ok_or_else(|| {
            ConfigError::new(
                "subnet-lease-renew-margin",
                minutes.to_string(),
                "out of range",
                "give minutes from 1 to 1439",
            )
        })
}

fn health(flags: &Flags) -> Result<Option<SocketAddr>, ConfigError> {
    if flags.healthz_port == 0 {
        return Ok(None);
    }
    // None is all of them, as in Go.
    let given = Some(flags.healthz_ip.as_str()).filter(|ip| !ip.is_empty());
    let given = given.unwrap_or("0.0.0.0");
    let ip: IpAddr = given.parse().map_err(|_| {
        ConfigError::new(
            "healthz-ip",
            &flags.healthz_ip,
            "not an IP address",
            "give an address of this node, or 0.0.0.0 for all",
        )
    })?;
    Ok(Some(SocketAddr::new(ip, flags.healthz_port)))
}
