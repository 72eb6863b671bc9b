//! `debug bundle`: what a report of a bug needs, whatever state the node is in; and no secret, there or anywhere.

#![cfg(test)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use flannel_tests::agent::{Daemon, command};
use flannel_tests::netns::{output, run};
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::unprivileged;
use serde_json::Value;

/// Every file of a bundle by its name.
type Files = BTreeMap<String, String>;

fn flags(node: &Node, more: &[&str]) -> Vec<String> {
    let subnet_file = node
        .folder()
        .join("run/flannel-agent-coreos.com_network/subnet.env");
    let own = [
        format!("--bpffs={}", node.bpffs().display()),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--iface={}", Node::UPLINK),
        format!("--state-dir={}", node.state_dir().display()),
        format!("--subnet-file={}", subnet_file.display()),
    ];
    let more: Vec<_> = more.iter().map(|flag| (*flag).to_owned()).collect();
    let replaced = |flag: &String| {
        let name = flag.split('=').next().unwrap().to_owned() + "=";
        more.iter().any(|other| other.starts_with(&name))
    };
    let own = own.into_iter().filter(|flag| !replaced(flag));
    own.chain(more.clone()).collect()
}

fn bundle(node: &Node, to: &Path, more: &[&str]) -> Output {
    let to = format!("--to={}", to.display());
    let flags = flags(node, more);
    let all: Vec<&str> = ["debug", "bundle", to.as_str()]
        .into_iter()
        .chain(flags.iter().map(String::as_str))
        .collect();
    output(&mut command(node, &all))
}

