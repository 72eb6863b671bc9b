//! The images that Kubernetes' own network tests ask for, under their names, in one archive: what their pods run, on a Debian.
//!
//! The tests' agnhost and regression-issue-74839 are the real programs. What they want of busybox, dnsutils and iptables is a shell
//! with tools, which Debian's are; of nginx and httpd, that a pod serves.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::dockerfile::Recipe;
use super::layer::{self, Layer};
use super::oci::Image;
use super::stand_ins::MTIME;
use super::tree::Tree;
use super::{architecture, debian, opened, rfc3339, write_all};
use crate::process;
use crate::workspace::Workspace;

/// What pods' scripts call, and what Debian has in every system.
const PACKAGES: &[&str] = &[
    "bash",
    "bind9-dnsutils",
    "conntrack",
    "curl",
    "debianutils",
    "findutils",
    "grep",
    "hostname",
    "iperf",
    "iproute2",
    "ipset",
    "iptables",
    "iputils-ping",
    "libc-bin",
    "mawk",
    "netcat-openbsd",
    "procps",
    "sed",
    "tar",
    "util-linux",
    "wget",
];

/// What `update-alternatives` would link.
const ALTERNATIVES: &[(&str, &str)] = &[
    ("usr/bin/awk", "mawk"),
    ("usr/bin/nc", "nc.openbsd"),
    ("usr/bin/which", "which.debianutils"),
];

/// What a name of the list is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Agnhost,
    Shell,
    Web,
    Pause,
    Regression,
}

/// By the ends of their names without a tag.
const KINDS: &[(&str, Kind)] = &[
    ("/e2e-test-images/agnhost", Kind::Agnhost),
    ("/e2e-test-images/busybox", Kind::Shell),
    ("/e2e-test-images/jessie-dnsutils", Kind::Shell),
    ("/build-image/distroless-iptables", Kind::Shell),
    ("/e2e-test-images/httpd", Kind::Web),
    ("/e2e-test-images/nginx", Kind::Web),
    ("/pause", Kind::Pause),
    ("/e2e-test-images/regression-issue-74839", Kind::Regression),
];

/// The cluster's DNS, beside them.
const COREDNS: &str = "docker.io/local/coredns:1";

/// `target/cluster/e2e.tar`, after [`super::pod`].
pub(crate) fn e2e(workspace: &Workspace, folder: &Path) -> Result<()> {
    // It leaves folders behind.
    let leavings = Tree::new_in(folder)?;
    let wanted = wanted(&process::read(
        Command::new(workspace.tool("e2e.test"))
            .arg("--list-images")
            .env("TMPDIR", leavings.path()),
    )?)?;
    let root = root(workspace)?;
    let tools = tools(workspace, folder)?;
    let one = |name: &str| -> Result<Layer> {
        let tree = Tree::new_in(folder)?;
        tree.copy(&workspace.tool(name), name, 0o755)?;
        stored(&tree, name)
    };
    let regression = one("regression-issue-74839")?;
    let coredns = one("coredns")?;
    let mut pause = Vec::new();
    for plain in opened::open(&folder.join("pod.tar"))?.layers {
        pause.push(layer::of(&plain, "pause".to_owned())?);
    }

    let words = |words: &[&str]| words.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let created = rfc3339(MTIME)?;
    let mut parts = Vec::new();
    for (name, kind) in &wanted {
        let (layers, entrypoint, command) = match kind {
            Kind::Agnhost => (vec![&root, &tools], words(&["/agnhost"]), words(&["pause"])),
            Kind::Shell => (vec![&root, &tools], Vec::new(), words(&["sh"])),
            Kind::Web => {
                let serve = words(&["/agnhost", "netexec", "--http-port=80"]);
                (vec![&root, &tools], serve, Vec::new())
            }
            Kind::Pause => (pause.iter().collect(), words(&["/pause"]), Vec::new()),
            Kind::Regression => {
                let program = words(&["/regression-issue-74839"]);
                (vec![&regression], program, Vec::new())
            }
        };
        parts.push((&**name, layers, entrypoint, command));
    }
    parts.push((COREDNS, vec![&coredns], words(&["/coredns"]), Vec::new()));
    let names: Vec<_> = parts
        .iter()
        .map(|(name, ..)| name.parse().map_err(anyhow::Error::msg))
        .collect::<Result<_>>()?;
    let mut images = Vec::new();
    for ((_, layers, entrypoint, command), name) in parts.iter().zip(&names) {
        images.push(Image {
            name,
            architecture: architecture(std::env::consts::ARCH)?,
            entrypoint,
            command,
            created: &created,
            mtime: MTIME,
            layers,
        });
    }
    write_all(&images, &folder.join("e2e.tar"), folder)?;
    println!("image: {} for Kubernetes' tests", images.len());
    Ok(())
}

