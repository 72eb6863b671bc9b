//! What the agent last did and why, for `flannel-agent status`: a small file that outlives the agent.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC`, which nobody sets; the boot's id beside them says which boot they
//! belong to. Each network namespace has a file of its own, whoever shares the folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::base::wall::Moment;
use crate::base::{clock, counters, files};
use crate::flannel::lease::OwnLease;
use crate::node::net::{NetError, namespace, sysctl};

/// Actions that are written down in words; more are only counted.
const IN_WORDS: usize = 20;

/// Leases that are named; more are only counted.
const IGNORED: usize = 20;

/// A step of the start that takes longer is waited for.
const WAITS: Duration = Duration::from_secs(2);

/// The file's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// `kernel.random.boot_id`
    pub(crate) boot: String,
    pub version: String,
    /// Of the agent.
    pub pid: u32,
    /// Its settings that the node shows, by their flags.
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, String>,
    pub lease: Option<Lease>,
    /// The last comparison of the node with what is wanted.
    pub last: Option<Reconcile>,
    /// The last one that changed something.
    pub last_change: Option<Reconcile>,
    pub failing: Option<Failure>,
    /// What an operator has to put right, although nothing failed.
    #[serde(default)]
    pub complaint: Option<String>,
    /// Leases of others that cannot be used, and why.
    #[serde(default, skip_serializing_if = "Ignored::is_empty")]
    pub(crate) ignored: Ignored,
    /// What is wrong with this node's place in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) misplaced: Option<String>,
    /// When the agent started, until it has looked at the node.
    #[serde(default)]
    pub(crate) starting: Option<u64>,
    /// What the datastore does not answer.
    #[serde(default)]
    pub(crate) silences: Vec<Silence>,
}

/// Leases of others that cannot be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ignored {
    /// The first of them, and why.
    pub(crate) leases: BTreeMap<Ipv4Net, String>,
    pub(crate) more: usize,
}

impl Ignored {
    pub(crate) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

/// Something that is asked of the datastore in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Silence {
    pub(crate) what: String,
    pub(crate) since: u64,
    pub(crate) error: String,
}

/// This node's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub subnet: Ipv4Net,
    /// Its `BackendType`; `None`: an agent wrote this that did not say.
    #[serde(default)]
    pub backend: Option<String>,
    /// When it ends if nobody renews it, and when the agent would; `None`: a reservation, which never ends.
    pub ends: Option<u64>,
    pub renewal: Option<u64>,
    /// The datastore that gave it: `etcd` or `kubernetes`.
    #[serde(default)]
    pub source: String,
    /// When that said so (seconds since 1970), if it has not answered since the start.
    #[serde(default)]
    pub as_of: Option<u64>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconcile {
    pub at: u64,
    pub took_ms: u64,
    pub causes: Vec<String>,
    pub actions: usize,
    /// The first of the actions.
    pub done: Vec<String>,
}

/// What does not work, for how long now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub since: u64,
    pub error: String,
}

/// Where a network's page is.
///
/// # Errors
/// If the network namespace cannot be found out.
pub fn path(folder: &Path, network: &str) -> Result<PathBuf, NetError> {
    let namespace = namespace()?;
    Ok(folder.join(format!("agent-{network}-{namespace}.json")))
}

impl Page {
    /// What the last agent of this boot wrote; `None` if there is nothing that can be understood.
    #[must_use]
    pub fn read(folder: &Path, network: &str) -> Option<Self> {
        let text = std::fs::read_to_string(path(folder, network).ok()?).ok()?;
        let page: Self = serde_json::from_str(&text).ok()?;
        (page.boot == sysctl::boot_id().unwrap_or_default()).then_some(page)
    }
}

/// Writes the page.
#[derive(Debug)]
pub struct Logbook {
    folder: PathBuf,
    network: String,
    renew_margin: Duration,
    source: &'static str,
    rests_on: Option<watch::Receiver<Option<Moment>>>,
    page: Page,
    /// It could not be written: said once.
    failed: bool,
}

