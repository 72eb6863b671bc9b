//! What the agent needs of its kernel and its rights, checked before anything is touched.

use std::io;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};

use super::{DataplaneError, encap};

/// The oldest kernel that all tests pass on (`cargo xtask test --kernel`). What the programs need for sure is from 5.13.
pub(crate) const OLDEST_KERNEL: &str = "6.1";

/// `linux/capability.h`.
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// 0: off; 2: with a trace for its developers.
pub(crate) const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Lines of the verifier's log worth showing: the reason is at the end.
const LOG_LINES: usize = 12;

/// Fails if a capability is missing that every later step needs.
pub(crate) fn check_capabilities() -> Result<(), DataplaneError> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    // Without /proc the kernel itself will say no.
    let missing = effective(&status).map(missing).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DataplaneError::Capabilities { missing })
}

/// What is left out without CAP_SYS_ADMIN, which the kernel asks of whoever opens a program or map by its number, and of whoever mounts.
pub(crate) const WITHOUT_SYS_ADMIN: &str = "what programs of other agents on this node were told is not known (packets with a mark \
    for their networks that take the sockets are lost, and networks at one UDP port are not refused), programs of others ahead of ours \
    have no name, and a BPF file system that somebody unmounts is not mounted again";

/// Whether a process (`self`, or its number) lacks CAP_SYS_ADMIN. Without /proc the kernel itself will say no.
pub(crate) fn lacks_sys_admin(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    is_without_sys_admin(&status)
}

