//! What the agent wrote down: its lease, and when it last compared the node with what is wanted.

mod ignored;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use serde::Serialize;

use super::stopped::is_stopped;
use crate::base::clock;
use crate::base::wall::Moment;
use crate::reconcile::logbook::{self, Page};

/// The agent looks at everything every 30 s; after this long it hangs, or was not given time to run.
const OVERDUE: Duration = Duration::from_mins(2);
/// A start takes a second or two.
const START: Duration = Duration::from_secs(15);
/// A watch that breaks is there again within seconds, if anybody answers.
const UNHEARD: Duration = Duration::from_mins(1);
/// etcd refuses for a while, or is elected anew: no reason to call somebody.
const RENEWAL_LATE: Duration = Duration::from_mins(10);

/// The page as it looks now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Past {
    lease: Option<Lease>,
    last_reconcile: Option<Reconcile>,
    /// The last one that changed something.
    last_change: Option<Reconcile>,
    error: Option<Failure>,
    complaint: Option<String>,
    /// Leases of others that cannot be used, and why; the first of them.
    ignored: BTreeMap<Ipv4Net, String>,
    ignored_more: usize,
    /// What is wrong with this node's place in the cluster.
    misplaced: Option<String>,
    /// The agent is there, and stopped.
    #[serde(rename = "agent_stopped")]
    is_stopped: bool,
    /// The agent has not looked at the node since it started, so long ago.
    starting_s: Option<u64>,
    silences: Vec<Silence>,
}