impl Logbook {
    #[must_use]
    pub fn new(folder: &Path, network: &str, renew_margin: Duration) -> Self {
        Self {
            folder: folder.to_owned(),
            network: network.to_owned(),
            renew_margin,
            source: "etcd",
            rests_on: None,
            page: Page {
                boot: sysctl::boot_id().unwrap_or_default(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                settings: BTreeMap::new(),
                // What the agent before did is still the last thing that was done.
                ..Page::read(folder, network).unwrap_or_default()
            },
            failed: false,
        }
    }

    /// Leases come from this datastore.
    #[must_use]
    pub fn of(self, source: &'static str) -> Self {
        Self { source, ..self }
    }

    /// The agent has these settings, by their flags.
    #[must_use]
    pub fn with_settings(mut self, settings: BTreeMap<String, String>) -> Self {
        self.page.settings = settings;
        self
    }

    /// Where to ask what the lease rests on.
    #[must_use]
    pub fn resting_on(self, rests_on: watch::Receiver<Option<Moment>>) -> Self {
        Self {
            rests_on: Some(rests_on),
            ..self
        }
    }

    /// An agent is here; what it does is still to come.
    pub fn begin(&mut self) {
        self.page.starting = Some(clock());
        self.write();
    }

    /// Waits for one step of the start, and writes down what that waits for.
    pub async fn through<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = std::pin::pin!(step);
        loop {
            match tokio::time::timeout(WAITS, &mut step).await {
                Ok(done) => return done,
                Err(_) => self.hear(),
            }
        }
    }

    /// The lease was acquired or renewed.
    pub fn lease(&mut self, own: &OwnLease) {
        let ends = own.expires.map(moment);
        let margin = u64::try_from(self.renew_margin.as_nanos()).unwrap_or(u64::MAX);
        let rests_on = self.rests_on.as_ref().and_then(|moment| *moment.borrow());
        self.page.lease = Some(Lease {
            as_of: rests_on.map(|moment| moment.unix().as_secs()),
            subnet: own.subnet,
            backend: Some(own.attrs.backend_type.clone()),
            ends,
            renewal: ends.map(|ends| ends.saturating_sub(margin)),
            source: self.source.to_owned(),
        });
        self.write();
    }

    /// These leases of others cannot be used; written down with what is done next.
    pub fn ignores(&mut self, leases: &BTreeMap<Ipv4Net, String>) {
        let first = leases.iter().take(IGNORED);
        self.page.ignored = Ignored {
            leases: first.map(|(net, why)| (*net, why.clone())).collect(),
            more: leases.len().saturating_sub(IGNORED),
        };
    }

    /// The node was compared with what is wanted, and `done` to it; it is as wanted, but for what `complaint` says.
    pub fn reconciled(
        &mut self,
        causes: Vec<String>,
        took: Duration,
        done: &[String],
        complaint: Option<String>,
    ) {
        let reconcile = Reconcile {
            at: clock(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            causes,
            actions: done.len(),
            done: done.iter().take(IN_WORDS).cloned().collect(),
        };
        if !done.is_empty() {
            self.page.last_change = Some(reconcile.clone());
        }
        self.page.last = Some(reconcile);
        self.page.starting = None;
        self.page.failing = None;
        self.page.complaint = complaint;
        self.write();
    }

    /// That failed.
    pub fn failed(&mut self, error: String) {
        let since = self.page.failing.as_ref().map(|failing| failing.since);
        self.page.failing = Some(Failure {
            since: since.unwrap_or_else(clock),
            error,
        });
        self.write();
    }

    fn hear(&mut self) {
        let says = |all: &[Silence]| -> Vec<_> {
            let words = |one: &Silence| (one.what.clone(), one.error.clone());
            all.iter().map(words).collect()
        };
        if says(&silences()) != says(&self.page.silences) {
            self.write();
        }
    }

    fn write(&mut self) {
        self.page.silences = silences();
        self.page.misplaced = counters::misplaced();
        let text = serde_json::to_value(&self.page).unwrap_or_default();
        let written = path(&self.folder, &self.network).and_then(|path| {
            files::replace_in_new_folder(&path, format!("{text:#}\n").as_bytes())
                .map_err(|error| NetError::io(format!("write {}", path.display()), &error))
        });
        match written {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                tracing::warn!("{error}: `status` will not know what this agent does");
                self.failed = true;
            }
            Err(_) => {}
        }
    }
}

