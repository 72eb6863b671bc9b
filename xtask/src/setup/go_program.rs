//! A program of others that tests need, built from its Go module into `.cache/tools`. A folder of `tests` has go.mod and go.sum, which
//! pin all that it is built from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::flanneld::copy_tree;
use super::go::{self, GoCache};
use crate::process;
use crate::workspace::Workspace;

/// Programs that are built together, and how their build differs from another's.
#[derive(Debug)]
pub(super) struct Program {
    /// Of its folder in `tests`.
    pub(super) name: &'static str,
    pub(super) module: &'static str,
    pub(super) commands: &'static [Asked],
    /// For the linker: what the program is to say of itself.
    pub(super) ldflags: fn(version: &str) -> String,
}

/// One of the programs.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: &'static str,
    pub(super) source: Source,
    /// What has it print its version. Nothing where it has none to say: it is built with those before and after it.
    pub(super) ask_version: &'static [&'static str],
    /// What is before the version in the first line that it then prints.
    pub(super) says: &'static str,
}

/// What a program is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Its module's package `cmd/NAME`.
    Command,
    /// This package.
    Package(&'static str),
    /// The tests of this package.
    Tests(&'static str),
}

/// What go.mod asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Of the program: `v1.34.4`.
    pub(super) version: String,
    /// Of Go.
    go: String,
}

impl Recipe {
    fn parse(go_mod: &str, module: &str) -> Option<Self> {
        let value = |name: &str| {
            go_mod.lines().find_map(|line| {
                let line = line.trim().trim_start_matches("require ");
                let mut words = line.strip_prefix(name)?.strip_prefix(' ')?.split(' ');
                words.next().map(str::to_owned)
            })
        };
        Some(Self {
            version: value(module)?,
            go: value("go")?,
        })
    }
}

impl Asked {
    fn is_said(&self, printed: &str, version: &str) -> bool {
        let line = printed.lines().next().unwrap_or_default();
        let said = line.split_once(self.says).map(|(_, said)| said);
        // Some say it without Go's `v`.
        let bare = version.trim_start_matches('v');
        said.and_then(|said| said.strip_prefix(version).or(said.strip_prefix(bare)))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
    }
}

impl Program {
    pub(super) fn recipe(&self, workspace: &Workspace) -> Result<Recipe> {
        let path = self.source(workspace).join("go.mod");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Recipe::parse(&text, self.module)
            .with_context(|| format!("{} names no version of {}", path.display(), self.module))
    }

    fn source(&self, workspace: &Workspace) -> PathBuf {
        workspace.root().join("tests").join(self.name)
    }

    /// Whether Debian's pip is needed to build what is missing.
    pub(super) fn needs_pip(&self, workspace: &Workspace) -> Result<bool> {
        let recipe = self.recipe(workspace)?;
        Ok(!self.is_here(workspace, &recipe) && go::needs_pip(workspace, &recipe.go))
    }

    /// Builds it unless it is there in the version that go.mod asks for.
    pub(super) fn ensure(
        &self,
        workspace: &Workspace,
        cache: &GoCache,
        dry_run: bool,
    ) -> Result<()> {
        let recipe = self.recipe(workspace)?;
        let (name, version) = (self.name, &recipe.version);
        let tools = workspace.tools_dir();
        let place = tools.join("bin");
        if self.is_here(workspace, &recipe) {
            println!("setup: {name} {version} is in {}", place.display());
            return Ok(());
        }
        println!(
            "setup: compiling {name} {version} into {} (minutes)",
            place.display()
        );
        if dry_run {
            return Ok(());
        }
        fs::create_dir_all(tools.join("bin"))
            .with_context(|| format!("cannot create {}", tools.display()))?;
        // Somebody else's build in the same cache is waited for, and then there is nothing left to do.
        let lock = tools.join(format!("{name}.lock"));
        let lock = File::create(&lock)
            .and_then(|file| file.lock().map(|()| file))
            .with_context(|| format!("cannot lock {}", lock.display()))?;
        if !self.is_here(workspace, &recipe) {
            self.build(workspace, &recipe, cache)
                .with_context(|| format!("cannot build {name} {version}"))?;
        }
        drop(lock);
        Ok(())
    }

