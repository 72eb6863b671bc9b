//! Which tests run on which kernel.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

/// Kernels of `all`: the oldest and the newest that are said to work, what Debian ships between them, and one
/// that is too old, which has to be told so.
pub(super) const ALL: &[&str] = &["5.10", "6.1", "6.12", "newest"];

/// Kernels below the floor: only the tests of what the agent says there.
const TOO_OLD: &[&str] = &["5.10"];

/// Programs without `packet_` in their names that run everywhere.
const SCENARIOS: &[&str] = &[
    "agent_dataplane",
    "agent_net",
    "e2e_anchor",
    "e2e_bundle",
    "e2e_direct_routing",
    "e2e_drift",
    "e2e_fast_path",
    "e2e_forward_rules",
    "e2e_host_gw",
    "e2e_ipip",
    "e2e_migration",
    "e2e_restart",
    "e2e_services",
    "e2e_snat",
    "e2e_takeover",
    "e2e_two_nodes",
    "e2e_two_networks",
    "e2e_upgrade",
    "e2e_uplinks",
    "e2e_xdp",
];

/// Programs with tests that need what not every machine's kernel has, and are ignored there.
const DEVICES: &[&str] = &[
    "e2e_back_to_flanneld",
    "e2e_backends",
    "e2e_doctor_peers",
    "e2e_esp",
    "e2e_ipip",
    "e2e_ipsec",
    "e2e_netem",
    "e2e_uplink_devices",
    "e2e_wireguard",
];

/// Kernels before 6.6, whose hooks are filters at clsact.
const WITHOUT_TCX: &[&str] = &["6.1"];

/// What is different there, and cases of what asks most of the hooks.
const AT_CLSACT: &[(&str, &[&str])] = &[
    ("e2e_bandwidth_clsact", &[]),
    ("e2e_clsact", &[]),
    ("e2e_clsact_qdisc", &[]),
    ("e2e_fast_ports", &["_Vxlan::", "_HostGw::", "_Flanneld::"]),
    ("e2e_fast_rules", &["_Vxlan", "_HostGw", "_Flanneld"]),
    ("e2e_foreign_tcx", &["what_a_filter_hides"]),
    ("e2e_forged_tunnel", &["case_1", "case_2", "not_believed"]),
    ("e2e_ipsec", &["case_1", "case_7"]),
    (
        "e2e_policy_routing",
        &["mix_1", "mix_4", "fast_flow", "no_way"],
    ),
];

/// A few minutes of emulation: the two ends of the tunnel, and two nodes whose pods talk.
const BRIEF: &[(&str, &[&str])] = &[
    ("packet_overlay_tx", &[]),
    ("packet_uplink_rx", &[]),
    ("packet_bridge", &[]),
    ("packet_gbp", &[]),
    ("verifier_budget", &["every_program_is_taken"]),
    (
        "e2e_two_nodes",
        &[
            "pods_ping_each_other_over_two_hops::mix_1",
            "tcp_delivers_every_byte::mix_1_Mix__Ours::wire_1",
        ],
    ),
];

/// One test program, and which of its tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
}

impl Run {
    fn new(program: &str, arguments: &[&str]) -> Self {
        Self {
            program: program.to_owned(),
            // Two: a name and its result then come in one line, and there are two processors.
            arguments: ["--test-threads=2"]
                .iter()
                .chain(arguments)
                .map(|&word| word.to_owned())
                .collect(),
        }
    }
}

/// What runs on `kernel`; `passed_on` are arguments of `cargo test`, which choose among all.
pub(super) fn of(
    kernel: &str,
    brief: bool,
    passed_on: &[OsString],
    workspace: &Workspace,
) -> Result<Vec<Run>> {
    if !passed_on.is_empty() {
        return chosen(passed_on);
    }
    if TOO_OLD.contains(&kernel) {
        return Ok(vec![Run::new(
            "e2e_kernel_floor",
            &["--ignored", "too_old"],
        )]);
    }
    if brief {
        return Ok(BRIEF
            .iter()
            .map(|(program, arguments)| Run::new(program, arguments))
            .collect());
    }
    let mut programs: Vec<String> = packet_programs(workspace)?;
    programs.extend(SCENARIOS.iter().map(|&name| name.to_owned()));
    let everywhere = programs.iter().map(|program| Run::new(program, &[]));
    let devices = DEVICES
        .iter()
        .map(|program| Run::new(program, &["--ignored"]));
    let at_clsact = AT_CLSACT
        .iter()
        .filter(|_| WITHOUT_TCX.contains(&kernel))
        .map(|(program, arguments)| Run::new(program, arguments));
    Ok(everywhere.chain(devices).chain(at_clsact).collect())
}

fn packet_programs(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root().join("tests/tests");
    let mut names: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("read {}", folder.display()))?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".rs").unwrap_or(&name).to_owned())
        })
        .filter(|name| name.starts_with("packet_"))
        .collect();
    names.sort();
    Ok(names)
}

/// `--test FILE`, once or more; the rest goes to each.
fn chosen(passed_on: &[OsString]) -> Result<Vec<Run>> {
    let (mut programs, mut arguments) = (Vec::new(), Vec::new());
    let mut words = passed_on
        .iter()
        .map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = words.next() {
        match word.as_str() {
            "--test" => programs.push(words.next().context("--test without a file")?),
            "--" => {}
            _ => arguments.push(word),
        }
    }
    if programs.is_empty() {
        bail!("on another kernel, name the files whose tests you want: `--test packet_bridge`");
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(programs
        .iter()
        .map(|program| Run::new(program, &arguments))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Workspace {
        Workspace::locate().unwrap()
    }

    #[test]
    fn every_packet_test_runs_on_a_kernel_that_is_supported() {
        let runs = of("6.1", false, &[], &here()).unwrap();
        let has = |name: &str| runs.iter().any(|run| run.program == name);
        assert!(has("packet_overlay_tx") && has("packet_bridge") && has("e2e_restart"));
        assert!(!has("e2e_kernel_floor"));
        let devices = Run::new("e2e_uplink_devices", &["--ignored"]);
        assert!(runs.contains(&devices));
    }

    #[test]
    fn filters_at_clsact_are_tried_where_there_is_nothing_else() {
        let runs = |kernel| of(kernel, false, &[], &here()).unwrap();
        let has = |kernel| runs(kernel).contains(&Run::new("e2e_clsact", &[]));
        assert!(has("6.1"));
        assert!(!has("6.12") && !has("newest"));
    }

    #[test]
    fn every_program_of_the_plans_exists() {
        for kernel in ALL {
            for brief in [false, true] {
                for run in of(kernel, brief, &[], &here()).unwrap() {
                    let file = here().root().join("tests/tests").join(&run.program);
                    assert!(
                        file.is_dir() || file.with_extension("rs").is_file(),
                        "{run:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn tests_can_be_chosen() {
        let words = ["--test", "packet_bridge", "others", "--", "--nocapture"].map(OsString::from);
        assert_eq!(
            of("6.1", false, &words, &here()).unwrap(),
            [Run::new("packet_bridge", &["others", "--nocapture"])]
        );
        assert!(of("6.1", false, &["others".into()], &here()).is_err());
    }
}
