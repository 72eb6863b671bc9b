//! What a real cluster has beside kube-apiserver.

use super::go_program::{Asked, Program, Source};
use super::kube_apiserver::{kubernetes, ldflags};

pub(super) const KUBE_CLUSTER: Program = Program {
    name: "kube-cluster",
    module: "k8s.io/kubernetes",
    commands: &[
        kubernetes("kube-controller-manager"),
        kubernetes("kube-proxy"),
        kubernetes("kube-scheduler"),
        kubernetes("kubelet"),
        Asked {
            name: "kubectl",
            source: Source::Command,
            ask_version: &["version", "--client"],
            says: "Client Version: ",
        },
    ],
    ldflags,
};

#[cfg(test)]
mod tests {
    use super::super::kube_apiserver::KUBE_APISERVER;
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn it_is_of_the_version_of_the_api_server() {
        let workspace = Workspace::locate().unwrap();
        let [one, other] =
            [KUBE_CLUSTER, KUBE_APISERVER].map(|it| it.recipe(&workspace).unwrap().version);
        assert_eq!(one, other);
    }
}