fn is_without_sys_admin(status: &str) -> bool {
    effective(status).is_some_and(|effective| effective & SYS_ADMIN == 0)
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    // Before 5.8 CAP_SYS_ADMIN stood for CAP_BPF and CAP_PERFMON, and still does. Without the latter the verifier takes no program
    // that writes where a variable says, and only says where.
    [
        (NET_ADMIN, "CAP_NET_ADMIN"),
        (BPF | SYS_ADMIN, "CAP_BPF"),
        (PERFMON | SYS_ADMIN, "CAP_PERFMON"),
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
    if io_error.raw_os_error() == Some(libc::EMFILE) {
        return DataplaneError::OpenFiles { program };
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

/// Whether the kernel only interprets programs: then it takes none that has both functions and tail calls, as ours have
/// (`check_max_stack_depth`). Only the initial network namespace has the file; who is elsewhere hears of it when a program is
/// refused.
fn is_jit_off(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "0")
}

/// Fails if the kernel cannot carry packets as the programs want it, although it may load them.
///
/// # Errors
/// Names everything that is missing.
pub(crate) fn check_kernel() -> Result<(), DataplaneError> {
    if is_jit_off(Path::new(JIT)) {
        return Err(DataplaneError::NoJit);
    }
    if encap::is_supported() == Some(false) {
        return Err(DataplaneError::KernelTooOld { missing: lacking() });
    }
    Ok(())
}

/// What the programs call of the kernel; those for TC, then those that only the programs for XDP need.
const HELPERS: [(BpfHelper, &str); 29] = [
    (BpfHelper::BPF_FUNC_map_lookup_elem, "bpf_map_lookup_elem"),
    (BpfHelper::BPF_FUNC_map_update_elem, "bpf_map_update_elem"),
    (BpfHelper::BPF_FUNC_map_delete_elem, "bpf_map_delete_elem"),
    (BpfHelper::BPF_FUNC_ktime_get_ns, "bpf_ktime_get_ns"),
    (BpfHelper::BPF_FUNC_get_prandom_u32, "bpf_get_prandom_u32"),
    (BpfHelper::BPF_FUNC_skb_store_bytes, "bpf_skb_store_bytes"),
    (BpfHelper::BPF_FUNC_l4_csum_replace, "bpf_l4_csum_replace"),
    (BpfHelper::BPF_FUNC_tail_call, "bpf_tail_call"),
    (BpfHelper::BPF_FUNC_skb_vlan_pop, "bpf_skb_vlan_pop"),
    (
        BpfHelper::BPF_FUNC_skb_get_tunnel_key,
        "bpf_skb_get_tunnel_key",
    ),
    (BpfHelper::BPF_FUNC_skb_change_type, "bpf_skb_change_type"),
    (BpfHelper::BPF_FUNC_redirect, "bpf_redirect"),
    (BpfHelper::BPF_FUNC_skb_load_bytes, "bpf_skb_load_bytes"),
    (BpfHelper::BPF_FUNC_get_hash_recalc, "bpf_get_hash_recalc"),
    (BpfHelper::BPF_FUNC_skb_adjust_room, "bpf_skb_adjust_room"),
    (BpfHelper::BPF_FUNC_skb_change_head, "bpf_skb_change_head"),
    (BpfHelper::BPF_FUNC_fib_lookup, "bpf_fib_lookup"),
    (BpfHelper::BPF_FUNC_ringbuf_reserve, "bpf_ringbuf_reserve"),
    (BpfHelper::BPF_FUNC_ringbuf_submit, "bpf_ringbuf_submit"),
    (
        BpfHelper::BPF_FUNC_perf_event_output,
        "bpf_perf_event_output",
    ),
    (BpfHelper::BPF_FUNC_sk_lookup_udp, "bpf_sk_lookup_udp"),
    (BpfHelper::BPF_FUNC_skc_lookup_tcp, "bpf_skc_lookup_tcp"),
    (BpfHelper::BPF_FUNC_sk_release, "bpf_sk_release"),
    (BpfHelper::BPF_FUNC_jiffies64, "bpf_jiffies64"),
    (BpfHelper::BPF_FUNC_csum_level, "bpf_csum_level"),
    (BpfHelper::BPF_FUNC_redirect_neigh, "bpf_redirect_neigh"),
    (BpfHelper::BPF_FUNC_redirect_peer, "bpf_redirect_peer"),
    (BpfHelper::BPF_FUNC_check_mtu, "bpf_check_mtu"),
    (
        BpfHelper::BPF_FUNC_ktime_get_coarse_ns,
        "bpf_ktime_get_coarse_ns",
    ),
];
const XDP_HELPERS: [(BpfHelper, &str); 5] = [
    (BpfHelper::BPF_FUNC_xdp_adjust_head, "bpf_xdp_adjust_head"),
    (BpfHelper::BPF_FUNC_xdp_adjust_meta, "bpf_xdp_adjust_meta"),
    (BpfHelper::BPF_FUNC_xdp_get_buff_len, "bpf_xdp_get_buff_len"),
    (BpfHelper::BPF_FUNC_xdp_load_bytes, "bpf_xdp_load_bytes"),
    (BpfHelper::BPF_FUNC_xdp_store_bytes, "bpf_xdp_store_bytes"),
];
const MAPS: [(MapType, &str); 8] = [
    (MapType::Array, "array maps"),
    (MapType::Hash, "hash maps"),
    (MapType::LpmTrie, "LPM trie maps"),
    (MapType::LruHash, "LRU hash maps"),
    (MapType::PerCpuArray, "per-CPU array maps"),
    (MapType::PerfEventArray, "perf event arrays"),
    (MapType::ProgramArray, "program arrays"),
    (MapType::RingBuf, "ring buffers"),
];

/// Features of the kernel that the programs for TC use and this one has not. A probe without a clear answer
/// counts as "has it": the verifier's own words are better than a guess.
fn lacking() -> Vec<String> {
    let helpers = lacking_helpers(ProgramType::SchedClassifier, &HELPERS);
    let maps = MAPS
        .into_iter()
        .filter(|(kind, _)| matches!(is_map_supported(*kind), Ok(false)))
        .map(|(_, name)| name);
    let encap = (encap::is_supported() == Some(false)).then_some("BPF_F_ADJ_ROOM_ENCAP_L2_ETH");
    helpers
        .chain(maps)
        .chain(encap)
        .map(str::to_owned)
        .collect()
}

/// The same for the programs for XDP, without which everything works.
pub(super) fn lacking_for_xdp() -> Vec<&'static str> {
    lacking_helpers(ProgramType::Xdp, &XDP_HELPERS).collect()
}

fn lacking_helpers(
    kind: ProgramType,
    helpers: &'static [(BpfHelper, &'static str)],
) -> impl Iterator<Item = &'static str> {
    let lacks = move |helper: BpfHelper| matches!(is_helper_supported(kind, helper), Ok(false));
    helpers
        .iter()
        .filter(move |(helper, _)| lacks(*helper))
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn root_lacks_nothing() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(missing(effective(status).unwrap()), <[&str; 0]>::default());
    }

    #[test]
    fn missing_capabilities_are_named() {
        let all = ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_NET_RAW"];
        assert_eq!(missing(0), all);
        assert_eq!(missing(SYS_ADMIN | NET_RAW), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(NET_ADMIN | NET_RAW | BPF), ["CAP_PERFMON"]);
        let error = DataplaneError::Capabilities {
            missing: missing(NET_ADMIN | NET_RAW | PERFMON),
        };
        assert!(error.to_string().contains("lacks CAP_BPF: "), "{error}");
    }

    #[test]
    fn without_the_right_to_look_is_not_without_proc() {
        let status = |effective: u64| format!("CapPrm:\t0\nCapEff:\t{effective:016x}\n");
        assert!(is_without_sys_admin(&status(NET_ADMIN | BPF | PERFMON)));
        assert!(!is_without_sys_admin(&status(NET_ADMIN | SYS_ADMIN)));
        assert!(!is_without_sys_admin(""));
        assert!(!lacks_sys_admin("self"), "tests run as root");
    }

    /// The verifier was content, and its map or program has no number left to be known by.
    #[test]
    fn a_limit_of_open_files_is_named() {
        let error = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::EMFILE),
            verifier_log: aya_obj::VerifierLog::new("safe".to_owned()),
        };
        let said = explain("snat_open", error).to_string();
        assert!(
            said.contains("LimitNOFILE") && !said.contains("safe"),
            "{said}"
        );
    }

    #[test]
    fn a_kernel_that_only_interprets_is_told_from_others() {
        let is_off = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            is_jit_off(file.path())
        };
        assert!(is_off("0\n"));
        assert!(!is_off("1\n") && !is_off("2\n"));
        assert!(!is_jit_off(Path::new("/nowhere/bpf_jit_enable")));
        let error = DataplaneError::NoJit.to_string();
        assert!(
            error.contains("sysctl -w net.core.bpf_jit_enable=1"),
            "{error}"
        );
    }

    #[test]
    fn this_kernel_lacks_nothing() {
        assert_eq!(lacking(), <[String; 0]>::default());
        assert_eq!(lacking_for_xdp(), <[&str; 0]>::default());
        check_kernel().unwrap();
    }

    /// Numbers of the kernel's functions that the object calls.
    fn called() -> BTreeSet<u32> {
        const CALL: u8 = 0x85;
        let object = aya_obj::Object::parse(super::super::embedded::EMBEDDED).unwrap();
        object
            .functions
            .values()
            .flat_map(|function| &function.instructions)
            // Other sources are calls within the object, and of kfuncs.
            .filter(|instruction| instruction.code == CALL && instruction.src_reg() == 0)
            .map(|instruction| instruction.imm.cast_unsigned())
            .collect()
    }

    #[test]
    fn everything_that_the_programs_call_is_probed_for() {
        let known = HELPERS.iter().chain(&XDP_HELPERS);
        let known: BTreeSet<u32> = known.map(|(helper, _)| *helper as u32).collect();
        let unknown: Vec<_> = called().difference(&known).copied().collect();
        assert_eq!(unknown, <[u32; 0]>::default());
    }

    #[test]
    fn nothing_is_asked_for_that_no_program_calls() {
        let called = called();
        let helpers = HELPERS.iter().chain(&XDP_HELPERS);
        let unused: Vec<_> = helpers
            .filter(|(helper, _)| !called.contains(&(*helper as u32)))
            .map(|(_, name)| *name)
            .collect();
        assert_eq!(unused, <[&str; 0]>::default());
    }
}
