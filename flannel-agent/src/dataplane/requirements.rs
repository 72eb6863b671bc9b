//! What the agent needs of its kernel and its rights, checked before anything is touched.

use std::io;

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};

use super::DataplaneError;

/// `linux/capability.h`.
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
const BPF: u64 = 1 << 39;

/// Lines of the verifier's log worth showing: the reason is at the end.
const LOG_LINES: usize = 12;

/// Fails if a capability is missing that every later step needs.
pub(super) fn check_capabilities() -> Result<(), DataplaneError> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    // Without /proc the kernel itself will say no.
    let missing = effective(&status).map(missing).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DataplaneError::Capabilities { missing })
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    // Before 5.8 CAP_SYS_ADMIN stood for CAP_BPF, and still does.
    [
        (NET_ADMIN, "CAP_NET_ADMIN"),
        (BPF | SYS_ADMIN, "CAP_BPF"),
        (NET_RAW, "CAP_NET_RAW"),
    ]
    .into_iter()
    .filter(|(any_of, _)| effective & any_of == 0)
    .map(|(_, name)| name)
    .collect()
}

/// Says why a program did not load: rights, an old kernel, or the verifier.
pub(super) fn explain(program: &'static str, error: ProgramError) -> DataplaneError {
    let (io_error, log) = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => (io_error, verifier_log.to_string()),
        error => return DataplaneError::load(program, error),
    };
    if io_error.kind() == io::ErrorKind::PermissionDenied && log.trim().is_empty() {
        return DataplaneError::NotAllowed {
            program,
            error: io_error,
        };
    }
    let missing = lacking();
    if !missing.is_empty() {
        return DataplaneError::KernelTooOld { missing };
    }
    let lines: Vec<_> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
    DataplaneError::Rejected {
        program,
        error: io_error,
        log: tail.join(" | "),
    }
}

/// Features of the kernel that the programs use and this one has not. A probe without a clear answer
/// counts as "has it": the verifier's own words are better than a guess.
fn lacking() -> Vec<String> {
    const HELPERS: [(BpfHelper, &str); 5] = [
        (BpfHelper::BPF_FUNC_skb_adjust_room, "bpf_skb_adjust_room"),
        (BpfHelper::BPF_FUNC_skb_store_bytes, "bpf_skb_store_bytes"),
        (BpfHelper::BPF_FUNC_redirect, "bpf_redirect"),
        (BpfHelper::BPF_FUNC_redirect_neigh, "bpf_redirect_neigh"),
        (BpfHelper::BPF_FUNC_csum_level, "bpf_csum_level"),
    ];
    const MAPS: [(MapType, &str); 3] = [
        (MapType::LpmTrie, "LPM trie maps"),
        (MapType::Hash, "hash maps"),
        (MapType::PerCpuArray, "per-CPU array maps"),
    ];
    let helpers = HELPERS.into_iter().filter(|(helper, _)| {
        matches!(
            is_helper_supported(ProgramType::SchedClassifier, *helper),
            Ok(false)
        )
    });
    let maps = MAPS
        .into_iter()
        .filter(|(kind, _)| matches!(is_map_supported(*kind), Ok(false)));
    helpers
        .map(|(_, name)| name.to_owned())
        .chain(maps.map(|(_, name)| name.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_lacks_nothing() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(missing(effective(status).unwrap()), <[&str; 0]>::default());
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_BPF", "CAP_NET_RAW"]);
        assert_eq!(missing(SYS_ADMIN | NET_RAW), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(NET_ADMIN | NET_RAW), ["CAP_BPF"]);
        let error = DataplaneError::Capabilities {
            missing: missing(NET_ADMIN | NET_RAW),
        };
        assert!(error.to_string().contains("lacks CAP_BPF: "), "{error}");
    }

    #[test]
    fn this_kernel_lacks_nothing() {
        assert_eq!(lacking(), <[String; 0]>::default());
    }
}
