//! What the agent did since its start, counted where it is done. [`crate::daemon::metrics`] shows it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::base::wall::Moment;

/// Label names and values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// From a change of one peer to the first start on a busy node.
const RECONCILE_BUCKETS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// What was done for one network.
#[derive(Debug)]
struct Done {
    reconciles: Histogram,
    failures: Counter,
    succeeded: Mutex<Option<Instant>>,
    actions: Family<Labels, Counter>,
    drift: Family<Labels, Counter>,
    peers: Family<Labels, Gauge>,
    /// `None`: it never does.
    lease_ends: Mutex<Option<Instant>>,
    datastore_troubles: Counter,
    silences: Mutex<BTreeMap<String, Silence>>,
    misplaced: Mutex<Option<String>>,
    netlink_overruns: Counter,
    next_hop_lookups: Counter,
    snat_entries: Gauge,
    snat_swept: Counter,
}

impl Default for Done {
    fn default() -> Self {
        Self {
            reconciles: Histogram::new(RECONCILE_BUCKETS),
            failures: Counter::default(),
            succeeded: Mutex::default(),
            actions: Family::default(),
            drift: Family::default(),
            peers: Family::default(),
            lease_ends: Mutex::default(),
            datastore_troubles: Counter::default(),
            silences: Mutex::default(),
            misplaced: Mutex::default(),
            netlink_overruns: Counter::default(),
            next_hop_lookups: Counter::default(),
            snat_entries: Gauge::default(),
            snat_swept: Counter::default(),
        }
    }
}

/// The counters of a network, or of all that a process of one network did.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Done>);

static OF_THE_PROCESS: LazyLock<Counters> = LazyLock::new(Counters::default);

thread_local! {
    /// Where what this thread does is counted; `None`: for the process.
    static OF_THE_THREAD: RefCell<Option<Counters>> = const { RefCell::new(None) };
}

impl Counters {
    /// Those of a process that serves one network.
    #[must_use]
    pub fn of_the_process() -> Self {
        OF_THE_PROCESS.clone()
    }

    /// What the calling thread does from now on counts here: each network of a process has threads of its own.
    pub fn count_in_this_thread(&self) {
        OF_THE_THREAD.set(Some(self.clone()));
    }

    /// Puts them all into `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.0.register(registry);
    }
}

fn count(count: impl FnOnce(&Done)) {
    OF_THE_THREAD.with_borrow(|counters| count(&counters.as_ref().unwrap_or(&OF_THE_PROCESS).0));
}

/// The node was compared with what is wanted, and brought there or not.
pub fn reconciled(took: Duration, succeeded: bool) {
    count(|done| {
        done.reconciles.observe(took.as_secs_f64());
        if succeeded {
            *locked(&done.succeeded) = Some(Instant::now());
        } else {
            done.failures.inc();
        }
    });
}

/// One step of that was done, or failed.
pub fn acted(action: &'static str, succeeded: bool) {
    let outcome = if succeeded { "done" } else { "failed" };
    let labels = vec![
        ("action", action.to_owned()),
        ("outcome", outcome.to_owned()),
    ];
    count(|done| {
        done.actions.get_or_create(&labels).inc();
    });
}

/// This node's lease was acquired or renewed; a reservation never expires.
pub fn lease_expires(at: Option<Instant>) {
    count(|done| *locked(&done.lease_ends) = at);
}

/// Something was put right that nobody asked to be otherwise.
pub fn drift_repaired(action: &'static str) {
    let labels = vec![("action", action.to_owned())];
    count(|done| {
        done.drift.get_or_create(&labels).inc();
    });
}

/// The leases of others, by what they are for this node.
pub fn count_peers(states: &PeerStates) {
    for (state, peers) in states.by_name() {
        let labels = vec![("state", state.to_owned())];
        let peers = i64::try_from(peers).unwrap_or(i64::MAX);
        count(|done| {
            done.peers.get_or_create(&labels).set(peers);
        });
    }
}

/// What the datastore does not let succeed at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    pub since: Instant,
    pub error: String,
}

/// `what` is asked of the datastore in vain.
pub fn datastore_is_silent(what: &str, silence: Silence) {
    count(|done| {
        locked(&done.silences).insert(what.to_owned(), silence);
    });
}

/// `what` has succeeded, or is not asked any more.
pub fn datastore_answers(what: &str) {
    count(|done| {
        locked(&done.silences).remove(what);
    });
}

/// All that is asked in vain.
#[must_use]
pub fn silences() -> BTreeMap<String, Silence> {
    let mut all = BTreeMap::new();
    count(|done| all.clone_from(&locked(&done.silences)));
    all
}

