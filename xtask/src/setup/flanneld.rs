//! Real flanneld, the control of the end-to-end scenarios, built from its Go module into `.cache/tools`.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::go::{self, GoCache};
use crate::process;
use crate::workspace::Workspace;

const MODULE: &str = "github.com/flannel-io/flannel";

/// A backend whose SDK no module proxy serves. Nobody tests it here: an empty package takes its place.
const LEFT_OUT: &str = "pkg/backend/tencentvpc";

/// What `tests/flanneld/go.mod` asks for.
#[derive(Debug, PartialEq, Eq)]
struct Recipe {
    /// Of flannel.
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
            .with_context(|| format!("{} names no version of flannel", path.display()))
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
}

/// Whether Debian's pip is needed to build what is missing.
pub(super) fn needs_pip(workspace: &Workspace) -> Result<bool> {
    let recipe = Recipe::read(workspace)?;
    Ok(!is_here(workspace, &recipe) && go::needs_pip(workspace, &recipe.go))
}

/// Builds it unless it is there in the version that `go.mod` asks for.
pub(super) fn ensure(workspace: &Workspace, cache: &GoCache, dry_run: bool) -> Result<()> {
    let recipe = Recipe::read(workspace)?;
    let (place, version) = (workspace.tool("flanneld"), &recipe.version);
    if is_here(workspace, &recipe) {
        println!("setup: flanneld {version} is in {}", place.display());
        return Ok(());
    }
    println!(
        "setup: compiling flanneld {version} into {} (minutes)",
        place.display()
    );
    if dry_run {
        return Ok(());
    }
    let tools = workspace.tools_dir();
    fs::create_dir_all(tools.join("bin"))
        .with_context(|| format!("cannot create {}", tools.display()))?;
    // Somebody else's build in the same cache is waited for, and then there is nothing left to do.
    let lock = tools.join("flanneld.lock");
    let lock = File::create(&lock)
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("cannot lock {}", lock.display()))?;
    if !is_here(workspace, &recipe) {
        build(workspace, &recipe, cache)
            .with_context(|| format!("cannot build flanneld {version}"))?;
    }
    drop(lock);
    Ok(())
}

/// `kube-flannel.yml` of the version that `go.mod` asks for, made as flannel's Makefile makes what a release has: that is what people
/// are told to apply. The file in `Documentation` has a smaller selector, which nobody's cluster has.
pub(super) fn manifest(workspace: &Workspace) -> Result<String> {
    let recipe = Recipe::read(workspace)?;
    let go = go::ensure(workspace, &recipe.go)?;
    let mut download = Command::new(go);
    download
        .current_dir(source(workspace))
        .args(["mod", "download", "-json", MODULE])
        .env("GOFLAGS", "")
        .env("GOWORK", "off")
        .env("GOTOOLCHAIN", "local");
    let told = process::read(&mut download)?;
    let told: serde_json::Value =
        serde_json::from_str(&told).context("`go mod download` told no JSON")?;
    let folder = told["Dir"]
        .as_str()
        .context("no folder of flannel's module")?;
    let folder = Path::new(folder).join("Documentation/kustomization/kube-flannel");
    let mut kustomize = Command::new(workspace.tool("kubectl"));
    process::read(kustomize.arg("kustomize").arg(&folder))
        .with_context(|| format!("cannot make flannel's manifest of {}", folder.display()))
}

fn source(workspace: &Workspace) -> std::path::PathBuf {
    workspace.root().join("tests/flanneld")
}

fn is_here(workspace: &Workspace, recipe: &Recipe) -> bool {
    // It prints its version to stderr.
    let output = Command::new(workspace.tool("flanneld"))
        .arg("--version")
        .output();
    output.is_ok_and(|o| String::from_utf8_lossy(&o.stderr).trim() == recipe.version)
}

/// In a folder of its own, which holds the vendored sources and goes in the end.
fn build(workspace: &Workspace, recipe: &Recipe, cache: &GoCache) -> Result<()> {
    let go = go::ensure(workspace, &recipe.go)?;
    let tools = workspace.tools_dir();
    let folder = tempfile::Builder::new()
        .prefix("flanneld-build-")
        .tempdir_in(&tools)
        .with_context(|| format!("cannot make a folder in {}", tools.display()))?;
    let folder = folder.path();
    copy_tree(&source(workspace), folder)?;
    let go = |verb: &[&str]| {
        let mut command = Command::new(&go);
        command
            .current_dir(folder)
            .args(verb)
            // The vendored sources alone decide, not what the machine's owner has set.
            .env("GOFLAGS", "")
            .env("GOWORK", "off")
            .env("GOTOOLCHAIN", "local")
            .env("GOCACHE", cache.path())
            // Not in /tmp, which is small memory on many machines.
            .env("GOTMPDIR", folder)
            // The udp backend's proxy is C.
            .env("CGO_ENABLED", "1");
        command
    };
    // Vendored, because files in Go's module cache must not be replaced.
    process::run(&mut go(&["mod", "vendor"]))?;
    leave_out(&folder.join("vendor").join(MODULE).join(LEFT_OUT))?;
    let version = format!("-s -w -X {MODULE}/pkg/version.Version={}", recipe.version);
    process::run(&mut go(&[
        "build",
        "-mod=vendor",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        &version,
        "-o",
        "flanneld",
        MODULE,
    ]))?;
    // By a new name: the old one may be running.
    let place = workspace.tool("flanneld");
    fs::rename(folder.join("flanneld"), &place)
        .with_context(|| format!("cannot move flanneld to {}", place.display()))
}

/// Leaves a package without content in the place of `package`.
fn leave_out(package: &Path) -> Result<()> {
    fs::remove_dir_all(package)
        .and_then(|()| fs::create_dir(package))
        .and_then(|()| fs::write(package.join("left_out.go"), "package tencentvpc\n"))
        .with_context(|| format!("cannot empty {}", package.display()))
}

/// Files and folders of `from` into `to`, which exists.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target)
                .with_context(|| format!("cannot create {}", target.display()))?;
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_mod_says_both_versions() {
        let text = "module flanneld\n\ngo 1.25.9\n\ntool github.com/flannel-io/flannel\n\n\
                    require (\n\tgithub.com/flannel-io/flannel v0.28.9 // indirect\n)\n";
        let recipe = Recipe::parse(text).unwrap();
        assert_eq!(recipe.version, "v0.28.9");
        assert_eq!(recipe.go, "1.25.9");
        let single = "go 1.26\nrequire github.com/flannel-io/flannel v1.0.0\n";
        assert_eq!(Recipe::parse(single).unwrap().version, "v1.0.0");
        assert_eq!(Recipe::parse("module x\n"), None);
    }

    #[test]
    fn the_committed_recipe_is_readable() {
        let recipe = Recipe::read(&Workspace::locate().unwrap()).unwrap();
        assert!(recipe.version.starts_with('v'), "{recipe:?}");
    }
}
