//! `status`: one screen.

mod hoarders;
mod judge;
mod past;
mod stopped;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path as FilePath, PathBuf};

use clap::Args;

use flannel_common::reason::{Class, Reason};
use flannel_common::snat::Times;
use flannel_common::stats::Count;
use serde::Serialize;

use super::look::asking;
use super::output::{Format, json, or_dash, table};
use super::{Look, Verdict, maps, sealed, several, stats};
use crate::base::mac::MacAddr;
use crate::dataplane::senders::Odd;
use crate::dataplane::view::{Hook, Mode, Sums, Told, View};
use crate::flannel::backend::Wire;
use crate::node::conntrack::{self, Brief};
use crate::node::mark;
use crate::node::net::{Address, Link, Netlink, Path};
use crate::reconcile::desired::TUNNEL;
use hoarders::Hoarder;
use past::Past;

/// `status …`
#[derive(Debug, Clone, Args)]
pub struct Command {
    #[command(flatten)]
    pub look: Look,
    /// Where the agent writes down what it did (its --state-dir)
    #[arg(long, value_name = "DIR", default_value = "/run/flannel")]
    pub state_dir: PathBuf,
}

/// Everything on the screen.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    verdict: &'static str,
    version: &'static str,
    network: String,
    layout: u32,
    agent_running: bool,
    /// What the last agent of this boot wrote down; `None` if it wrote nothing, or somewhere else.
    #[serde(flatten)]
    past: Option<Past>,
    /// What the live programs were told; `None` if they come from another build, or there are none.
    pub(super) told: Option<Told>,
    /// The kernel's vxlan device that is where our pair was.
    taken_over_by: Option<String>,
    uplink: Option<Device>,
    devices: Vec<Device>,
    pub(super) hooks: Vec<Hook>,
    peers: usize,
    /// Those of the kernel's WireGuard device; `None`: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<Vec<sealed::Row>>,
    /// Our routes to peers on the same link: host-gw and DirectRouting.
    direct_routes: usize,
    /// For how many seconds translated flows live, by state; `None`: nothing is translated.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_outs: Option<TimeOuts>,
    maps: Vec<maps::Row>,
    packets: BTreeMap<&'static str, Packets>,
    /// Whose tunnel packets come from where no lease says.
    pub(super) senders: Vec<Odd>,
    /// Whose flows to the outside fill the table.
    pub(super) hoarders: Vec<Hoarder>,
    pub(super) findings: Vec<Finding>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Device {
    name: String,
    index: u32,
    mtu: u32,
    mac: Option<MacAddr>,
    up: bool,
    /// IPv4 addresses, with prefix length.
    addresses: Vec<String>,
}

/// Of source NAT.
#[derive(Debug, Serialize)]
struct TimeOuts(#[serde(serialize_with = "conntrack::serialize")] Times);

#[derive(Debug, Default, PartialEq, Serialize)]
struct Packets {
    packets: u64,
    bytes: u64,
}

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    severity: &'static str,
    pub(super) what: String,
    pub(super) fix: &'static str,
    #[serde(skip)]
    pub(super) verdict: Verdict,
}

impl Command {
    pub(super) fn show(&self, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let each = self.look.each()?;
        if let [_] = each.as_slice() {
            return self.show_one(out);
        }
        let sections = each.into_iter().map(|look| {
            let (name, state_dir) = (look.network.clone(), self.state_dir.clone());
            let command = Self { look, state_dir };
            let show = move |out: &mut dyn Write| command.show_one(out);
            (name.unwrap_or_default(), show)
        });
        several::sections(self.look.output, out, sections)
    }

    fn show_one(&self, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let view = self.look.view()?;
        let status = asking(async || Status::read(&view, &self.state_dir).await)?;
        match self.look.output {
            Format::Json => json(out, &status)?,
            Format::Table => status.print(out)?,
        }
        Ok(status.verdict())
    }
}

