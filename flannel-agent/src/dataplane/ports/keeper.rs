//! Looks after the ports while the agent runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flannel_common::program::Program;
use flannel_common::unfit::{LEFT, is_of_note, words};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::judge::{Extras, Verdict, judge};
use crate::base::options::{FastPath, Hook, Mode};
use crate::dataplane::unfit::Unfit;
use crate::dataplane::view::in_order;
use crate::node::mark;
use crate::node::net::{Direction, Link, Monitor, NetError, Netlink};

/// A change comes as several messages; one look after the last of them is enough.
const SETTLE: Duration = Duration::from_millis(5);
/// Programs at tcx come and go without a word.
const EVERY: Duration = Duration::from_secs(30);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Looking may take this share of the time, no more: with many ports a look is not free.
const LOOK_ONE_PART_IN: u32 = 4;
/// But a change does not wait longer for it, on a busy machine.
const REST: Duration = Duration::from_millis(100);

/// Which ports, and where that is written down.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    bridge: String,
    /// Of our own device.
    alias: String,
    bpffs: PathBuf,
    network: String,
}

impl Options {
    /// `None` if nothing past the stack passes by a port: on the bridge itself everything at the ports happens all the same.
    pub(crate) fn new(fast_path: &FastPath, bpffs: &Path, network: &str) -> Option<Self> {
        let FastPath {
            mode, hook, bridge, ..
        } = fast_path;
        (*mode != Mode::Off && *hook == Hook::Port).then(|| Self {
            bridge: bridge.clone(),
            alias: mark::alias(network),
            bpffs: bpffs.to_owned(),
            network: network.to_owned(),
        })
    }
}

/// Ends when dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    _task: AbortOnDropHandle<()>,
}

impl Keeper {
    /// Looks before it returns, and from then on when there are news.
    ///
    /// # Errors
    /// If the kernel does not tell news.
    pub(crate) async fn start(
        netlink: &Netlink,
        options: Option<Options>,
    ) -> Result<Option<Self>, NetError> {
        let Some(options) = options else {
            return Ok(None);
        };
        // Before the first look, or a change right after it would go unnoticed.
        let monitor = Monitor::of_ports()?;
        let mut guard = Guard {
            netlink: netlink.clone(),
            options,
            fit: None,
            left: BTreeSet::new(),
            said: BTreeMap::new(),
        };
        guard.look_or_say().await;
        let task = tokio::spawn(guard.run(monitor));
        Ok(Some(Self {
            _task: AbortOnDropHandle::new(task),
        }))
    }
}

#[derive(Debug)]
struct Guard {
    netlink: Netlink,
    options: Options,
    /// Devices that were fit at the last look.
    fit: Option<BTreeSet<u32>>,
    /// Devices that were ports of the bridge until they were taken out.
    left: BTreeSet<u32>,
    said: BTreeMap<u32, Verdict>,
}