/// What is asked of the datastore in vain.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Silence {
    what: String,
    since_s: u64,
    error: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Lease {
    subnet: String,
    /// `BackendType`.
    backend: Option<String>,
    /// The datastore.
    source: String,
    /// Unix time by today's clock; `None`: never.
    expires: Option<Moment>,
    /// Negative: so long ago.
    expires_in_s: Option<i64>,
    renewal_in_s: Option<i64>,
    /// When the datastore said so, if it has not answered since the agent's start.
    as_of: Option<Moment>,
    /// By today's clock; `None` also if that was set back.
    as_of_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Reconcile {
    at: Moment,
    ago_s: u64,
    took_ms: u64,
    causes: Vec<String>,
    actions: usize,
    done: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Failure {
    error: String,
    since_s: u64,
}

impl Past {
    pub(super) fn read(state_dir: &Path, network: &str) -> Option<Self> {
        Some(Self::at(Page::read(state_dir, network)?, clock()))
    }

    /// `now`: on the programs' clock.
    fn at(page: Page, now: u64) -> Self {
        let ago = |at: u64| now.saturating_sub(at) / NANOS;
        let silence = |silence: logbook::Silence| Silence {
            since_s: ago(silence.since),
            what: silence.what,
            error: silence.error,
        };
        let reconcile = |done: logbook::Reconcile| Reconcile {
            at: Moment::now().before(Duration::from_secs(ago(done.at))),
            ago_s: ago(done.at),
            took_ms: done.took_ms,
            causes: done.causes,
            actions: done.actions,
            done: done.done,
        };
        Self {
            lease: page.lease.map(|lease| Lease {
                subnet: lease.subnet.to_string(),
                backend: lease.backend,
                source: lease.source,
                expires: lease.ends.and_then(named),
                expires_in_s: lease.ends.map(|ends| until(ends, now)),
                renewal_in_s: lease.renewal.map(|at| until(at, now)),
                as_of: lease.as_of.map(|at| Moment::at(Duration::from_secs(at))),
                as_of_s: lease
                    .as_of
                    .and_then(|at| Moment::now().unix().as_secs().checked_sub(at)),
            }),
            last_reconcile: page.last.map(reconcile),
            last_change: page.last_change.map(reconcile),
            error: page.failing.map(|failing| Failure {
                error: failing.error,
                since_s: ago(failing.since),
            }),
            complaint: page.complaint,
            ignored: page.ignored.leases,
            ignored_more: page.ignored.more,
            misplaced: page.misplaced,
            is_stopped: is_stopped(page.pid),
            starting_s: page.starting.map(ago),
            silences: page.silences.into_iter().map(silence).collect(),
        }
    }

    /// Whether the node has a lease of the backend `alloc` or `extension`, and so nothing else of ours.
    pub(super) fn is_only_a_lease(&self) -> bool {
        let backend = self.lease.as_ref().and_then(|lease| lease.backend.as_ref());
        backend.is_some_and(|backend| matches!(backend.as_str(), "" | "extension"))
    }

    #[cfg(test)]
    pub(super) fn of_one_who_waits() -> Self {
        Self::at(Page::default(), 0)
    }

    /// Whether the agent has not looked at the node yet: it waits for what comes before.
    pub(super) fn is_ahead_of_the_first(&self) -> bool {
        self.last_reconcile.is_none()
    }

    /// Whether the kernel's WireGuard device leads to its peers.
    pub(super) fn is_wireguard(&self) -> bool {
        let backend = self.lease.as_ref().and_then(|lease| lease.backend.as_ref());
        backend.is_some_and(|backend| backend == "wireguard")
    }

    pub(super) fn lines(&self) -> Vec<[String; 2]> {
        let mut lines = Vec::new();
        let mut line = |label: &str, text| lines.push([label.to_owned(), text]);
        if let Some(lease) = &self.lease {
            let kept = self
                .misplaced
                .as_ref()
                .map(|why| format!("; kept, although {why}"));
            line("Lease", lease.text() + &kept.unwrap_or_default());
        }
        for (subnet, why) in self.formers() {
            line(
                "Former",
                format!(
                    "{subnet}, a lease that this node had: it is ignored, and ends by itself ({why})"
                ),
            );
        }
        if let Some(last) = &self.last_reconcile {
            line("Compared", last.text());
        }
        if let Some(change) = self
            .last_change
            .as_ref()
            .filter(|change| self.last_reconcile.as_ref() != Some(*change))
        {
            line("Changed", change.text());
        }
        if let Some(failing) = &self.error {
            let since = duration(failing.since_s);
            line("Failing", format!("for {since}: {}", failing.error));
        }
        lines
    }

    pub(super) fn judge(&self, runs: bool, attention: &mut impl FnMut(String, &'static str)) {
        if self.is_stopped && runs {
            attention(
                "the agent is stopped (SIGSTOP, or a debugger): what forwards goes on, but no lease is followed, and its own is not renewed"
                    .to_owned(),
                "let it go on (kill -CONT), or restart it",
            );
        }
        if let Some(Failure { error, since_s }) = &self.error {
            let since = duration(*since_s);
            match runs {
                true => attention(
                    format!("for {since} the agent has not brought the node up to date: {error}"),
                    "see the agent's log; it tries again by itself",
                ),
                false => attention(
                    format!(
                        "the last agent could not bring the node up to date, {since} ago: {error}"
                    ),
                    "put that right, and start the agent",
                ),
            }
        } else if let Some(since_s) = self.starting_s.filter(|_| runs && !self.is_stopped) {
            self.judge_start(since_s, attention);
        } else if let Some(last) = self
            .last_reconcile
            .as_ref()
            .filter(|_| runs && !self.is_stopped)
            && last.ago_s > OVERDUE.as_secs()
        {
            attention(
                format!(
                    "the agent last looked at the node {} ago",
                    duration(last.ago_s)
                ),
                "it hangs or gets no CPU: see its log, then restart it",
            );
        }
        if let Some(complaint) = self.complaint.as_ref().filter(|_| runs) {
            attention(complaint.clone(), "as it says; the agent notices by itself");
        }
        if let Some(misplaced) = self.misplaced.as_ref().filter(|_| runs) {
            attention(
                misplaced.clone(),
                "put the Node right (kubectl get node -o yaml): kubelet registers one that is gone when it is restarted, the controller \
                 manager gives podCIDRs; a node that has left for good: stop the agent and run flannel-agent cleanup",
            );
        }
        self.judge_ignored(attention);
        let Some(lease) = &self.lease else { return };
        let unheard = self.silences.iter().find(|silence| {
            silence.what.starts_with("following") && silence.since_s >= UNHEARD.as_secs()
        });
        if let Some(Silence {
            what,
            since_s,
            error,
        }) = unheard.filter(|_| runs && self.starting_s.is_none())
        {
            attention(
                format!(
                    "{what} has not worked for {}, so nobody's changes are known since: {error}",
                    duration(*since_s)
                ),
                "see that the datastore answers (`doctor` says what does not); what is known forwards on, and the agent asks again \
                 by itself",
            );
        }
        if let Some(as_of) = lease.as_of.filter(|_| runs) {
            attention(
                format!(
                    "the datastore has not answered since the agent's start: the node runs by what it said {}",
                    old(as_of, lease.as_of_s)
                ),
                "see that it answers (the agent's log and `doctor` say why it does not): until then nobody's changes are followed",
            );
        }
        let (Some(left), Some(renewal)) = (lease.expires_in_s, lease.renewal_in_s) else {
            return;
        };
        if left <= 0 {
            attention(
                format!("the lease of {} has expired", lease.subnet),
                "start the agent, which takes it again if nobody else did; other nodes send nothing meanwhile",
            );
        } else if renewal < -RENEWAL_LATE.as_secs().cast_signed() {
            attention(
                format!(
                    "the lease of {} ends in {} and should have been renewed",
                    lease.subnet,
                    duration(left.unsigned_abs())
                ),
                "start the agent, or see in its log why etcd does not take the renewal",
            );
        }
    }
}

impl Past {
    fn judge_start(&self, since_s: u64, attention: &mut impl FnMut(String, &'static str)) {
        let waits = format!("the agent started {} ago and waits", duration(since_s));
        if let Some(Silence { what, error, .. }) = self.silences.first() {
            attention(
                format!("{waits} for the datastore ({what}): {error}"),
                "see that it answers (`doctor` says what does not); what is attached forwards on meanwhile, and changes are not followed",
            );
        } else if since_s > START.as_secs() {
            attention(
                format!("{waits} for what comes before its first look at the node"),
                "its log says what that is: an answer of the datastore, mostly",
            );
        }
    }
}

const NANOS: u64 = 1_000_000_000;

/// Seconds from `now` to `then`.
fn until(then: u64, now: u64) -> i64 {
    let apart = |a: u64, b: u64| i64::try_from((a - b) / NANOS).unwrap_or(i64::MAX);
    match then >= now {
        true => apart(then, now),
        false => -apart(now, then),
    }
}

fn named(moment: u64) -> Option<Moment> {
    logbook::instant(moment).map(|instant: Instant| Moment::of(instant))
}

/// "3 h 2 min ago (Sun, …)"
fn old(as_of: Moment, seconds: Option<u64>) -> String {
    match seconds {
        Some(seconds) => format!("{} ago ({as_of})", duration(seconds)),
        None => format!("at {as_of}, which this node's clock has not reached"),
    }
}

impl Lease {
    fn text(&self) -> String {
        let text = self.standing();
        match self.as_of {
            Some(as_of) => format!("{text}; as the datastore said {}", old(as_of, self.as_of_s)),
            None => text,
        }
    }

    fn standing(&self) -> String {
        let Some(left) = self.expires_in_s else {
            return match self.source.as_str() {
                "kubernetes" => format!("{}, this Node's podCIDR in Kubernetes", self.subnet),
                _ => format!("{}, reserved: it never expires", self.subnet),
            };
        };
        let end = self
            .expires
            .map_or_else(String::new, |end| format!(" ({end})"));
        let left = match left > 0 {
            true => format!("expires in {}", duration(left.unsigned_abs())),
            false => format!("expired {} ago", duration(left.unsigned_abs())),
        };
        let renewal = match self.renewal_in_s {
            Some(at) if at > 0 => format!(", renewal in {}", duration(at.unsigned_abs())),
            Some(_) => ", renewal due".to_owned(),
            None => String::new(),
        };
        format!("{}, {left}{end}{renewal}", self.subnet)
    }
}

impl Reconcile {
    fn text(&self) -> String {
        let causes = self.causes.join(", ");
        let ago = duration(self.ago_s);
        let done = match (self.actions, self.done.as_slice()) {
            (0, _) => "nothing to do".to_owned(),
            (1, [one]) => one.clone(),
            (all, [first, ..]) => format!("{all} actions: {first} …"),
            (all, []) => format!("{all} actions"),
        };
        format!("{ago} ago in {} ms, for {causes}: {done}", self.took_ms)
    }
}

/// The two largest units that say something.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests;
