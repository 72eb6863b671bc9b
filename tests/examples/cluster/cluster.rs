//! The whole: an API server with what makes its objects true, and two nodes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flannel_tests::kube_api::KubeApi;
use flannel_tests::prelude::*;
use flannel_tests::process::Process;

use crate::kubectl::{Kubectl, LONG};
use crate::machine::{Machine, tools};
use crate::pods::SERVER;

/// Nodes and controllers go before what they talk to.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) machines: [Machine; 2],
    _controllers: [Process; 2],
    pub(crate) kubectl: Kubectl,
    /// It serves as the pods do.
    pub(crate) outside: Outside,
    _server: Process,
    _lab: Lab,
}

impl Cluster {
    /// With the nodes registered; what their pods' network is made of is not there yet.
    pub(crate) fn start(mode: &str) -> Self {
        Self::with_images(mode, &[])
    }

    /// The same, with archives of `target/cluster` that the nodes know beside the others.
    pub(crate) fn with_images(mode: &str, more: &[&str]) -> Self {
        let lab = Lab::new();
        let api = Arc::new(KubeApi::of_cluster(&lab));
        let kubectl = Kubectl::new(api.clone());
        let controllers = controllers(&lab, &api, kubectl.kubeconfig());
        let images = images(more);
        let mut machines = ["one", "two"]
            .map(|name| Machine::boot(&lab, name, kubectl.kubeconfig(), &images, mode));
        machines.iter_mut().for_each(Machine::wait_until_up);
        eventually("the nodes are registered", LONG, || {
            let nodes = kubectl.try_run(&["get", "nodes", "--output=name"]);
            nodes.is_ok_and(|nodes| nodes.lines().count() == machines.len())
        });
        let outside = lab.outside();
        let mut server = outside.netns().command("perl");
        server.args(["-e", SERVER]).env("HOSTNAME", "outside");
        Self {
            machines,
            _controllers: controllers,
            kubectl,
            outside,
            _server: Process::spawn("server", server, &lab.folder().join("server.log")),
            _lab: lab,
        }
    }

    /// What is known of a failure.
    pub(crate) fn logs(&self) -> String {
        let ask = |args: &[&str]| match self.kubectl.try_run(args) {
            Ok(said) | Err(said) => said,
        };
        let mut text = ask(&["get", "--all-namespaces", "--output=wide", "nodes,pods"]);
        text += &ask(&[
            "get",
            "events",
            "--all-namespaces",
            "--sort-by=.lastTimestamp",
        ]);
        let pods = ask(&["--namespace=kube-flannel", "get", "pods", "--output=name"]);
        for pod in pods.lines() {
            text += &format!("---- {pod}\n");
            text += &ask(&[
                "--namespace=kube-flannel",
                "logs",
                "--all-containers",
                "--tail=30",
                pod,
            ]);
        }
        for machine in &self.machines {
            text += &machine.logs();
        }
        text
    }
}

fn controllers(lab: &Lab, api: &KubeApi, kubeconfig: &Path) -> [Process; 2] {
    let start = |name: &str, flags: &[String]| {
        let mut command = api.netns().command(&format!("{}/{name}", tools()));
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args(["--leader-elect=false", "--secure-port=0"])
            .args(flags);
        Process::spawn(name, command, &lab.folder().join(format!("{name}.log")))
    };
    let kube = |name: &str| api.folder().join(name).display().to_string();
    let manager = [
        "--allocate-node-cidrs=true".to_owned(),
        "--cluster-cidr=10.244.0.0/16".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        format!("--service-account-private-key-file={}", kube("server.key")),
        format!("--root-ca-file={}", kube("server.pem")),
    ];
    [
        start("kube-controller-manager", &manager),
        start("kube-scheduler", &[]),
    ]
}

fn images(more: &[&str]) -> Vec<PathBuf> {
    let names = [
        "cluster/pod.tar",
        "image/flannel-ebpf.tar",
        "cluster/flannel-0.tar",
        "cluster/flannel-1.tar",
    ];
    let more = more.iter().map(|name| format!("cluster/{name}"));
    let names = names.into_iter().map(str::to_owned).chain(more);
    let paths = names.map(|name| target().join(name).canonicalize());
    paths
        .map(|path| path.expect("`cargo xtask test --cluster` makes it"))
        .collect()
}

/// Of the workspace.
pub(crate) fn target() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("target")
}
