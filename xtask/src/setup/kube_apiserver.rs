//! A real kube-apiserver, the datastore of the end-to-end scenarios with Kubernetes.

use super::go_program::{Asked, Program, Source};

pub(super) const KUBE_APISERVER: Program = Program {
    name: "kube-apiserver",
    module: "k8s.io/kubernetes",
    commands: &[kubernetes("kube-apiserver")],
    ldflags,
};

/// A program of Kubernetes, but for kubectl.
pub(super) const fn kubernetes(name: &'static str) -> Asked {
    Asked {
        name,
        source: Source::Command,
        ask_version: &["--version"],
        says: "Kubernetes ",
    }
}

/// Without its version clients see v0.0.0.
pub(super) fn ldflags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let mut next = || numbers.next().unwrap_or_default();
    let (major, minor) = (next(), next());
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    [
        "-s -w".to_owned(),
        set("gitVersion", version),
        set("gitMajor", major),
        set("gitMinor", minor),
    ]
    .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn the_committed_recipe_is_readable() {
        let recipe = KUBE_APISERVER
            .recipe(&Workspace::locate().unwrap())
            .unwrap();
        assert!(recipe.version.starts_with("v1."), "{recipe:?}");
    }

    #[test]
    fn its_version_is_also_said_in_parts() {
        let flags = ldflags("v1.34.4");
        for part in ["gitVersion=v1.34.4", "gitMajor=1", "gitMinor=34"] {
            assert!(flags.contains(part), "{flags}");
        }
    }
}
