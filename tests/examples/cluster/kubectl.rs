//! kubectl as the cluster's admin, and what is asked of it often.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flannel_tests::kube_api::KubeApi;
use flannel_tests::netns::run;
use flannel_tests::prelude::*;
use serde_json::Value;

use crate::machine::tools;

/// For what takes seconds on an idle machine.
pub(crate) const LONG: Duration = Duration::from_secs(180);

#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    api: Arc<KubeApi>,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(api: Arc<KubeApi>) -> Self {
        let kubeconfig = api.admin_kubeconfig();
        Self { api, kubeconfig }
    }

    pub(crate) fn api(&self) -> &KubeApi {
        &self.api
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.api.netns().command(&format!("{}/kubectl", tools()));
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--cache-dir={}", self.api.folder().display()))
            .args(args);
        command
    }

    /// helm, for flannel's namespace.
    #[track_caller]
    pub(crate) fn helm(&self, args: &[&str]) {
        let mut command = self.api.netns().command(&format!("{}/helm", tools()));
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg("--namespace=kube-flannel")
            .args(args);
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, self.api.folder());
        }
        run(&mut command);
    }

    /// # Errors
    /// What it said, if it failed.
    pub(crate) fn try_run(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command(args).output().expect("start kubectl");
        said(args, &output)
    }

    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.try_run(args).unwrap_or_else(|e| panic!("{e}"))
    }

    #[track_caller]
    pub(crate) fn apply(&self, objects: &str) {
        self.try_apply(objects).unwrap_or_else(|e| panic!("{e}"));
    }

    /// # Errors
    /// What it said, if it failed.
    pub(crate) fn try_apply(&self, objects: &str) -> Result<String, String> {
        let mut command = self.command(&["apply", "--filename=-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("kubectl");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(objects.as_bytes()).expect("write to it");
        drop(stdin);
        let output = child.wait_with_output().expect("wait for kubectl");
        said(&["apply"], &output)
    }

    /// A command in a pod: its shell's.
    ///
    /// # Errors
    /// What it said, if it failed.
    pub(crate) fn try_exec(&self, pod: &str, script: &str) -> Result<String, String> {
        self.try_run(&["exec", pod, "--", "bash", "-c", script])
    }

    #[track_caller]
    pub(crate) fn exec(&self, pod: &str, script: &str) -> String {
        self.try_exec(pod, script).unwrap_or_else(|e| panic!("{e}"))
    }

    #[track_caller]
    pub(crate) fn get(&self, what: &[&str]) -> Value {
        let args = [&["get", "--output=json"], what].concat();
        serde_json::from_str(&self.run(&args)).expect("JSON")
    }

    /// Until flannel's DaemonSet is as it was last applied, and ready, on every node.
    pub(crate) fn rolled_out(&self) {
        let set = "daemonset/kube-flannel-ds";
        self.run(&[
            "--namespace=kube-flannel",
            "rollout",
            "status",
            "--timeout=240s",
            set,
        ]);
    }

    pub(crate) fn nodes_ready(&self) {
        self.run(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=240s",
            "node",
            "--all",
        ]);
    }

    pub(crate) fn pods_ready(&self) {
        self.run(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=240s",
            "pod",
            "--all",
        ]);
    }

    /// Until `pod` has an address.
    pub(crate) fn address(&self, pod: &str) -> String {
        eventually_some(format!("{pod} has an address"), LONG, || {
            let address = &self.get(&["pod", pod])["status"]["podIP"];
            address.as_str().map(str::to_owned)
        })
    }
}

fn said(args: &[&str], output: &Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("kubectl {}: {stdout}{stderr}", args.join(" ")))
}
