//! `cargo xtask test --sig-network`: Kubernetes' own end-to-end network tests, in a cluster whose network is ours or flannel's.

mod choice;
mod ginkgo;
mod left_out;
mod report;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use self::choice::Choice;
use self::ginkgo::{LOG, Progress, REPORT};
use self::report::Outcomes;
use crate::cluster::{Cluster, target};
use crate::kubectl::Kubectl;
use crate::manifests::{flannels, ours};
use crate::scenarios::policy_engine;

const COREDNS: &str = include_str!("coredns.yaml");

/// So much of what a failure says.
const LINES: usize = 12;
/// Those that need a third node or three zones say so themselves. All others would prove nothing.
const SKIP_THEMSELVES: usize = 8;

pub(crate) fn run(words: &[String]) -> ExitCode {
    let choice = Choice::of(words);
    let begun = Instant::now();
    let cluster = Cluster::with_images(&choice.mode, &["e2e.tar"]);
    let kubectl = &cluster.kubectl;
    let ready = catch_unwind(AssertUnwindSafe(|| {
        kubectl.apply(&if choice.flannel { flannels() } else { ours() });
        kubectl.rolled_out();
        kubectl.nodes_ready();
        serve_names(kubectl);
        way_to_pods(kubectl);
    }));
    if ready.is_err() {
        println!("sig-network: no network\n{}", cluster.logs());
        return ExitCode::FAILURE;
    }
    // They go with the cluster.
    let _engines: Vec<_> = match choice.netpol {
        true => cluster
            .machines
            .iter()
            .map(|it| policy_engine(it, kubectl))
            .collect(),
        false => Vec::new(),
    };
    let daemon = if choice.flannel { "flannel" } else { "ours" };
    println!(
        "sig-network: a cluster of two nodes on {daemon}, kube-proxy in mode {} ({:.0} s)",
        choice.mode,
        begun.elapsed().as_secs_f32()
    );
    let folder = target().join("sig-network").join(choice.title());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("make a folder for the report");
    let mut progress = Progress::default();
    let ended_well = ginkgo::run(kubectl, &choice, &folder, |line| {
        if let Some(said) = progress.read(line) {
            println!("{said}");
        }
    });
    let outcomes = catch_unwind(|| report::read(&folder.join(REPORT), &choice));
    let Ok(outcomes) = outcomes else {
        println!("sig-network: no report; see {}", folder.join(LOG).display());
        return ExitCode::FAILURE;
    };
    show(&outcomes);
    println!(
        "sig-network: on {daemon}, kube-proxy in mode {}: {} passed, {} failed, {} skipped by themselves, {} left out ({:.0} s)",
        choice.mode,
        outcomes.passed.len(),
        outcomes.failed.len(),
        outcomes.skipped.len(),
        outcomes.left_out.values().map(Vec::len).sum::<usize>(),
        begun.elapsed().as_secs_f32()
    );
    if outcomes.passed.is_empty() {
        println!("sig-network: no test ran: {words:?}");
        return ExitCode::FAILURE;
    }
    if outcomes.skipped.len() > SKIP_THEMSELVES {
        println!(
            "sig-network: more tests skipped themselves than the {SKIP_THEMSELVES} for which two nodes are too few"
        );
        return ExitCode::FAILURE;
    }
    if ended_well && outcomes.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "{}\nsig-network: the whole log is {}",
        cluster.logs(),
        folder.join(LOG).display()
    );
    ExitCode::FAILURE
}

/// The cluster's DNS, one pod a node.
fn serve_names(kubectl: &Kubectl) {
    kubectl.apply(COREDNS);
    kubectl.run(&[
        "--namespace=kube-system",
        "rollout",
        "status",
        "--timeout=240s",
        "deployment/coredns",
    ]);
}

/// The API server asks pods for who asks it, and is no node here: it is led there by hand, as a control plane apart from its nodes is.
fn way_to_pods(kubectl: &Kubectl) {
    let nodes = kubectl.get(&["nodes"]);
    for node in nodes["items"].as_array().expect("a list of nodes") {
        let subnet = node["spec"]["podCIDR"].as_str().expect("it has a subnet");
        let addresses = node["status"]["addresses"].as_array();
        let address = addresses
            .into_iter()
            .flatten()
            .find(|it| it["type"] == "InternalIP");
        let address = address.and_then(|it| it["address"].as_str());
        let via = address.expect("it has an address");
        kubectl
            .api()
            .netns()
            .run(&format!("ip route replace {subnet} via {via}"));
    }
}

/// What `Progress` has not shown.
fn show(outcomes: &Outcomes) {
    let short = |name: &str| name.trim_start_matches("[sig-network] ").to_owned();
    for (reason, names) in &outcomes.left_out {
        println!("sig-network: left out, {reason}: {}", names.len());
        names.iter().for_each(|name| println!("   {}", short(name)));
    }
    for (name, reason) in &outcomes.skipped {
        let reason = reason.lines().next().unwrap_or_default();
        println!("sig-network: skipped: {}: {reason}", short(name));
    }
    for (name, message) in &outcomes.failed {
        println!("sig-network: failed: {}", short(name));
        message
            .lines()
            .take(LINES)
            .for_each(|line| println!("   {line}"));
    }
}
