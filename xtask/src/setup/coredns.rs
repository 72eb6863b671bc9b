//! The DNS of a cluster, without which most of Kubernetes' own tests of Services fail: they connect by name as well.

use super::go_program::{Asked, Program, Source};

/// By a `main` of our own, in its folder of `tests`.
pub(super) const COREDNS: Program = Program {
    name: "coredns",
    module: "github.com/coredns/coredns",
    commands: &[Asked {
        name: "coredns",
        source: Source::Package("."),
        ask_version: &["-version"],
        says: "CoreDNS-",
    }],
    ldflags: |_| "-s -w".to_owned(),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn the_committed_recipe_is_readable() {
        let recipe = COREDNS.recipe(&Workspace::locate().unwrap()).unwrap();
        assert!(recipe.version.starts_with("v1."), "{recipe:?}");
    }
}