/// Those of `e2e.test --list-images` that network tests ask for.
fn wanted(list: &str) -> Result<Vec<(String, Kind)>> {
    let of = |name: &str| {
        let (path, _tag) = name.trim().rsplit_once(':')?;
        let kind = KINDS.iter().find(|(end, _)| path.ends_with(end));
        kind.map(|(_, kind)| (name.trim().to_owned(), *kind))
    };
    // It is printed in another order each time.
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    let wanted: Vec<_> = lines.into_iter().filter_map(of).collect();
    for (end, _) in KINDS {
        let is_named = wanted.iter().any(|(name, _)| {
            name.rsplit_once(':')
                .is_some_and(|(it, _)| it.ends_with(end))
        });
        ensure!(
            is_named,
            "`e2e.test --list-images` names no image {end}: mend xtask/src/image/e2e.rs for this Kubernetes"
        );
    }
    Ok(wanted)
}

/// Debian's part, kept in `.cache/e2e` until that folder is removed, or the list of packages changes.
fn root(workspace: &Workspace) -> Result<Layer> {
    let cache = workspace.cache_dir().join("e2e");
    let (kept, of) = (cache.join("root.tar"), cache.join("root.packages"));
    let packages = PACKAGES.join(" ");
    let made_by = format!("Debian with {packages}");
    if fs::read_to_string(&of).is_ok_and(|text| text == packages) && kept.is_file() {
        let plain = fs::read(&kept).with_context(|| format!("cannot read {}", kept.display()))?;
        return Ok(Layer::stored(plain, made_by));
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let tree = Tree::new_in(&cache)?;
    let recipe = Recipe {
        release: "12".to_owned(),
        packages: PACKAGES.iter().map(|&name| name.to_owned()).collect(),
        copies: Vec::new(),
        entrypoint: Vec::new(),
    };
    let names = debian::stage(&tree, &recipe, &cache)?;
    println!("image: of Debian for pods of tests: {}", names.join(", "));
    for (link, target) in ALTERNATIVES {
        tree.link(link, target)?;
    }
    for name in [
        "dev", "home", "proc", "root", "run", "sys", "tmp", "var/tmp",
    ] {
        tree.folder(name)?;
    }
    // busybox's asks once, and tests count on it.
    tree.file("etc/wgetrc", 0o644, b"tries = 1\n")?;
    let plain = layer::plain(tree.path(), MTIME)?;
    // The list last: without it nothing is kept.
    for (path, bytes) in [(&kept, &*plain), (&of, packages.as_bytes())] {
        fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Layer::stored(plain, made_by))
}

/// What agnhost's image has beside Debian, as its Dockerfile puts it there.
fn tools(workspace: &Workspace, folder: &Path) -> Result<Layer> {
    let tree = Tree::new_in(folder)?;
    for name in ["agnhost", "coredns"] {
        tree.copy(&workspace.tool(name), name, 0o755)?;
    }
    tree.link("agnhost-2", "agnhost")?;
    tree.folder("uploads")?;
    // Nobody checks it.
    process::read(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"])
            .args(["-days", "3650", "-subj", "/CN=localhost", "-keyout"])
            .arg(tree.at("localhost.key"))
            .arg("-out")
            .arg(tree.at("localhost.crt")),
    )?;
    stored(&tree, "agnhost")
}

fn stored(tree: &Tree, made_by: &str) -> Result<Layer> {
    let plain = layer::plain(tree.path(), MTIME)?;
    Ok(Layer::stored(plain, made_by.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "r.example/e2e-test-images/agnhost:2.56\nr.example/e2e-test-images/busybox:1.37.0-1\n\
        r.example/e2e-test-images/jessie-dnsutils:1.7\nr.example/build-image/distroless-iptables:v0.7.14\n\
        r.example/e2e-test-images/httpd:2.4.38-4\nr.example/e2e-test-images/httpd:2.4.39-4\n\
        r.example/e2e-test-images/nginx:1.14-4\nr.example/pause:3.10.1\nr.example/e2e-test-images/kitten:1.7\n\
        r.example/e2e-test-images/regression-issue-74839:1.2\n";

    #[test]
    fn of_the_list_only_what_network_tests_ask_for() {
        let wanted = wanted(LIST).unwrap();
        assert_eq!(wanted.len(), LIST.lines().count() - 1);
        let agnhost = wanted.iter().find(|(name, _)| name.contains("agnhost"));
        assert_eq!(agnhost.unwrap().1, Kind::Agnhost);
        assert!(wanted.iter().all(|(name, _)| !name.contains("kitten")));
    }

    #[test]
    fn what_a_list_lacks_is_named() {
        let error = wanted(&LIST.replace("nginx", "caddy")).unwrap_err();
        assert!(
            error.to_string().contains("/e2e-test-images/nginx"),
            "{error}"
        );
    }
}
