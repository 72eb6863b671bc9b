//! Metrics in OpenMetrics text: what the agent did since its start, and what is pinned at the moment.
//!
//! Names and alerts are in docs/metrics.md.

mod pinned;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::dataplane::view::View;

/// Label names and values.
type Labels = Vec<(&'static str, String)>;

const PREFIX: &str = "flannel_ebpf";

/// `Content-Type` of the answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a change of one peer to the first start on a busy node.
const RECONCILE_BUCKETS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// What this process did. A process is one agent, so there is one of these.
#[derive(Debug)]
struct Done {
    reconciles: Histogram,
    failures: Counter,
    last_success: Gauge,
    actions: Family<Labels, Counter>,
    lease_expiry: Gauge,
    datastore_troubles: Counter,
    netlink_overruns: Counter,
    next_hop_lookups: Counter,
    snat_entries: Gauge,
    snat_swept: Counter,
}

static DONE: LazyLock<Done> = LazyLock::new(|| Done {
    reconciles: Histogram::new(RECONCILE_BUCKETS),
    failures: Counter::default(),
    last_success: Gauge::default(),
    actions: Family::default(),
    lease_expiry: Gauge::default(),
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
        DONE.last_success.set(unix_seconds(SystemTime::now()));
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
pub fn lease_expires(at: Option<SystemTime>) {
    DONE.lease_expiry.set(at.map_or(0, unix_seconds));
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

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Which network's pinned objects are shown.
#[derive(Debug, Clone)]
pub struct Exporter {
    pub bpffs: PathBuf,
    pub network: String,
}

impl Exporter {
    /// Everything as text. Blocks for as long as it takes to read the maps.
    ///
    /// # Errors
    /// If the text cannot be made, which only memory could cause.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        DONE.register(&mut registry);
        // Before the first reconcile, and of a host-gw network, nothing is pinned.
        if let Ok(view) = View::open(&self.bpffs, Some(&self.network)) {
            pinned::register(&view, &mut registry);
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
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
            self.last_success.clone(),
        );
        registry.register(
            "reconcile_actions",
            "Steps taken to change the node",
            self.actions.clone(),
        );
        registry.register(
            "lease_expiry_timestamp_seconds",
            "When this node's lease expires if it is not renewed; 0 for a reservation",
            self.lease_expiry.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn exporter() -> (tempfile::TempDir, Exporter) {
        let folder = tempfile::tempdir().unwrap();
        let exporter = Exporter {
            bpffs: folder.path().to_owned(),
            network: "/coreos.com/network".to_owned(),
        };
        (folder, exporter)
    }

    /// The value of the sample that starts with `name`.
    fn value(text: &str, name: &str) -> f64 {
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn what_was_done_is_counted() {
        let (_folder, exporter) = exporter();
        // Other tests of this process count, too.
        acted("test-only", true);
        acted("test-only", true);
        acted("test-only", false);
        reconciled(Duration::from_millis(3), true);
        lease_expires(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(77)));
        let text = exporter.text().unwrap();
        let actions = |outcome| {
            format!(
                "flannel_ebpf_reconcile_actions_total{{action=\"test-only\",outcome=\"{outcome}\"}}"
            )
        };
        assert_eq!(value(&text, &actions("done")), 2.0);
        assert_eq!(value(&text, &actions("failed")), 1.0);
        assert!(value(&text, "flannel_ebpf_reconcile_duration_seconds_count") >= 1.0);
        assert!(
            value(
                &text,
                "flannel_ebpf_reconcile_last_success_timestamp_seconds"
            ) > 1e9
        );
        assert!(text.contains("flannel_ebpf_build_info{version="), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn nothing_pinned_is_no_error() {
        let (_folder, exporter) = exporter();
        let text = exporter.text().unwrap();
        assert!(!text.contains("forwarded_packets"), "{text}");
    }
}
