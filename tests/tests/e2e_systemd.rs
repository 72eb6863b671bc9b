//! What a service manager hears from the agent, and the unit that is shipped.

#![cfg(test)]

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flannel_tests::agent::{Daemon, command, http_get, http_status};
use flannel_tests::netns::output;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use rstest::rstest;

/// systemd's end of `$NOTIFY_SOCKET`.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("bind the notify socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a time-out");
        Self(socket)
    }

    /// Reads until a message has a line that starts with `start`; returns the rest of that line.
    fn hears(&self, start: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let read = uninterrupted(|| self.0.recv(&mut buffer))
                .unwrap_or_else(|e| panic!("no {start}: {e}"));
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            if let Some(rest) = text.lines().find_map(|line| line.strip_prefix(start)) {
                return rest.to_owned();
            }
        }
    }
}

#[test]
fn readiness_state_and_signs_of_life_are_told() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let path = lab.folder().join("notify");
    let manager = Manager::listen(&path);
    let wrapper = format!("env NOTIFY_SOCKET={} WATCHDOG_USEC=400000", path.display());
    let mut daemon = Daemon::spawn_under(&wrapper, &node, &net, &[]);
    assert_eq!(manager.hears("READY="), "1");
    assert!(
        daemon.subnet_file().exists(),
        "ready before the subnet file"
    );
    let status = manager.hears("STATUS=");
    assert!(status.contains("0 peers over eth0"), "{status}");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");

    node.exec("ip link add cni0 type bridge");
    node.exec("ip addr add 10.244.250.1/24 dev cni0");
    let status = manager.hears("STATUS=the bridge cni0");
    assert!(status.contains("10.244.250.1/24"), "{status}");

    daemon.process().terminate(SOON);
    assert_eq!(manager.hears("STOPPING="), "1");
}

/// Units that wait for flanneld begin, whatever became of its file.
#[rstest]
fn a_subnet_file_that_cannot_be_written_holds_up_nobody(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = Arc::new(lab.node("one"));
    let path = lab.folder().join("notify");
    let manager = Manager::listen(&path);
    let wrapper = format!("env NOTIFY_SOCKET={}", path.display());
    let port = node.port();
    let health = format!("--healthz-port={port}");
    let flags = ["--subnet-file=/proc/nothing/subnet.env", &health];
    let ours = match kind {
        Kind::Ours => Some(Daemon::spawn_under(&wrapper, &node, &net, &flags)),
        _ => None,
    };
    let _flanneld = match kind {
        Kind::Ours => None,
        _ => Some(RealFlanneld::spawn_under(
            &wrapper,
            node.clone(),
            &net,
            &flags,
        )),
    };
    assert_eq!(manager.hears("READY="), "1");
    assert_eq!(http_status(&*node, port, "/readyz"), Some(503));
    let Some(daemon) = ours else { return };
    let said = "cannot write the subnet file /proc/nothing/subnet.env";
    let ready = http_get(&*node, port, "/readyz").expect("an answer");
    assert!(ready.contains(said), "{ready}");
    let status = manager.hears("STATUS=cannot write");
    assert!(status.contains("/proc/nothing/subnet.env"), "{status}");
    let state = format!("--state-dir={}", node.state_dir().display());
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    eventually("status says so, too", SOON, || {
        let status = output(&mut command(&*node, &["status", &bpffs, &state]));
        status.status.code() == Some(1) && String::from_utf8_lossy(&status.stdout).contains(said)
    });
    // Any change makes the agent look, and try again.
    let looks = || {
        let text = http_get(&*node, port, "/metrics").unwrap_or_default();
        let name = "flannel_ebpf_reconcile_duration_seconds_count ";
        let count = text.lines().find_map(|line| line.strip_prefix(name));
        count.map(|count| count.parse::<u64>().expect("a number"))
    };
    let before = looks();
    node.exec("ip link add other type veth peer name rehto");
    eventually("it has looked again", SOON, || looks() > before);
    assert_eq!(daemon.log().matches(said).count(), 1, "{}", daemon.log());
}

/// The capabilities in the unit are those that `four_capabilities_are_enough` gives, and what it takes to look at programs.
#[test]
fn the_unit_grants_what_the_agent_needs() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/flannel-ebpf.service");
    let text = std::fs::read_to_string(&unit).expect("the unit");
    let granted: BTreeSet<&str> = text
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .expect("a bounding set")
        .split(' ')
        .collect();
    let needed = [
        "CAP_NET_ADMIN",
        "CAP_NET_RAW",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_SYS_ADMIN",
    ];
    assert_eq!(granted, BTreeSet::from(needed));
    let calls = text
        .lines()
        .find_map(|line| line.strip_prefix("SystemCallFilter="));
    let calls: BTreeSet<&str> = calls.expect("a filter").split(' ').collect();
    for call in ["@system-service", "bpf", "perf_event_open"] {
        assert!(calls.contains(call), "{call}");
    }
    // In the unit's own mount namespace that would hide the host's; and it is an error, not the end.
    assert!(!calls.contains("mount") && text.contains("SystemCallErrorNumber=EPERM"));
    let files = text
        .lines()
        .find_map(|line| line.strip_prefix("LimitNOFILE="))
        .expect("a limit of open files");
    assert!(files.parse::<u64>().expect("a number") >= 65_536);
    assert!(text.contains("Type=notify") && text.contains("WatchdogSec="));
}

/// Without an order systemd ends the one while it starts the other, and both write lease and subnet file.
#[test]
fn the_unit_waits_until_flanneld_has_ended() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/flannel-ebpf.service");
    let text = std::fs::read_to_string(&unit).expect("the unit");
    let named = |key: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key));
        lines
            .flat_map(|line| line.split(' '))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        named("Conflicts="),
        BTreeSet::from(["flanneld.service".to_owned()])
    );
    assert!(named("After=").is_superset(&named("Conflicts=")), "{text}");
}
