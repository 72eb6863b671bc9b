//! What the agent did since its start, counted where it is done. [`crate::daemon::metrics`] shows it.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
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

/// What this process did. A process is one agent, so there is one of these.
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
    netlink_overruns: Counter,
    next_hop_lookups: Counter,
    snat_entries: Gauge,
    snat_swept: Counter,
}

static DONE: LazyLock<Done> = LazyLock::new(|| Done {
    reconciles: Histogram::new(RECONCILE_BUCKETS),
    failures: Counter::default(),
    succeeded: Mutex::default(),
    actions: Family::default(),
    drift: Family::default(),
    peers: Family::default(),
    lease_ends: Mutex::default(),
    datastore_troubles: Counter::default(),
    netlink_overruns: Counter::default(),
    next_hop_lookups: Counter::default(),
    snat_entries: Gauge::default(),
    snat_swept: Counter::default(),
});

/// The node was compared with what is wanted, and brought there or not.
pub fn reconciled(took: Duration, succeeded: bool) {
    DONE.reconciles.observe(took.as_secs_f64());
    if succeeded {
        *locked(&DONE.succeeded) = Some(Instant::now());
    } else {
        DONE.failures.inc();
    }
}

/// One step of that was done, or failed.
pub fn acted(action: &'static str, succeeded: bool) {
    let outcome = if succeeded { "done" } else { "failed" };
    DONE.actions
        .get_or_create(&vec![
            ("action", action.to_owned()),
            ("outcome", outcome.to_owned()),
        ])
        .inc();
}

/// This node's lease was acquired or renewed; a reservation never expires.
pub fn lease_expires(at: Option<Instant>) {
    *locked(&DONE.lease_ends) = at;
}

/// Something was put right that nobody asked to be otherwise.
pub fn drift_repaired(action: &'static str) {
    DONE.drift
        .get_or_create(&vec![("action", action.to_owned())])
        .inc();
}

/// The leases of others, by what they are for this node.
pub fn count_peers(states: &PeerStates) {
    for (state, count) in states.by_name() {
        DONE.peers
            .get_or_create(&vec![("state", state.to_owned())])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Following leases was interrupted and begins anew.
pub fn datastore_troubled() {
    DONE.datastore_troubles.inc();
}

/// The kernel was asked for the way to so many peers.
pub fn looked_up(peers: usize) {
    DONE.next_hop_lookups.inc_by(peers as u64);
}

/// The kernel announced more than fits into the socket.
pub fn netlink_overrun() {
    DONE.netlink_overruns.inc();
}

/// The SNAT table was walked: so many entries were there, so many flows were over.
pub fn swept(entries: usize, flows: usize) {
    DONE.snat_entries
        .set(i64::try_from(entries).unwrap_or(i64::MAX));
    DONE.snat_swept.inc_by(flows as u64);
}

fn locked(instant: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
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

/// Puts them all into `registry`.
pub(crate) fn register(registry: &mut Registry) {
    DONE.register(registry);
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
