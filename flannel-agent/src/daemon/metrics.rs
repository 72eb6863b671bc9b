//! Metrics in OpenMetrics text: what the agent did since its start, and what is pinned at the moment.
//!
//! Names and alerts are in docs/metrics.md.

mod families;
mod peers;
mod pinned;

use std::collections::BTreeMap;
use std::path::PathBuf;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::base::counters::Counters;
use crate::dataplane::view::View;
use crate::settings::Config;
use families::Families;

const PREFIX: &str = "flannel_ebpf";

/// `Content-Type` of the answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Which network's pinned objects are shown.
#[derive(Debug, Clone)]
pub struct Exporter {
    pub bpffs: PathBuf,
    pub network: String,
    pub counters: Counters,
}

impl Exporter {
    #[must_use]
    pub fn new(config: &Config, counters: Counters) -> Self {
        Self {
            bpffs: config.bpffs.clone(),
            network: config.etcd.prefix.clone(),
            counters,
        }
    }

    /// Everything as text. Blocks for as long as it takes to read the maps.
    ///
    /// # Errors
    /// If the text cannot be made, which only memory could cause.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        self.counters.register(&mut registry);
        // Before the first reconcile, and of a host-gw network, nothing is pinned.
        if let Ok(view) = View::open(&self.bpffs, Some(&self.network)) {
            pinned::register(&view, &mut registry);
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    /// The same of several networks, of which each sample names its own.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn text_of(networks: &BTreeMap<String, Self>) -> Result<String, std::fmt::Error> {
        let mut families = Families::default();
        for (name, exporter) in networks {
            families.add(name, &exporter.text()?);
        }
        Ok(families.text())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::base::counters::{acted, drift_repaired, lease_expires, reconciled};
    use crate::base::wall::Moment;

    fn exporter() -> (tempfile::TempDir, Exporter) {
        let folder = tempfile::tempdir().unwrap();
        let exporter = Exporter {
            bpffs: folder.path().to_owned(),
            network: "/coreos.com/network".to_owned(),
            counters: Counters::of_the_process(),
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
        let hour = Duration::from_hours(1);
        lease_expires(Some(Instant::now() + hour));
        drift_repaired("test-only");
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
        let expiry = value(&text, "flannel_ebpf_lease_expiry_timestamp_seconds");
        let ahead = expiry - Moment::now().unix().as_secs_f64();
        assert!((0.0..=3600.0).contains(&ahead), "{ahead}");
        let drift = "flannel_ebpf_drift_repaired_total{action=\"test-only\"}";
        assert_eq!(value(&text, drift), 1.0);
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
