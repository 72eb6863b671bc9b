//! Where things are in the repository.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The repository this command runs in.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the repository by the variable that `cargo run` sets, so that a moved or copied target
    /// folder cannot send us to another checkout.
    pub(crate) fn locate() -> Result<Self> {
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir
            .parent()
            .with_context(|| format!("{} has no parent folder", manifest_dir.display()))?
            .to_path_buf();
        Ok(Self { root })
    }

    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The BPF object that the agent embeds.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.root.join("target/bpf/flannel-ebpf")
    }

    /// Apart from `target`: another compiler works here, and would throw away the host's artefacts.
    pub(crate) fn bpf_build_dir(&self) -> PathBuf {
        self.root.join("target/bpf-build")
    }

    /// The CNI plugin as it is shipped.
    pub(crate) fn cni_plugin(&self) -> PathBuf {
        self.root.join("target/cni/flannel")
    }

    /// The container image, as `image` writes it.
    pub(crate) fn image(&self) -> PathBuf {
        self.root.join("target/image/flannel-ebpf.tar")
    }

    /// What `setup` gets for this checkout alone; git-ignored.
    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.root.join(".cache")
    }

    /// Root for `cargo install` of build tools, and where flanneld is.
    pub(crate) fn tools_dir(&self) -> PathBuf {
        self.cache_dir().join("tools")
    }

    /// [`cargo`], to be run in the repository.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root);
        let names = env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| is_of_our_package(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.tools_dir().join("bin").join(name)
    }
}

/// What `cargo run` says of the package that it runs. Build scripts that look at it (ring's does) would be run again, with all
/// that depends on theirs, whenever cargo is called by hand in between.
fn is_of_our_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"]
        .iter()
        .any(|words| variable.starts_with(words))
}

/// The cargo that runs us, so that a rustup override on the command line (`cargo +nightly`) holds.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Where cargo keeps the sources of the dependencies: `$CARGO_HOME`, else `~/.cargo`.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_by_xtask_builds_what_cargo_by_hand_builds() {
        let command = Workspace::locate().unwrap().cargo();
        // A test is run by cargo as well.
        let told = |name: &str| env::var_os(name).is_some();
        assert!(told("CARGO_PKG_NAME") && told("CARGO_MANIFEST_DIR"));
        let names = ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"];
        let removed = |name: &&str| command.get_envs().any(|it| it == (name.as_ref(), None));
        assert!(names.iter().all(removed), "{command:?}");
    }
}
