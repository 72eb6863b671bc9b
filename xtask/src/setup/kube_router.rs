//! An engine for NetworkPolicy beside a real cluster: kube-router's firewall, as k3s has it beside flannel.

use super::go_program::{Asked, Program, Source};

pub(super) const KUBE_ROUTER: Program = Program {
    name: "kube-router",
    module: "github.com/cloudnativelabs/kube-router/v2",
    commands: &[Asked {
        name: "kube-router",
        source: Source::Command,
        ask_version: &["--version"],
        says: " version ",
    }],
    ldflags,
};

fn ldflags(version: &str) -> String {
    format!("-s -w -X github.com/cloudnativelabs/kube-router/v2/pkg/version.Version={version}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn the_committed_recipe_is_readable() {
        let recipe = KUBE_ROUTER.recipe(&Workspace::locate().unwrap()).unwrap();
        assert!(recipe.version.starts_with("v2."), "{recipe:?}");
    }
}