impl Guard {
    async fn run(mut self, monitor: Monitor) {
        let mut due = interval_at(Instant::now() + EVERY, EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again = false;
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = sleep(AGAIN), if again => {}
                _ = monitor.changed() => sleep(SETTLE).await,
            }
            let begun = Instant::now();
            again = !self.look_or_say().await;
            let rest = begun.elapsed() * (LOOK_ONE_PART_IN - 1);
            sleep(rest.min(REST)).await;
        }
    }

    /// Whether that worked.
    async fn look_or_say(&mut self) -> bool {
        let looked = self.look().await;
        if let Err(error) = &looked {
            tracing::warn!("cannot look after the ports of the pod bridge: {error:#}");
        }
        looked.is_ok()
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let links = self.netlink.links().await?;
        let Options { bridge, alias, .. } = &self.options;
        let extras = self.extras(&links).await?;
        let mut verdicts = judge(&links, bridge, alias, &extras);
        let concerned = concerned(&links, bridge, alias);
        self.left.extend(self.fit.iter().flatten());
        self.left.retain(|index| !concerned.contains(index));
        verdicts.extend(gone_from_bridge(&links, &self.left));
        let fit: BTreeSet<u32> = concerned
            .difference(&verdicts.keys().copied().collect())
            .copied()
            .collect();
        let mut unfit = Unfit::open(&self.options.bpffs, &self.options.network)?;
        let held = unfit.list()?;
        let wanted: BTreeMap<u32, u32> = verdicts.iter().map(|(i, v)| (*i, v.why)).collect();
        if held != wanted {
            unfit.set(&wanted)?;
        }
        let is_there = |index: &u32| links.iter().any(|link| link.index == *index);
        let ends = match &self.fit {
            // Whoever was here before may have left proofs.
            None => wanted.keys().any(|index| !held.contains_key(index)),
            // What is gone altogether reaches nobody.
            Some(before) => before.difference(&fit).any(is_there),
        };
        if ends {
            unfit.end_proofs()?;
        }
        self.fit = Some(fit);
        self.say(verdicts);
        Ok(())
    }

    /// Once per reason.
    fn say(&mut self, verdicts: BTreeMap<u32, Verdict>) {
        for (index, verdict) in &verdicts {
            if self.said.get(index) == Some(verdict) {
                continue;
            }
            let Verdict {
                device,
                why,
                detail,
            } = verdict;
            let detail = detail
                .as_ref()
                .map_or_else(String::new, |d| format!(" ({d})"));
            let text = format!("no flow is fast at {device}: {}{detail}", words(*why));
            match is_of_note(*why) {
                true => tracing::warn!("{text}"),
                false => tracing::info!("{text}"),
            }
        }
        for (index, Verdict { device, .. }) in &self.said {
            if !verdicts.contains_key(index) {
                tracing::info!("nothing is against fast flows at {device} any more");
            }
        }
        self.said = verdicts;
    }

    /// What others put on the ports, the bridge and our own device.
    async fn extras(&self, links: &[Link]) -> Result<Extras, NetError> {
        let Options { bridge, alias, .. } = &self.options;
        let mut concerned = concerned(links, bridge, alias);
        concerned.extend(index_of(links, bridge));
        let concerned = |index: u32| concerned.contains(&index);
        let disciplines = self.netlink.disciplines().await?;
        let mut extras = Extras::default();
        let mut hooked = BTreeSet::new();
        for discipline in disciplines.iter().filter(|d| concerned(d.index)) {
            if discipline.holds_filters() {
                hooked.insert(discipline.index);
            } else if discipline.shapes() {
                let kind = discipline.kind.clone();
                extras.shapers.insert(discipline.index, kind);
            }
        }
        for link in links.iter().filter(|link| concerned(link.index)) {
            for direction in [Direction::Ingress, Direction::Egress] {
                let mut found = programs(&link.name, direction);
                if found.is_none() && hooked.contains(&link.index) {
                    found = self.filter(link.index, direction).await?;
                }
                if let Some(found) = found {
                    extras.filters.insert(link.index, found);
                }
            }
        }
        Ok(extras)
    }

    async fn filter(&self, index: u32, direction: Direction) -> Result<Option<String>, NetError> {
        let kinds = self.netlink.foreign_filters(index, direction).await?;
        let kind = kinds.first();
        Ok(kind.map(|kind| format!("{kind} filter at {direction}")))
    }
}

/// Until the next reconcile our programs are at such a device, and with `--fast-path=always` they ask for no proof.
fn gone_from_bridge(links: &[Link], left: &BTreeSet<u32>) -> BTreeMap<u32, Verdict> {
    let links = links.iter().filter(|link| left.contains(&link.index));
    let verdict = |link: &Link| Verdict {
        device: link.name.clone(),
        why: LEFT,
        detail: None,
    };
    links.map(|link| (link.index, verdict(link))).collect()
}

/// The ports, and our own devices.
fn concerned(links: &[Link], bridge: &str, alias: &str) -> BTreeSet<u32> {
    let bridge = index_of(links, bridge);
    let concerned = |link: &&Link| {
        link.alias.as_deref() == Some(alias) || (bridge.is_some() && link.controller == bridge)
    };
    links.iter().filter(concerned).map(|l| l.index).collect()
}

fn index_of(links: &[Link], name: &str) -> Option<u32> {
    let link = links.iter().find(|link| link.name == name);
    link.map(|link| link.index)
}

/// A program at tcx that no agent of ours put there.
fn programs(device: &str, direction: Direction) -> Option<String> {
    let is_ours = |name: &str| Program::ALL.iter().any(|program| program.name() == name);
    let programs = in_order(device, direction);
    let strange = programs.iter().find(|(_, name)| !is_ours(name));
    strange.map(|(id, name)| format!("program {name}, id {id}, at {direction}"))
}