    fn is_here(&self, workspace: &Workspace, recipe: &Recipe) -> bool {
        // One of them leaves folders behind, whatever it is asked.
        let Ok(leavings) = tempfile::tempdir() else {
            return false;
        };
        self.commands.iter().all(|it| {
            if it.ask_version.is_empty() {
                return workspace.tool(it.name).is_file();
            }
            let mut command = Command::new(workspace.tool(it.name));
            command.args(it.ask_version).env("TMPDIR", leavings.path());
            let asked = command.output();
            // One of them says it on standard error.
            asked.is_ok_and(|output| {
                let printed = [output.stdout, output.stderr].concat();
                it.is_said(&String::from_utf8_lossy(&printed), &recipe.version)
            })
        })
    }

    /// In a folder of its own, which goes in the end.
    fn build(&self, workspace: &Workspace, recipe: &Recipe, cache: &GoCache) -> Result<()> {
        let Self { name, module, .. } = self;
        let go = go::ensure(workspace, &recipe.go)?;
        let tools = workspace.tools_dir();
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-build-"))
            .tempdir_in(&tools)
            .with_context(|| format!("cannot make a folder in {}", tools.display()))?;
        let folder = folder.path();
        copy_tree(&self.source(workspace), folder)?;
        let built = folder.join("built");
        let build = |verb: &[&str], to: &Path, packages: &[String]| {
            process::run(
                Command::new(&go)
                    .current_dir(folder)
                    .args(verb)
                    .args(["-mod=readonly", "-trimpath", "-buildvcs=false"])
                    .args(["-ldflags", &(self.ldflags)(&recipe.version)])
                    .arg("-o")
                    .arg(to)
                    .args(packages)
                    // go.mod and go.sum alone decide, not what the machine's owner has set.
                    .env("GOFLAGS", "")
                    .env("GOWORK", "off")
                    .env("GOTOOLCHAIN", "local")
                    .env("GOCACHE", cache.path())
                    // Not in /tmp, which is small memory on many machines.
                    .env("GOTMPDIR", folder)
                    .env("CGO_ENABLED", "0"),
            )
        };
        let mut packages = Vec::new();
        for it in self.commands {
            match it.source {
                Source::Command => packages.push(format!("{module}/cmd/{}", it.name)),
                Source::Package(package) => packages.push(package.to_owned()),
                Source::Tests(package) => {
                    build(&["test", "-c"], &built.join(it.name), &[package.to_owned()])?;
                }
            }
        }
        // A folder, whatever their number.
        build(&["build"], &built.join(""), &packages)?;
        for it in self.commands {
            // By a new name: the old one may be running.
            let place = workspace.tool(it.name);
            fs::rename(built.join(it.name), &place)
                .with_context(|| format!("cannot move {} to {}", it.name, place.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_said_whole() {
        let asked = |says| Asked {
            name: "it",
            source: Source::Command,
            ask_version: &[],
            says,
        };
        assert!(asked("Kubernetes ").is_said("Kubernetes v1.34.4\n", "v1.34.4"));
        assert!(!asked("Kubernetes ").is_said("Kubernetes v1.34.44\n", "v1.34.4"));
        let printed = "Running /x/kube-router version v2.1.0, built on , go1.26\n";
        assert!(asked(" version ").is_said(printed, "v2.1.0"));
        assert!(!asked(" version ").is_said(printed, "v2.1.1"));
        assert!(!asked(" version ").is_said("", "v2.1.0"));
        let printed = "CoreDNS-1.14.5\nlinux/amd64, go1.26, \n";
        assert!(asked("CoreDNS-").is_said(printed, "v1.14.5"));
        assert!(!asked("CoreDNS-").is_said(printed, "v1.14.50"));
    }

    #[test]
    fn replaced_modules_are_not_the_version() {
        let text = "go 1.24.0\nrequire k8s.io/kubernetes v1.34.4\nreplace k8s.io/api => k8s.io/api v0.34.4\n";
        let recipe = Recipe::parse(text, "k8s.io/kubernetes").unwrap();
        assert_eq!((&*recipe.version, &*recipe.go), ("v1.34.4", "1.24.0"));
        assert_eq!(Recipe::parse("go 1.24.0\n", "k8s.io/kubernetes"), None);
    }
}
