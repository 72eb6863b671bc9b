//! helm, which makes objects of the shipped chart.

use super::go_program::Program;

pub(super) const HELM: Program = Program {
    name: "helm",
    module: "helm.sh/helm/v3",
    ask_version: &["version", "--template={{.Version}}"],
    says: "",
    ldflags,
};

fn ldflags(version: &str) -> String {
    format!("-s -w -X helm.sh/helm/v3/internal/version.version={version}")
}
