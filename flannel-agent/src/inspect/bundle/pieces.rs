//! What is in a bundle. Each piece stands for itself: one that fails takes no other with it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use super::READ_MOST;
use super::command::run;
use super::log;
use crate::base::logging::describe;
use crate::inspect::look::{Look, asking};
use crate::inspect::output::Format;
use crate::inspect::{Doctor, flows, maps, nat, peers, routes, stats, status};
use crate::node::mark;
use crate::node::net::{Netlink, sysctl};
use crate::reconcile::logbook;
use crate::settings::Config;
use crate::settings::flags::Flags;

type Make<'a> = Box<dyn FnOnce(&mut dyn Write) -> anyhow::Result<()> + 'a>;

/// One file of the bundle.
pub(super) struct Piece<'a> {
    pub(super) name: String,
    pub(super) make: Make<'a>,
}

impl<'a> Piece<'a> {
    pub(super) fn new(
        name: impl Into<String>,
        make: impl FnOnce(&mut dyn Write) -> anyhow::Result<()> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            make: Box::new(make),
        }
    }

    fn tool(name: &str, program: &'static str, arguments: &'static [&'static str]) -> Self {
        Self::new(name, move |out| run(program, arguments, out))
    }

    fn file(name: &str, path: PathBuf) -> Self {
        Self::new(name, move |out| copy(&path, out))
    }
}

/// What the agent's flags say about where to look.
struct Scene<'a> {
    flags: &'a Flags,
    config: Result<&'a Config, &'a anyhow::Error>,
}

/// Once for the whole node.
pub(super) fn of_node<'a>(
    config: Result<&'a Config, &'a anyhow::Error>,
    shown: &'a str,
) -> Vec<Piece<'a>> {
    let mut pieces = vec![Piece::new("config.toml", move |out| {
        Ok(out.write_all(shown.as_bytes())?)
    })];
    let health = config.ok().and_then(|config| config.health);
    pieces.push(Piece::new("metrics.txt", move |out| metrics(health, out)));
    pieces.extend(kernel());
    pieces.extend(tools());
    pieces
}

/// For each network.
pub(super) fn of_network<'a>(
    flags: &'a Flags,
    config: Result<&'a Config, &'a anyhow::Error>,
) -> Vec<Piece<'a>> {
    let scene = Scene { flags, config };
    let mut pieces = ours(&scene);
    pieces.extend(files(&scene));
    let look = scene.look(Format::Table);
    pieces.push(Piece::new("tc-filters.txt", move |out| filters(&look, out)));
    pieces
}

impl Scene<'_> {
    fn look(&self, output: Format) -> Look {
        Look {
            bpffs: PathBuf::from(&self.flags.bpffs),
            network: Some(self.flags.etcd_prefix.clone()),
            etcd_prefix: None,
            output,
            watch: None,
        }
    }

    fn status(&self, output: Format) -> status::Command {
        status::Command {
            look: self.look(output),
            state_dir: PathBuf::from(&self.flags.state_dir),
        }
    }
}

/// Our own commands, as they would print.
fn ours<'a>(scene: &Scene<'a>) -> Vec<Piece<'a>> {
    let look = || scene.look(Format::Table);
    let mut pieces = Vec::new();
    for (name, format) in [("status.txt", Format::Table), ("status.json", Format::Json)] {
        let command = scene.status(format);
        pieces.push(Piece::new(name, move |out| command.show(out).map(drop)));
    }
    let doctor = Doctor {
        pre: false,
        output: Format::Table,
        flags: scene.flags.clone(),
    };
    let config = scene.config;
    pieces.push(Piece::new("doctor.txt", move |out| {
        let config = config.map_err(|error| anyhow!("{}", describe(error)))?;
        doctor.examine(config, out).map(drop)
    }));
    type Show = fn(&Look, &mut dyn Write) -> anyhow::Result<crate::inspect::Verdict>;
    let shows: [(&str, Show); 3] = [
        ("peers.txt", peers::show),
        ("routes.txt", routes::show),
        ("stats.txt", stats::show),
    ];
    for (name, show) in shows {
        let look = look();
        pieces.push(Piece::new(name, move |out| show(&look, out).map(drop)));
    }
    let flows = flows::Flows {
        look: look(),
        pod: None,
        live: false,
    };
    pieces.push(Piece::new("flows.txt", move |out| {
        flows.show(out).map(drop)
    }));
    let nat = nat::Nat {
        look: look(),
        pod: None,
    };
    pieces.push(Piece::new("nat.txt", move |out| nat.show(out).map(drop)));
    let maps = maps::Maps {
        name: None,
        look: look(),
    };
    pieces.push(Piece::new("maps.txt", move |out| maps.show(out).map(drop)));
    let (folder, network) = page_of(scene.flags);
    pieces.push(Piece::new("log.txt", move |out| {
        log::copy(&folder, &network, out)
    }));
    pieces
}

fn page_of(flags: &Flags) -> (PathBuf, String) {
    let network = mark::network_name(&flags.etcd_prefix);
    (PathBuf::from(&flags.state_dir), network)
}

