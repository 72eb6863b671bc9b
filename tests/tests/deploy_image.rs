//! The shipped image and manifest have what the agent calls.

#![cfg(test)]

use std::path::Path;
use std::process::Command;

use flannel_agent::node::iptables::PROGRAMS;
use flannel_tests::netns::run;

fn deployed(name: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    std::fs::read_to_string(deploy.join(name)).unwrap()
}

/// The image is Debian 12, as the machine that runs the tests.
#[test]
fn the_image_installs_every_program_that_the_agent_calls() {
    let image = deployed("Dockerfile");
    let installed: Vec<&str> = image
        .lines()
        .filter(|line| line.contains("apt-get install"))
        .flat_map(str::split_whitespace)
        .collect();
    for program in PROGRAMS {
        // The plain names are alternatives, made when the package is installed.
        let real = format!("/usr/sbin/{program}");
        let real = std::fs::canonicalize(&real).unwrap_or_else(|e| panic!("{real}: {e}"));
        // "iptables: /usr/sbin/xtables-nft-multi"
        let owner = run(Command::new("dpkg-query").arg("-S").arg(&real));
        let package = owner.split(':').next().unwrap();
        assert!(installed.contains(&package), "{program} is in {package}");
    }
}

/// In a container with a lock of its own, iptables-legacy would run into the host's.
#[test]
fn the_daemonset_has_the_hosts_lock() {
    let manifest = deployed("flannel-ebpf.yaml");
    assert!(manifest.contains("mountPath: /run/xtables.lock"));
    assert!(manifest.contains("{path: /run/xtables.lock, type: FileOrCreate}"));
}