impl Status {
    /// Looks at everything once.
    pub(super) async fn read(view: &View, state_dir: &FilePath) -> anyhow::Result<Self> {
        let net = Netlink::open()?;
        let links = net.links().await?;
        let addresses = net.addresses().await?;
        let hooks = view.hooks(&net, &links).await?;
        let told = super::routes::told(view, &hooks)?;
        let uplink = told
            .as_ref()
            .and_then(|told| links.iter().find(|link| link.index == told.uplink_index));
        let ours = links
            .iter()
            .filter(|link| mark::network_of(link) == Some(view.network()));
        let maps = maps::rows(view)?;
        let is_there = |name| maps.iter().any(|map| map.name == name);
        let sums = match is_there(flannel_common::maps::STATS) {
            true => view.stats()?,
            false => Sums::new(),
        };
        let sealed = sealed::rows(&links, view.network());
        let peers = match (&sealed, is_there(flannel_common::maps::PEERS)) {
            (Some(sealed), _) => sealed.len(),
            (None, true) => view.peers()?.len(),
            (None, false) => 0,
        };
        let senders = match view.facts(flannel_common::maps::SENDERS)? {
            Some(_) => Odd::read(view)?,
            None => Vec::new(),
        };
        let routes = net.our_routes().await?;
        let direct = |path: &Path| path.gateway.is_some_and(|by| by != TUNNEL);
        let mut status = Self {
            direct_routes: routes.iter().filter(|r| r.paths.iter().any(direct)).count(),
            verdict: "",
            version: env!("CARGO_PKG_VERSION"),
            network: view.network().to_owned(),
            layout: flannel_common::maps::LAYOUT_VERSION,
            agent_running: view.agent_runs()?,
            past: Past::read(state_dir, view.network()),
            uplink: uplink.map(|link| Device::new(link, &addresses)),
            devices: ours.map(|link| Device::new(link, &addresses)).collect(),
            taken_over_by: told.as_ref().and_then(|told| taken_over_by(told, &links)),
            time_outs: match told.as_ref().and_then(|told| told.snat_ports) {
                Some(_) => Some(TimeOuts(view.snat_times()?)),
                None => None,
            },
            told,
            hooks,
            peers,
            sealed,
            packets: by_class(&sums),
            maps,
            senders,
            hoarders: Hoarder::read(view)?,
            findings: Vec::new(),
        };
        status.findings = judge::judge(&status, sums_of(&sums, Reason::Mangled));
        status.verdict = match status.verdict() {
            Verdict::Fine => "ok",
            Verdict::Attention => "attention",
            Verdict::Broken => "broken",
        };
        Ok(status)
    }

    fn verdict(&self) -> Verdict {
        let worst = self.findings.iter().map(|finding| finding.verdict).max();
        worst.unwrap_or(Verdict::Fine)
    }

    fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut lines = vec![
            [
                "Network".to_owned(),
                format!(
                    "{} (layout v{}, {} peers)",
                    self.network, self.layout, self.peers
                ),
            ],
            [
                "Agent".to_owned(),
                match self.agent_running {
                    true => "running".to_owned(),
                    false => "not running; what is pinned forwards on, changes are not followed"
                        .to_owned(),
                },
            ],
        ];
        lines.extend(self.past.iter().flat_map(Past::lines));
        if let Some(told) = &self.told {
            lines.push([
                "Overlay".to_owned(),
                format!(
                    "{}, this node {}, {}, MTU {}",
                    told.network,
                    told.subnet,
                    match told.wire {
                        Some(Wire::Ipip) => "backend ipip".to_owned(),
                        Some(Wire::Udp) => format!("backend udp, UDP port {}", told.port),
                        None if self.sealed.is_some() => {
                            format!("backend wireguard, UDP port {}", told.port)
                        }
                        _ => format!("VNI {}, UDP port {}", told.vni, told.port),
                    },
                    told.overlay_mtu
                ),
            ]);
            lines.push([
                "Settings".to_owned(),
                format!(
                    "fast path {}, GRO {}, source check {}, source NAT {}{}",
                    told.fast_path,
                    told.gro,
                    told.source_check,
                    match told.snat_ports {
                        Some(ports) => format!("from ports {ports}"),
                        None => "off".to_owned(),
                    },
                    if told.gbp { ", GBP" } else { "" }
                ),
            ]);
        }
        if let Some(TimeOuts(times)) = &self.time_outs {
            lines.push(["Time-outs".to_owned(), Brief(times).to_string()]);
        }
        if let Some(uplink) = &self.uplink {
            lines.push(["Uplink".to_owned(), uplink.text()]);
        }
        for device in &self.devices {
            lines.push(["Device".to_owned(), device.text()]);
        }
        for (class, count) in &self.packets {
            let label = match *class {
                "forward" => "Forwarded",
                "pass" => "Passed on",
                _ => "Dropped",
            };
            let text = format!("{} packets, {} bytes", count.packets, count.bytes);
            lines.push([label.to_owned(), text]);
        }
        for map in self.maps.iter().filter(|map| map.fill_percent.is_some()) {
            let text = format!(
                "{}: {} of {} entries ({}%)",
                map.name,
                map.entries,
                map.max_entries,
                map.fill_percent.unwrap_or_default()
            );
            lines.push(["Map".to_owned(), text]);
        }
        let taken = self.senders.iter().filter(|odd| odd.dropped.is_none());
        lines.extend(taken.map(|odd| ["Sender".to_owned(), odd.to_string()]));
        pairs(out, lines)?;
        writeln!(out)?;
        self.print_hooks(out)?;
        for finding in &self.findings {
            let sign = if finding.verdict == Verdict::Broken {
                '✗'
            } else {
                '!'
            };
            writeln!(out, "\n{sign} {}\n  → {}", finding.what, finding.fix)?;
        }
        Ok(())
    }

    fn print_hooks(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let header = ["PROGRAM", "DEVICE", "HOOK", "MODE", "PROGRAM ID", "STATE"];
        let lines = self.hooks.iter().map(|hook| {
            [
                hook.program.clone(),
                hook.device
                    .clone()
                    .unwrap_or_else(|| format!("#{} (gone)", hook.ifindex)),
                match hook.mode {
                    Mode::Xdp => "xdp".to_owned(),
                    Mode::Tcx | Mode::Clsact => or_dash(hook.direction),
                },
                match hook.mode {
                    Mode::Xdp => "xdp",
                    Mode::Tcx => "tcx",
                    Mode::Clsact => "clsact",
                }
                .to_owned(),
                hook.program_id.to_string(),
                if hook.attached {
                    "attached"
                } else {
                    "detached"
                }
                .to_owned(),
            ]
        });
        Ok(table(out, header, &[4], lines)?)
    }
}

impl Device {
    fn new(link: &Link, addresses: &[Address]) -> Self {
        Self {
            name: link.name.clone(),
            index: link.index,
            mtu: link.mtu,
            mac: link.mac.map(MacAddr),
            up: link.running,
            addresses: addresses
                .iter()
                .filter(|address| address.index == link.index)
                .map(|address| address.net.to_string())
                .collect(),
        }
    }

    fn text(&self) -> String {
        let state = if self.up { "up" } else { "down" };
        format!(
            "{} (#{}) {state}, MTU {}, {} {}",
            self.name,
            self.index,
            self.mtu,
            or_dash(self.mac),
            self.addresses.join(" ")
        )
    }
}

fn taken_over_by(told: &Told, links: &[Link]) -> Option<String> {
    let name = mark::device(told.wire?);
    let theirs = |link: &&Link| link.name == name && link.is_kernel_tunnel();
    links.iter().find(theirs).map(|link| link.name.clone())
}

fn by_class(sums: &Sums) -> BTreeMap<&'static str, Packets> {
    let mut classes = BTreeMap::new();
    for class in [Class::Forward, Class::Pass, Class::Drop] {
        classes.insert(stats::class(class), Packets::default());
    }
    for (reason, Count { packets, bytes }) in sums.values().flatten() {
        let sum: &mut Packets = classes.entry(stats::class(reason.class())).or_default();
        sum.packets += packets;
        sum.bytes += bytes;
    }
    classes
}

fn sums_of(sums: &Sums, reason: Reason) -> u64 {
    let counts = sums.values().filter_map(|reasons| reasons.get(&reason));
    counts.map(|count| count.packets).sum()
}

fn pairs(out: &mut dyn Write, lines: Vec<[String; 2]>) -> std::io::Result<()> {
    for [label, text] in lines {
        writeln!(out, "{}", format!("{label:10} {text}").trim_end())?;
    }
    Ok(())
}