/// What the agent writes for others.
fn files<'a>(scene: &Scene<'a>) -> Vec<Piece<'a>> {
    let (folder, network) = page_of(scene.flags);
    let mut pieces = vec![
        Piece::file("subnet.env", PathBuf::from(&scene.flags.subnet_file)),
        Piece::new("logbook.json", move |out| {
            copy(&logbook::path(&folder, &network)?, out)
        }),
    ];
    if let Some(folder) = scene.config.ok().and_then(|c| c.cni_conf_dir.as_ref()) {
        pieces.push(Piece::file(
            "cni.conflist",
            crate::flannel::cni::path(folder),
        ));
    }
    pieces
}

/// Version, memory, and the settings that decide about packets.
fn kernel() -> Vec<Piece<'static>> {
    const NET: &str = "/proc/thread-self/net";
    let of_net = |name: &str, file: &str| Piece::file(name, Path::new(NET).join(file));
    vec![
        Piece::file("kernel.txt", "/proc/version".into()),
        Piece::file("os-release.txt", "/etc/os-release".into()),
        Piece::file("meminfo.txt", "/proc/meminfo".into()),
        of_net("softnet_stat.txt", "softnet_stat"),
        of_net("snmp.txt", "snmp"),
        of_net("netstat.txt", "netstat"),
        of_net("udp.txt", "udp"),
        Piece::new("sysctls.txt", sysctls),
        Piece::new("conntrack.txt", |out| {
            for name in ["count", "max"] {
                let key = format!("net/netfilter/nf_conntrack_{name}");
                let value = sysctl::read(&key)?.context("there is no conntrack here")?;
                writeln!(out, "{name} {value}")?;
            }
            Ok(())
        }),
    ]
}

fn tools() -> Vec<Piece<'static>> {
    let tool = Piece::tool;
    vec![
        tool("links.txt", "ip", &["-d", "-s", "link"]),
        tool("addresses.txt", "ip", &["addr"]),
        tool(
            "ip-routes.txt",
            "ip",
            &["-4", "route", "show", "table", "all"],
        ),
        tool("ip-rules.txt", "ip", &["-4", "rule"]),
        tool("neighbours.txt", "ip", &["-4", "neigh"]),
        tool("tc-qdiscs.txt", "tc", &["-s", "qdisc"]),
        tool("nft.txt", "nft", &["list", "ruleset"]),
        tool("iptables.txt", "iptables-save", &["-c"]),
        // Asking for legacy tables would load their modules where they are not.
        Piece::new("iptables-legacy.txt", |out| {
            let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
            match tables {
                Ok(tables) if !tables.is_empty() => run("iptables-legacy-save", &["-c"], out),
                _ => bail!("there are no legacy tables here"),
            }
        }),
        tool("bpf-programs.txt", "bpftool", &["prog", "show"]),
        tool("bpf-links.txt", "bpftool", &["link", "show"]),
        tool("bpf-maps.txt", "bpftool", &["map", "show"]),
    ]
}

fn copy(path: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    io::copy(&mut file, out).with_context(cannot)?;
    Ok(())
}

fn sysctls(out: &mut dyn Write) -> anyhow::Result<()> {
    const ONES: [&str; 8] = [
        "net/core/bpf_jit_enable",
        "net/core/netdev_max_backlog",
        "kernel/unprivileged_bpf_disabled",
        "net/ipv4/ip_forward",
        "net/ipv4/ip_local_port_range",
        "net/ipv4/ip_local_reserved_ports",
        "net/bridge/bridge-nf-call-iptables",
        "net/netfilter/nf_conntrack_tcp_be_liberal",
    ];
    let mut line = |key: &str| -> anyhow::Result<()> {
        if let Ok(Some(value)) = sysctl::read(key) {
            writeln!(out, "{key} = {value}")?;
        }
        Ok(())
    };
    for key in ONES {
        line(key)?;
    }
    let devices = std::fs::read_dir("/proc/sys/net/ipv4/conf")?;
    let devices: BTreeSet<_> = devices
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    for device in devices {
        for name in ["rp_filter", "forwarding", "accept_local"] {
            line(&format!("net/ipv4/conf/{device}/{name}"))?;
        }
    }
    Ok(())
}

/// Filters on the devices where ours are.
fn filters(look: &Look, out: &mut dyn Write) -> anyhow::Result<()> {
    let view = look.view()?;
    let hooks = asking(async || {
        let net = Netlink::open()?;
        let links = net.links().await?;
        Ok(view.hooks(&net, &links).await?)
    })?;
    let devices: BTreeSet<String> = hooks.into_iter().filter_map(|h| h.device).collect();
    for device in devices {
        for direction in ["ingress", "egress"] {
            writeln!(out, "# {device} {direction}")?;
            run("tc", &["filter", "show", "dev", &device, direction], out)?;
        }
    }
    Ok(())
}

/// What the agent would tell Prometheus.
fn metrics(address: Option<SocketAddr>, out: &mut dyn Write) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let mut address = address.context("--healthz-port is off: the agent serves no metrics")?;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let cannot = || format!("no metrics at {address}: does the agent run?");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(cannot)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    io::copy(&mut stream.take(READ_MOST), out).with_context(cannot)?;
    Ok(())
}
