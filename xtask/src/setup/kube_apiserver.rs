//! A real kube-apiserver, the datastore of the end-to-end scenarios with Kubernetes, built from its Go module into `.cache/tools`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::flanneld::copy_tree;
use super::go;
use crate::process;
use crate::workspace::Workspace;

const MODULE: &str = "k8s.io/kubernetes";
const NAME: &str = "kube-apiserver";

/// What `tests/kube-apiserver/go.mod` asks for.
#[derive(Debug, PartialEq, Eq)]
struct Recipe {
    /// Of Kubernetes: `v1.34.4`.
    version: String,
    /// Of Go.
    go: String,
}

impl Recipe {
    fn read(workspace: &Workspace) -> Result<Self> {
        let path = source(workspace).join("go.mod");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text)
            .with_context(|| format!("{} names no version of Kubernetes", path.display()))
    }

    fn parse(go_mod: &str) -> Option<Self> {
        let value = |name: &str| {
            go_mod.lines().find_map(|line| {
                let line = line.trim().trim_start_matches("require ");
                let mut words = line.strip_prefix(name)?.strip_prefix(' ')?.split(' ');
                words.next().map(str::to_owned)
            })
        };
        Some(Self {
            version: value(MODULE)?,
            go: value("go")?,
        })
    }

    /// What the program says of itself. Without it clients see v0.0.0.
    fn ldflags(&self) -> String {
        let mut numbers = self.version.trim_start_matches('v').split('.');
        let mut next = || numbers.next().unwrap_or_default();
        let (major, minor) = (next(), next());
        let set =
            |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
        [
            "-s -w".to_owned(),
            set("gitVersion", &self.version),
            set("gitMajor", major),
            set("gitMinor", minor),
        ]
        .join(" ")
    }
}

/// Whether Debian's pip is needed to build what is missing.
pub(super) fn needs_pip(workspace: &Workspace) -> Result<bool> {
    let recipe = Recipe::read(workspace)?;
    Ok(!is_here(workspace, &recipe) && go::needs_pip(workspace, &recipe.go))
}

/// Builds it unless it is there in the version that `go.mod` asks for.
pub(super) fn ensure(workspace: &Workspace, dry_run: bool) -> Result<()> {
    let recipe = Recipe::read(workspace)?;
    let (place, version) = (workspace.tool(NAME), &recipe.version);
    if is_here(workspace, &recipe) {
        println!("setup: {NAME} {version} is in {}", place.display());
        return Ok(());
    }
    println!(
        "setup: compiling {NAME} {version} into {} (minutes)",
        place.display()
    );
    if dry_run {
        return Ok(());
    }
    let tools = workspace.tools_dir();
    fs::create_dir_all(tools.join("bin"))
        .with_context(|| format!("cannot create {}", tools.display()))?;
    // Somebody else's build in the same cache is waited for, and then there is nothing left to do.
    let lock = tools.join("kube-apiserver.lock");
    let lock = File::create(&lock)
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("cannot lock {}", lock.display()))?;
    if !is_here(workspace, &recipe) {
        build(workspace, &recipe).with_context(|| format!("cannot build {NAME} {version}"))?;
    }
    drop(lock);
    Ok(())
}

fn source(workspace: &Workspace) -> PathBuf {
    workspace.root().join("tests/kube-apiserver")
}

fn is_here(workspace: &Workspace, recipe: &Recipe) -> bool {
    let printed = process::read(Command::new(workspace.tool(NAME)).arg("--version"));
    printed.is_ok_and(|printed| printed.trim() == format!("Kubernetes {}", recipe.version))
}

/// In a folder of its own, which holds Go's cache (2 GB) and goes in the end.
fn build(workspace: &Workspace, recipe: &Recipe) -> Result<()> {
    let go = go::ensure(workspace, &recipe.go)?;
    let tools = workspace.tools_dir();
    let folder = tempfile::Builder::new()
        .prefix("kube-apiserver-build-")
        .tempdir_in(&tools)
        .with_context(|| format!("cannot make a folder in {}", tools.display()))?;
    let folder = folder.path();
    copy_tree(&source(workspace), folder)?;
    process::run(
        Command::new(&go)
            .current_dir(folder)
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"])
            .args(["-ldflags", &recipe.ldflags(), "-o", NAME])
            .arg(format!("{MODULE}/cmd/{NAME}"))
            // go.mod and go.sum alone decide, not what the machine's owner has set.
            .env("GOFLAGS", "")
            .env("GOWORK", "off")
            .env("GOTOOLCHAIN", "local")
            .env("GOCACHE", folder.join("cache"))
            // Not in /tmp, which is small memory on many machines.
            .env("GOTMPDIR", folder)
            .env("CGO_ENABLED", "0"),
    )?;
    // By a new name: the old one may be running.
    let place = workspace.tool(NAME);
    fs::rename(folder.join(NAME), &place)
        .with_context(|| format!("cannot move {NAME} to {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_recipe_is_readable() {
        let recipe = Recipe::read(&Workspace::locate().unwrap()).unwrap();
        assert!(recipe.version.starts_with("v1."), "{recipe:?}");
        assert!(
            recipe.ldflags().contains("gitMajor=1"),
            "{}",
            recipe.ldflags()
        );
    }

    #[test]
    fn replaced_modules_are_not_the_version() {
        let text = "go 1.24.0\nrequire k8s.io/kubernetes v1.34.4\nreplace k8s.io/api => k8s.io/api v0.34.4\n";
        let recipe = Recipe::parse(text).unwrap();
        assert_eq!((&*recipe.version, &*recipe.go), ("v1.34.4", "1.24.0"));
        assert_eq!(Recipe::parse("go 1.24.0\n"), None);
    }
}
