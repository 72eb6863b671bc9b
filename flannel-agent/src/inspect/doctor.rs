//! `doctor`: everything that has been seen to go wrong on nodes, looked at one by one, each with the line
//! that repairs it. Changes nothing.

mod bound;
mod bridge;
mod datastore;
mod end;
mod firewall;
mod foreign;
mod inside;
mod ipip;
mod kernel;
mod kubernetes;
mod led_away;
mod named;
mod node;
mod offloads;
mod paths;
mod peers;
mod remote;
mod reverse_path;
mod snapshot;
mod snat_ports;
mod snat_times;
mod through;
mod tunnel;
mod ways;
mod wireguard;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Verdict;
use super::look::asking;
use super::output::{Format, json};
use crate::dataplane::view::{View, ViewError};
use crate::node::net::{Address, Link, Netlink};
use crate::settings::Config;
use crate::settings::flags::Flags;

/// `doctor …`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Before the first start: leaves out what only a running agent brings
    #[arg(long)]
    pub pre: bool,
    /// For people or for programs
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub flags: Flags,
}

/// How one check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    Ok,
    Warning,
    Failure,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    group: &'static str,
    mark: Mark,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// The lines so far, in groups.
#[derive(Debug, Default)]
pub(super) struct Report {
    group: &'static str,
    checks: Vec<Check>,
}

/// What the checks look at.
struct Patient<'a> {
    pre: bool,
    config: &'a Config,
    net: &'a Netlink,
    links: &'a [Link],
    addresses: &'a [Address],
    /// What is pinned; the error says why nothing is.
    view: Result<View, ViewError>,
}

impl Doctor {
    pub(super) fn examine(&self, config: &Config, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let report = asking(async || self.report(config).await)?;
        match self.output {
            Format::Json => json(out, &report.checks)?,
            Format::Table => report.print(out)?,
        }
        Ok(report.verdict())
    }

    async fn report(&self, config: &Config) -> anyhow::Result<Report> {
        let net = Netlink::open()?;
        let links = net.links().await?;
        let addresses = net.addresses().await?;
        let patient = Patient {
            pre: self.pre,
            config,
            net: &net,
            links: &links,
            addresses: &addresses,
            view: View::open(&config.bpffs, Some(&config.etcd.prefix)),
        };
        let mut report = Report::default();
        report.group("kernel");
        kernel::check(&patient, &mut report);
        report.group("datastore");
        let network = match (&config.kube, &config.remote) {
            (Some(kube), _) => kubernetes::check(kube, self.pre, &mut report).await,
            (None, Some(remote)) => remote::check(remote, &mut report).await,
            (None, None) => datastore::check(&patient, &mut report).await,
        };
        let (file, here) = (config.snapshot(), config.place());
        snapshot::check((file.as_deref(), &here), network.as_ref(), &mut report);
        report.group("node");
        node::check(&patient, network.as_ref(), &mut report).await;
        if let Some(network) = &network {
            inside::check(&patient, network, &mut report).await;
        }
        report.group("firewall");
        firewall::check(&patient, network.as_ref(), &mut report).await;
        if let Some(options) = network
            .as_ref()
            .and_then(|network| network.backend.wireguard())
        {
            report.group("wireguard");
            wireguard::check(&patient, options, &mut report);
        }
        if !self.pre {
            report.group("tunnel");
            tunnel::check(&patient, &mut report).await?;
            led_away::check(&patient, &mut report).await;
        }
        Ok(report)
    }
}

impl Report {
    fn group(&mut self, group: &'static str) {
        self.group = group;
    }

    pub(super) fn ok(&mut self, what: impl Into<String>) {
        self.push(Mark::Ok, what.into(), None);
    }

    pub(super) fn warning(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Mark::Warning, what.into(), Some(fix.into()));
    }

    pub(super) fn failure(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Mark::Failure, what.into(), Some(fix.into()));
    }

    fn push(&mut self, mark: Mark, what: String, fix: Option<String>) {
        self.checks.push(Check {
            group: self.group,
            mark,
            what,
            fix,
        });
    }

    fn verdict(&self) -> Verdict {
        let worst = self.checks.iter().map(|check| match check.mark {
            Mark::Ok => Verdict::Fine,
            Mark::Warning => Verdict::Attention,
            Mark::Failure => Verdict::Broken,
        });
        worst.max().unwrap_or(Verdict::Fine)
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut group = "";
        for check in &self.checks {
            if check.group != group {
                let gap = if group.is_empty() { "" } else { "\n" };
                writeln!(out, "{gap}{}", check.group)?;
                group = check.group;
            }
            let sign = match check.mark {
                Mark::Ok => '✓',
                Mark::Warning => '!',
                Mark::Failure => '✗',
            };
            writeln!(out, "  {sign} {}", check.what)?;
            if let Some(fix) = &check.fix {
                writeln!(out, "      → {fix}")?;
            }
        }
        Ok(())
    }
}

impl Patient<'_> {
    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn subnet_file(&self) -> &PathBuf {
        &self.config.subnet_file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mark, text and fix of each line.
    pub(super) type Said = Vec<(Mark, String, Option<String>)>;

    /// What a check says.
    pub(super) fn said(check: impl FnOnce(&mut Report)) -> Said {
        let mut report = Report::default();
        check(&mut report);
        let lines = report.checks.into_iter();
        lines.map(|line| (line.mark, line.what, line.fix)).collect()
    }

    pub(super) fn fine(what: &str) -> Said {
        vec![(Mark::Ok, what.to_owned(), None)]
    }

    pub(super) fn odd(what: &str, fix: &str) -> Said {
        vec![(Mark::Warning, what.to_owned(), Some(fix.to_owned()))]
    }

    pub(super) fn bad(what: &str, fix: &str) -> Said {
        vec![(Mark::Failure, what.to_owned(), Some(fix.to_owned()))]
    }

    #[test]
    fn groups_signs_and_fixes() {
        let mut report = Report::default();
        report.group("kernel");
        report.ok("fine");
        assert_eq!(report.verdict(), Verdict::Fine);
        report.warning("odd", "look");
        assert_eq!(report.verdict(), Verdict::Attention);
        report.group("node");
        report.failure("bad", "repair");
        assert_eq!(report.verdict(), Verdict::Broken);
        let mut out = Vec::new();
        report.print(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "kernel\n  ✓ fine\n  ! odd\n      → look\n\nnode\n  ✗ bad\n      → repair\n"
        );
        let value = serde_json::to_value(&report.checks).unwrap();
        assert_eq!(value[0]["mark"], "ok");
        assert_eq!(value[2]["fix"], "repair");
    }
}