fn read(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// A folder's bundle that must be written.
#[track_caller]
fn folder(node: &Node, name: &str, more: &[&str]) -> Files {
    let to = node.folder().join(name);
    let output = bundle(node, &to, more);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    read(&to)
}

/// Why a piece is not there, or only in part.
fn error(files: &Files, piece: &str) -> Option<String> {
    let index: Value = serde_json::from_str(&files["index.json"]).unwrap();
    let pieces = index["pieces"].as_array().unwrap();
    let piece = pieces.iter().find(|entry| entry["name"] == piece);
    let error = piece.unwrap()["error"].as_str();
    error.map(str::to_owned)
}

#[test]
fn a_node_is_described_with_its_agent_and_after_its_death() {
    let mut pair = Pair::of_agents();
    pair.pod1.ping(pair.pod2.address()).count(1).succeeds();
    let node = pair.one.node_arc();
    let health = format!("--healthz-port={}", pair.one.daemon().health_port());
    let files = folder(&node, "alive", &[&health, "--healthz-ip=127.0.0.1"]);
    for (name, part) in [
        ("status.txt", "Compared"),
        ("status.json", "\"last_reconcile\""),
        ("doctor.txt", "an agent runs"),
        ("peers.txt", &*pair.two.node().address().to_string()),
        ("routes.txt", &*pair.two.subnet().to_string()),
        ("stats.txt", "encap"),
        ("flows.txt", "LOCAL"),
        ("nat.txt", "PROTO"),
        ("maps.txt", "fl_peers"),
        ("config.toml", "etcd-endpoints"),
        ("metrics.txt", "flannel_ebpf_build_info"),
        ("log.txt", "node brought up to date"),
        ("subnet.env", "FLANNEL_SUBNET"),
        ("logbook.json", "\"last\""),
        ("kernel.txt", "Linux"),
        ("sysctls.txt", "net/ipv4/conf/flannel.1/rp_filter"),
        ("conntrack.txt", "count"),
        ("links.txt", "flannel.1"),
        ("ip-routes.txt", &*pair.two.subnet().to_string()),
        ("ip-rules.txt", "lookup main"),
        ("tc-qdiscs.txt", "qdisc"),
        ("bpf-programs.txt", "overlay_tx"),
        ("tc-filters.txt", "# eth0 ingress"),
    ] {
        assert_eq!(error(&files, name), None, "{name}");
        let text = &files[name];
        assert!(text.contains(part), "{part} is not in {name}: {text}");
    }
    for name in ["nft.txt", "iptables.txt"] {
        assert_eq!(error(&files, name), None, "{name}");
    }

    pair.one.kill();
    let files = folder(&node, "dead", &[&health, "--healthz-ip=127.0.0.1"]);
    assert!(files["status.txt"].contains("no agent runs"), "{files:?}");
    assert!(files["peers.txt"].contains(&pair.two.subnet().to_string()));
    for (name, part) in [("metrics.txt", "does the agent run?"), ("log.txt", "")] {
        let error = error(&files, name).unwrap_or_else(|| panic!("{name}"));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn an_archive_holds_the_same_for_its_owner_alone() {
    let lab = Lab::new();
    let node = lab.node("empty");
    let archive = node.folder().join("b.tar.gz");
    // Nothing is pinned, and etcd has no network: all of that is said in the index.
    let output = bundle(&node, &archive, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("b.tar.gz"), "{said}");
    let mode = node.exec(&format!("stat -c %a {}", archive.display()));
    assert_eq!(mode.trim(), "600");
    node.exec(&format!(
        "tar -xzf {} -C {}",
        archive.display(),
        node.folder().display()
    ));
    let files = read(&node.folder().join("b"));
    let said = error(&files, "status.txt").unwrap();
    assert!(said.contains("no network has anything pinned"), "{said}");
    assert!(files["doctor.txt"].contains("/coreos.com/network/config does not exist"));
    assert!(files["links.txt"].contains("eth0"));

    let again = bundle(&node, &node.folder().join("b"), &[]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("/b: File exists"), "{said}");
}

#[test]
fn settings_that_cannot_be_used_are_part_of_the_report() {
    let lab = Lab::new();
    let node = lab.node("empty");
    let files = folder(&node, "bad", &["--public-ip=nonsense"]);
    let said = error(&files, "doctor.txt").unwrap();
    assert!(said.contains("nonsense"), "{said}");
    assert!(files["config.toml"].contains("nonsense"));
}

#[test]
fn without_root_it_writes_what_it_may_see() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let agent = Agent::start(lab.node("one"), &net);
    let node = agent.node();
    let copy = unprivileged::Copy::new();
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(65534), Some(65534)).unwrap();
    let to = home.path().join("mine");
    let line = format!(
        "debug bundle --to={} {}",
        to.display(),
        flags(node, &[]).join(" ")
    );
    let output = node.try_exec(&copy.line(&line));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let files = read(&to);
    let said = error(&files, "status.txt").unwrap();
    assert!(said.contains("run it as root"), "{said}");
    assert!(files["links.txt"].contains("flannel.1"));
}

#[test]
fn a_full_disk_is_named_and_nothing_half_is_left() {
    let lab = Lab::new();
    let node = lab.node("empty");
    let disk = node.folder().join("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let none = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &disk, Some("tmpfs"), none, Some("size=64k")).unwrap();
    let filler = disk.join("filler");
    assert!(
        std::fs::write(&filler, vec![0; 1 << 20]).is_err(),
        "1 MiB into 64 KiB"
    );
    let output = bundle(&node, &disk.join("b.tar.gz"), &[]);
    let left = std::fs::read_dir(&disk).unwrap().count();
    nix::mount::umount2(&disk, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("disk/b.tar.gz") && said.contains("No space left"),
        "{said}"
    );
    assert_eq!(left, 1, "the filler");
}

const PASSWORD: &str = "pass-word-of-etcd-4711";
const IN_URL: &str = "pass-word-in-the-url-0815";
const KEY: &str = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj";

/// A real login, at the level that says most; what is printed is read by others.
#[test]
fn no_secret_is_in_logs_settings_status_or_bundle() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    for line in [
        &["user", "add", &format!("root:{PASSWORD}")][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        lab.etcd().ctl(line);
    }
    let file = |name: &str, label: &str| {
        let path = node.folder().join(name);
        let pem = format!("-----BEGIN {label}-----\n{KEY}\n-----END {label}-----\n");
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let with_login = node
        .etcd()
        .replace("http://", &format!("http://root:{IN_URL}@"));
    let settings = [
        format!("--etcd-endpoints={with_login}"),
        "--etcd-username=root".to_owned(),
        // Not used without TLS, but read.
        format!("--etcd-certfile={}", file("cert.pem", "CERTIFICATE")),
        format!("--etcd-keyfile={}", file("key.pem", "PRIVATE KEY")),
        "-v=10".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let env = format!("env FLANNELD_ETCD_PASSWORD={PASSWORD}");
    let mut daemon = Daemon::spawn_under(&env, &node, &net, &settings);
    daemon.wait_until_ready(&node);
    let wrong = "env FLANNELD_ETCD_PASSWORD=wrong-word-99";
    let mut refused = Daemon::spawn_under(
        wrong,
        &node,
        &net,
        &[&settings[..], &["--healthz-port=0"]].concat(),
    );
    eventually("a wrong password is named as wrong", SOON, || {
        refused.log().contains("invalid user ID or password")
    });
    refused.process().kill();

    let shell = |line: &[&str]| {
        let all = flags(&node, &[&settings[..4]].concat());
        let all: Vec<&str> = line
            .iter()
            .copied()
            .chain(all.iter().map(String::as_str))
            .collect();
        run(command(&node, &all).env("FLANNELD_ETCD_PASSWORD", PASSWORD))
    };
    let to = node.folder().join("b");
    shell(&["debug", "bundle", &format!("--to={}", to.display())]);
    let bundled = read(&to);
    assert!(bundled["config.toml"].contains(r#"etcd-password = "***""#));
    assert!(
        bundled["doctor.txt"].contains("network 10.244.0.0/16"),
        "it has logged in"
    );
    assert!(
        bundled["log.txt"].contains("DEBUG"),
        "the log at its loudest"
    );
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let status = run(&mut command(&node, &["status", "-o", "json", &bpffs]));
    let texts = [
        ("log", daemon.log()),
        ("log of the one that was refused", refused.log()),
        ("config show", shell(&["config", "show"])),
        (
            "config show -o json",
            shell(&["config", "show", "-o", "json"]),
        ),
        ("doctor", bundled["doctor.txt"].clone()),
        ("status", status),
    ];
    let all = texts
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text));
    for (name, text) in all.chain(bundled) {
        for secret in [PASSWORD, IN_URL, KEY, "wrong-word-99"] {
            assert!(!text.contains(secret), "{secret} is in {name}: {text}");
        }
        assert!(
            !text.contains("FLANNELD_ETCD_PASSWORD=") || text.contains("=***"),
            "{name}"
        );
    }
}