/// What is wrong with this node's place in the cluster, as the datastore has it; `None`: nothing.
pub fn place_is(misplaced: Option<&str>) {
    count(|done| *locked(&done.misplaced) = misplaced.map(str::to_owned));
}

#[must_use]
pub fn misplaced() -> Option<String> {
    let mut misplaced = None;
    count(|done| misplaced.clone_from(&locked(&done.misplaced)));
    misplaced
}

/// Following leases was interrupted and begins anew.
pub fn datastore_troubled() {
    count(|done| {
        done.datastore_troubles.inc();
    });
}

/// The kernel was asked for the way to so many peers.
pub fn looked_up(peers: usize) {
    count(|done| {
        done.next_hop_lookups.inc_by(peers as u64);
    });
}

/// The kernel announced more than fits into the socket.
pub fn netlink_overrun() {
    count(|done| {
        done.netlink_overruns.inc();
    });
}

/// The SNAT table was walked: so many entries were there, so many flows were over.
pub fn swept(entries: usize, flows: usize) {
    count(|done| {
        done.snat_entries
            .set(i64::try_from(entries).unwrap_or(i64::MAX));
        done.snat_swept.inc_by(flows as u64);
    });
}

fn locked<T>(instant: &Mutex<T>) -> MutexGuard<'_, T> {
    instant.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Named at the moment of asking: whoever set the clock since has moved the name, not the instant.
fn named(instant: &Mutex<Option<Instant>>) -> Gauge {
    let gauge = Gauge::default();
    let instant = *locked(instant);
    gauge.set(instant.map_or(0, |instant| unix_seconds(Moment::of(instant))));
    gauge
}

fn unix_seconds(moment: Moment) -> i64 {
    i64::try_from(moment.unix().as_secs()).unwrap_or(i64::MAX)
}

impl Done {
    /// Metrics are handles: what is registered is shared, not copied.
    fn register(&self, registry: &mut Registry) {
        let build = Family::<Labels, Gauge>::default();
        build
            .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())])
            .set(1);
        registry.register("build_info", "Version of the running agent", build);
        registry.register(
            "reconcile_duration_seconds",
            "Time to compare the node with what is wanted and to change it",
            self.reconciles.clone(),
        );
        registry.register(
            "reconcile_failures",
            "Reconciles that failed and are tried again",
            self.failures.clone(),
        );
        registry.register(
            "reconcile_last_success_timestamp_seconds",
            "When the node last was what it should be",
            named(&self.succeeded),
        );
        registry.register(
            "reconcile_actions",
            "Steps taken to change the node",
            self.actions.clone(),
        );
        registry.register(
            "drift_repaired",
            "Steps that put right what somebody else had changed",
            self.drift.clone(),
        );
        registry.register(
            "peers",
            "Leases of other nodes, by how they are reached",
            self.peers.clone(),
        );
        registry.register(
            "lease_expiry_timestamp_seconds",
            "When this node's lease expires if it is not renewed; 0 for a reservation",
            named(&self.lease_ends),
        );
        registry.register(
            "watch_restarts",
            "Interruptions of following the leases",
            self.datastore_troubles.clone(),
        );
        registry.register(
            "netlink_overruns",
            "Announcements of the kernel lost, and made up for by a full look",
            self.netlink_overruns.clone(),
        );
        registry.register(
            "next_hop_lookups",
            "Peers whose way the kernel was asked for",
            self.next_hop_lookups.clone(),
        );
        registry.register(
            "snat_entries",
            "Entries in the SNAT table when it was last swept; two for a translated flow",
            self.snat_entries.clone(),
        );
        registry.register(
            "snat_swept_flows",
            "Flows removed from the SNAT table because they were over",
            self.snat_swept.clone(),
        );
    }
}

/// How many leases there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStates {
    /// Reached by VXLAN.
    pub tunnel: usize,
    /// Reached by a route to the node itself: host-gw, `DirectRouting`.
    pub direct: usize,
    /// The kernel knows no way to the node: packets are dropped.
    pub no_route: usize,
    /// It knows one, which leads nowhere: the link is dead, or the next hop does not answer.
    pub no_answer: usize,
    /// Damaged, of another backend, or naming this node: nothing is sent there.
    pub ignored: usize,
}

impl PeerStates {
    const fn by_name(&self) -> [(&'static str, usize); 5] {
        [
            ("tunnel", self.tunnel),
            ("direct", self.direct),
            ("no_route", self.no_route),
            ("no_answer", self.no_answer),
            ("ignored", self.ignored),
        ]
    }
}
