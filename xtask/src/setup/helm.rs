//! helm, which makes objects of the shipped chart.

use super::go_program::{Asked, Program, Source};

pub(super) const HELM: Program = Program {
    name: "helm",
    module: "helm.sh/helm/v3",
    commands: &[Asked {
        name: "helm",
        source: Source::Command,
        ask_version: &["version", "--template={{.Version}}"],
        says: "",
    }],
    ldflags,
};

fn ldflags(version: &str) -> String {
    format!("-s -w -X helm.sh/helm/v3/internal/version.version={version}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn the_committed_recipe_is_readable() {
        let recipe = HELM.recipe(&Workspace::locate().unwrap()).unwrap();
        assert!(recipe.version.starts_with("v3."), "{recipe:?}");
        assert!(ldflags(&recipe.version).ends_with(&recipe.version));
    }
}
