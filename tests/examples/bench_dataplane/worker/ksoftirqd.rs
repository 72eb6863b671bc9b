//! CPU time of soft interrupts that were too much for the process they interrupted.

use std::fs;
use std::sync::OnceLock;

/// Seconds that all `ksoftirqd` threads have run so far.
pub(crate) fn cpu() -> f64 {
    static THREADS: OnceLock<Vec<String>> = OnceLock::new();
    let nanos: u64 = THREADS.get_or_init(threads).iter().map(run_time).sum();
    #[expect(clippy::cast_precision_loss, reason = "no thread runs for 2^52 us")]
    let micros = (nanos / 1000) as f64;
    micros / 1e6
}

fn threads() -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc");
    let folders = processes.filter_map(|e| e.ok()?.path().into_os_string().into_string().ok());
    let is_softirq = |folder: &String| {
        let name = fs::read_to_string(format!("{folder}/comm"));
        name.is_ok_and(|name| name.starts_with("ksoftirqd/"))
    };
    folders.filter(is_softirq).collect()
}

/// The first field is the time on a core, in nanoseconds.
fn run_time(folder: &String) -> u64 {
    let text = fs::read_to_string(format!("{folder}/schedstat")).unwrap_or_default();
    let first = text.split(' ').next().and_then(|n| n.parse().ok());
    first.unwrap_or(0)
}
