//! The shipped image is made of what is built, and image and manifest have what they call.

#![cfg(test)]

use std::path::Path;
use std::process::Command;

use flannel_agent::node::iptables::PROGRAMS;
use flannel_tests::manifest::{object, shipped};
use flannel_tests::netns::run;
use serde_json::Value;

fn deployed(name: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    std::fs::read_to_string(deploy.join(name)).unwrap()
}

/// The image is Debian 12, as the machine that runs the tests.
#[test]
fn the_image_installs_every_program_that_the_agent_calls() {
    let image = deployed("Dockerfile");
    // `cargo xtask image --check` runs each of them in the image.
    let check = source("xtask/src/image/check.rs");
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
        assert!(check.contains(&format!("(\"{program}\", ")), "{program}");
    }
}

/// In a container with a lock of its own, iptables-legacy would run into the host's.
#[test]
fn the_daemonset_has_the_hosts_lock() {
    let manifest = deployed("flannel-ebpf.yaml");
    assert!(manifest.contains("mountPath: /run/xtables.lock"));
    assert!(manifest.contains("{path: /run/xtables.lock, type: FileOrCreate}"));
}

/// A file of the repository.
fn source(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// From where in the build's context, and to where in the image.
fn copied(image: &str) -> Vec<[&str; 2]> {
    let lines = image.lines().filter_map(|line| line.strip_prefix("COPY "));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.try_into().unwrap_or_else(|words| panic!("{words:?}"))
        })
        .collect()
}

/// Nobody runs the Dockerfile here: each file it takes is one that the builds of its first lines write, and that its context has.
#[test]
fn the_image_takes_what_is_built() {
    let image = deployed("Dockerfile");
    let context = deployed("Dockerfile.dockerignore");
    let builds: Vec<&str> = image
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .flat_map(|line| line.split(" && "))
        .collect();
    let build = "cargo build --release -p flannel-agent";
    assert!(builds.contains(&build), "{builds:?}");
    assert!(source("flannel-agent/Cargo.toml").contains("name = \"flannel-agent\""));
    assert!(builds.contains(&"cargo xtask build-cni"), "{builds:?}");
    let built = ["target/release/flannel-agent", "target/cni/flannel"];
    assert!(source("xtask/src/workspace.rs").contains(built[1]));
    let taken = copied(&image).into_iter().map(|[from, _]| from);
    let taken: Vec<&str> = taken.collect();
    assert_eq!(taken, built);
    // All but what is named is left out.
    let mut lines = context.lines();
    assert_eq!(lines.next(), Some("*"));
    let named: Vec<&str> = lines.filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(named, built);
}

#[test]
fn the_image_starts_what_it_has() {
    let image = deployed("Dockerfile");
    let entry = image
        .lines()
        .find_map(|line| line.strip_prefix("ENTRYPOINT "));
    let entry: Vec<String> = serde_json::from_str(entry.unwrap()).unwrap();
    let places: Vec<&str> = copied(&image).into_iter().map(|[_, to]| to).collect();
    assert!(places.contains(&&*entry[0]), "{entry:?}");
}

/// Only what Debian has everywhere, of packages that `cargo xtask image` takes as well, and only files that the image or a mount brings.
#[test]
fn the_manifests_commands_run_in_the_image() {
    let image = deployed("Dockerfile");
    let base = source("xtask/src/image/debian.rs");
    let objects = shipped();
    let pod = &object(&objects, "DaemonSet")["spec"]["template"]["spec"];
    // What the image starts by itself.
    assert_eq!(pod["containers"][0]["command"], Value::Null);
    for container in pod["initContainers"].as_array().unwrap() {
        assert_eq!(container["command"], serde_json::json!(["sh", "-ec"]));
        let mounts = container["volumeMounts"].as_array().unwrap().iter();
        let mounts = mounts.map(|mount| mount["mountPath"].as_str().unwrap());
        let images = copied(&image).into_iter().map(|[_, to]| to);
        let there: Vec<&str> = mounts.chain(images).collect();
        let script = container["args"][0].as_str().unwrap();
        let mut programs = vec!["sh"];
        for command in script.split(" && ") {
            let mut words = command.split_whitespace();
            programs.extend(words.next());
            for file in words.filter(|word| word.starts_with('/')) {
                assert!(there.iter().any(|place| file.starts_with(place)), "{file}");
            }
        }
        for program in programs {
            // As installed: /bin is a link to /usr/bin.
            let owner = run(Command::new("dpkg-query").args(["-S", &format!("/bin/{program}")]));
            let owner = owner.lines().last().unwrap().split(':').next().unwrap();
            let show = "--showformat=${Essential}";
            let essential = run(Command::new("dpkg-query").args(["--show", show, owner]));
            assert_eq!(essential.trim(), "yes", "{program} is in {owner}");
            assert!(
                base.contains(&format!("\"{owner}\"")),
                "{program} is in {owner}"
            );
        }
    }
}
