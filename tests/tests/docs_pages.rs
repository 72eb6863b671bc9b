//! What the pages for operators quote is there: commands, flags, words of the log, reasons, metrics.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Command;
use rstest::rstest;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All of a crate's code, with texts that go over several lines in one.
fn sources() -> String {
    fn gather(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(&path, all);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut all = String::new();
    for folder in ["flannel-agent/src", "flannel-common/src"] {
        gather(&root().join(folder), &mut all);
    }
    let mut joined = String::new();
    for line in all.split("\\\n") {
        joined.push_str(line.trim_start());
    }
    joined
}

/// What stands between backticks, outside of blocks of code.
fn spans(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.split("\n```").step_by(2).collect();
    let spans = prose.join("\n");
    let spans = spans.split('`').skip(1).step_by(2);
    spans.map(str::to_owned).collect()
}

fn word(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.contains('_')
        && text.chars().all(is_word)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Whether the word is in the code by itself and not as a part of another.
fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[rstest]
#[case("docs/troubleshooting.md")]
#[case("docs/operations.md")]
#[case("docs/migration.md")]
#[case("docs/fast-path.md")]
#[case("docs/snat.md")]
#[case("docs/bpftool.md")]
#[case("docs/drop-in.md")]
#[case("docs/backends.md")]
#[case("docs/networks.md")]
#[case("docs/remote.md")]
fn commands_and_flags_are_there(#[case] name: &str) {
    /// iptables' and tailscale's.
    const OTHERS: [&str; 3] = [
        "random-fully",
        "advertise-routes",
        "service-node-port-range",
    ];
    let mut cli = flannel_agent::cli::command();
    cli.build();
    let mut checked = 0;
    for span in spans(&page(name)) {
        let words: Vec<&str> = span.split_whitespace().collect();
        let line = match words.as_slice() {
            ["flannel-agent", rest @ ..] => rest,
            [flag, ..] if flag.starts_with("--") => &words,
            [command, ..] if cli.find_subcommand(command).is_some() => &words,
            _ => continue,
        };
        checked += 1;
        let mut command: &Command = &cli;
        for word in line {
            if let Some(inner) = command.find_subcommand(word) {
                command = inner;
                continue;
            }
            let Some(flag) = word.strip_prefix("--") else {
                continue;
            };
            let flag = flag.split(['=', '[', ' ']).next().unwrap();
            let flag = flag.trim_end_matches([',', ';']);
            // Alone it is some command's.
            let alone = line[0].starts_with("--");
            let commands =
                std::iter::once(command).chain(command.get_subcommands().filter(|_| alone));
            let known = commands
                .flat_map(Command::get_arguments)
                .any(|arg| arg.get_long() == Some(flag));
            let known = known || OTHERS.contains(&flag);
            assert!(known, "{name}: `{span}`: there is no --{flag}");
        }
    }
    assert!(checked > 0 || name.ends_with("drop-in.md"), "{name}");
}

#[rstest]
#[case("docs/troubleshooting.md")]
#[case("docs/operations.md")]
#[case("docs/metrics.md")]
#[case("docs/bpftool.md")]
fn words_of_ours_are_in_the_code(#[case] name: &str) {
    /// The kernel's and conntrack's.
    const OTHERS: [&str; 8] = [
        "bpf_fib_lookup",
        "ip_forward",
        "rp_filter",
        "nf_conntrack",
        "prog_test_run",
        "bpf_redirect",
        "bpf_redirect_peer",
        "br_netfilter",
    ];
    let code = sources();
    for span in spans(&page(name)).iter().filter(|span| word(span)) {
        let bare = span.strip_suffix("_total").unwrap_or(span);
        let bare = bare.strip_prefix("flannel_ebpf_").unwrap_or(bare);
        let known = OTHERS.contains(&bare) || has_word(&code, bare);
        assert!(known, "{name}: nothing in the code is called `{span}`");
    }
}

/// `a … b` is two texts with something in between.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split('…').map(|part| part.trim().replace('`', ""));
    let parts: Vec<String> = parts.filter(|part| part.len() > 5).collect();
    parts.into_iter()
}

#[test]
fn what_the_log_is_said_to_say_is_what_it_says() {
    let (code, page) = (sources(), page("docs/troubleshooting.md"));
    let table = page.split("| the log says | then |").nth(1).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').nth(1).unwrap().trim())
        .collect();
    assert!(rows.len() >= 5, "{rows:?}");
    for row in rows {
        let parts: Vec<String> = quoted(row).collect();
        assert!(!parts.is_empty(), "{row}");
        for part in parts {
            // A device stands for any.
            let part = part.strip_prefix("flannel.1 ").unwrap_or(&part);
            assert!(code.contains(part), "the log never says {part:?}");
        }
    }
    // And what a command is said to say, in quotes.
    for text in page.split('"').skip(1).step_by(2) {
        for part in quoted(text) {
            assert!(code.contains(&part), "nothing says {part:?}");
        }
    }
}

/// Names that `/metrics` has, without prefix and suffix.
fn registered() -> BTreeSet<String> {
    let code = sources();
    let calls = code.split(".register(").skip(1);
    let names = calls.filter_map(|call| {
        let name = call.trim_start().strip_prefix('"')?.split('"').next()?;
        Some(name.to_owned())
    });
    names.collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let registered = registered();
    assert!(registered.len() > 15, "{registered:?}");
    let page = page("docs/metrics.md");
    let table = page.split("|---|---|---|").nth(1).unwrap();
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let documented: BTreeSet<String> = rows
        .flat_map(|row| spans(row.split('|').nth(1).unwrap()))
        .map(|name| name.strip_suffix("_total").unwrap_or(&name).to_owned())
        .collect();
    assert_eq!(documented, registered);
}

#[rstest]
#[case("deploy/charts/flannel-ebpf/files/alerts.yaml")]
#[case("docs/troubleshooting.md")]
#[case("deploy/grafana-dashboard.json")]
fn alerts_and_panels_ask_for_metrics_that_are_there(#[case] name: &str) {
    let registered = registered();
    let text = page(name);
    let mut found = 0;
    for part in text.split("flannel_ebpf_").skip(1) {
        let end = part.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        let metric = &part[..end.unwrap_or(part.len())];
        // The heading of the table.
        if metric.is_empty() {
            continue;
        }
        found += 1;
        let bare = ["_total", "_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| metric.strip_suffix(suffix));
        let bare = bare.unwrap_or(metric);
        assert!(registered.contains(bare), "{name}: {metric}");
    }
    assert!(found > 0, "{name}");
    if name.ends_with(".json") {
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        for metric in ["peers", "drift_repaired_total", "ringbuf_lost_total"] {
            let shown = dashboard["panels"].to_string();
            assert!(
                shown.contains(&format!("flannel_ebpf_{metric}")),
                "{metric}"
            );
        }
    }
}

#[derive(serde::Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(serde::Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(serde::Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    annotations: std::collections::BTreeMap<String, String>,
}

/// Each says of which node it is, and the table has it.
#[test]
fn alerts_name_their_node_and_are_documented() {
    let rules: Rules =
        serde_saphyr::from_str(&page("deploy/charts/flannel-ebpf/files/alerts.yaml")).unwrap();
    let rules: Vec<Rule> = rules
        .groups
        .into_iter()
        .flat_map(|group| group.rules)
        .collect();
    let documented = page("docs/metrics.md");
    let documented = documented.split("| alert |").nth(1).unwrap();
    let documented = documented
        .lines()
        .skip(2)
        .take_while(|l| l.starts_with('|'));
    let documented: Vec<String> = documented
        .flat_map(|row| spans(row.split('|').nth(1).unwrap()))
        .collect();
    let named: Vec<&String> = rules.iter().map(|rule| &rule.alert).collect();
    assert_eq!(documented.iter().collect::<Vec<_>>(), named);
    for Rule {
        alert,
        expr,
        annotations,
    } in &rules
    {
        let summary = &annotations["summary"];
        assert!(
            summary.contains("{{ $labels.instance }}"),
            "{alert}: {summary}"
        );
        // Of several networks or clusters each is judged by itself.
        if alert == "FlannelPeersMissing" {
            assert!(
                expr.contains("on (cluster, namespace, job, network)"),
                "{expr}"
            );
        }
        if alert == "FlannelNodeNotReconciled" {
            // What is heard now: a network or a node that was removed is none that fails.
            assert!(
                expr.contains("by (instance, network)") && !expr.contains("over_time"),
                "{expr}"
            );
        }
        if alert == "FlannelAgentGone" {
            let (was, is) = expr.split_once(" unless on (instance) ").expect(expr);
            assert!(was.contains(&format!("({is}[")), "{expr}");
        }
        // A sum over all nodes has no node.
        for by in expr.split("sum by (").skip(1) {
            assert!(by.split(')').next().unwrap().contains("instance"), "{expr}");
        }
        assert!(!expr.contains("sum("), "{expr}");
    }
}