fn silences() -> Vec<Silence> {
    let all = counters::silences().into_iter();
    let silence = |(what, silence): (String, counters::Silence)| Silence {
        what,
        since: moment(silence.since),
        error: silence.error,
    };
    all.map(silence).collect()
}

/// The programs' clock at `instant`.
fn moment(instant: Instant) -> u64 {
    let (now, clock) = (Instant::now(), clock());
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    match instant.checked_duration_since(now) {
        Some(ahead) => clock.saturating_add(nanos(ahead)),
        None => clock.saturating_sub(nanos(now.saturating_duration_since(instant))),
    }
}

/// The instant of a time on the programs' clock; far ones may be out of range.
#[must_use]
pub fn instant(moment: u64) -> Option<Instant> {
    let (now, clock) = (Instant::now(), clock());
    match moment.checked_sub(clock) {
        Some(ahead) => now.checked_add(Duration::from_nanos(ahead)),
        None => now.checked_sub(Duration::from_nanos(clock - moment)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flannel::lease::LeaseAttrs;

    const HOUR: Duration = Duration::from_hours(1);

    fn own(expires: Option<Instant>) -> OwnLease {
        OwnLease {
            subnet: "10.244.3.0/24".parse().unwrap(),
            attrs: LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, 1)),
            expires,
        }
    }

    #[test]
    fn the_next_agent_and_everybody_else_read_what_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = Logbook::new(&folder.path().join("new"), "net", HOUR);
        let end = Instant::now() + 3 * HOUR;
        book.lease(&own(Some(end)));
        let words: Vec<String> = (0..30).map(|n| format!("do {n}")).collect();
        book.reconciled(vec!["start".to_owned()], HOUR, &words, None);
        book.reconciled(vec!["timer".to_owned()], HOUR, &[], None);
        book.failed("no".to_owned());
        book.failed("still no".to_owned());

        let page = Page::read(&folder.path().join("new"), "net").unwrap();
        assert_eq!(page, book.page);
        let lease = page.lease.unwrap();
        let shown = instant(lease.ends.unwrap()).unwrap();
        let apart = shown.saturating_duration_since(end) + end.saturating_duration_since(shown);
        assert!(apart < HOUR, "{apart:?}");
        assert_eq!(
            lease.ends.unwrap() - lease.renewal.unwrap(),
            u64::try_from(HOUR.as_nanos()).unwrap()
        );
        assert_eq!(page.last.as_ref().unwrap().causes, ["timer"]);
        let change = page.last_change.unwrap();
        assert_eq!((change.actions, change.done.len()), (30, IN_WORDS));
        assert_eq!(page.failing.unwrap().error, "still no");

        let mut next = Logbook::new(&folder.path().join("new"), "net", HOUR);
        assert!(next.page.last_change.is_some());
        next.reconciled(Vec::new(), HOUR, &[], None);
        assert_eq!(next.page.failing, None);
        assert_eq!(Page::read(&folder.path().join("new"), "other"), None);
    }

    #[test]
    fn an_earlier_boot_and_damage_say_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = path(folder.path(), "net").unwrap();
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Page::read(folder.path(), "net"), None);
        let old = serde_json::to_string(&Page {
            boot: "another".to_owned(),
            ..Page::default()
        });
        std::fs::write(&file, old.unwrap()).unwrap();
        assert_eq!(Page::read(folder.path(), "net"), None);
    }

    #[test]
    fn a_reservation_never_ends_and_a_folder_that_cannot_be_is_no_panic() {
        let mut book = Logbook::new(Path::new("/proc/nothing"), "net", HOUR);
        book.lease(&own(None));
        assert_eq!(book.page.lease.as_ref().unwrap().ends, None);
        assert!(book.failed);
    }
}
