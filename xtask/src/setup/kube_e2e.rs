//! Kubernetes' own end-to-end tests, what runs them, and what they put into pods.

use super::go_program::{Asked, Program, Source};
use super::kube_apiserver::ldflags;

/// The tests come last: they say their version, and what is built with them does not.
pub(super) const KUBE_E2E: Program = Program {
    name: "kube-e2e",
    module: "k8s.io/kubernetes",
    commands: &[
        beside("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
        beside("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
        beside(
            "regression-issue-74839",
            "k8s.io/kubernetes/test/images/regression-issue-74839",
        ),
        Asked {
            name: "e2e.test",
            source: Source::Tests("k8s.io/kubernetes/test/e2e"),
            ask_version: &["--version"],
            says: "",
        },
    ],
    ldflags,
};

const fn beside(name: &'static str, package: &'static str) -> Asked {
    Asked {
        name,
        source: Source::Package(package),
        ask_version: &[],
        says: "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::kube_apiserver::KUBE_APISERVER;
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn they_are_of_the_version_of_the_api_server() {
        let workspace = Workspace::locate().unwrap();
        let [one, other] =
            [KUBE_E2E, KUBE_APISERVER].map(|it| it.recipe(&workspace).unwrap().version);
        assert_eq!(one, other);
    }
}
