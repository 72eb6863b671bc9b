//! What a test asks of the API server as its admin.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::kube_api::{ADMIN, KubeApi};

/// The prefix of flannel's annotations.
pub const PREFIX: &str = "flannel.alpha.coreos.com";

impl KubeApi {
    /// The answer, or the body of a refusal.
    ///
    /// # Errors
    /// Also when nobody answers.
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> Result<Value, String> {
        let mut command = self.curl();
        command
            .args(["--silent", "--show-error", "--max-time", "20"])
            .args(["--cacert".as_ref(), self.ca.as_os_str()])
            .args(["--header", &format!("Authorization: Bearer {ADMIN}")])
            .args(["--request", method])
            .args(["--write-out", "\n%{http_code}"]);
        if body.is_some() {
            let kind = match method {
                "PATCH" => "application/strategic-merge-patch+json",
                _ => "application/json",
            };
            command.args(["--header", &format!("Content-Type: {kind}")]);
            command.args(["--data-binary", "@-"]);
        }
        command.arg(format!("{}{path}", self.url()));
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run curl");
        let mut stdin = child.stdin.take().expect("its input");
        // One that has given up reads nothing any more.
        let _ = stdin.write_all(body.unwrap_or_default().as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("wait for curl");
        let text = String::from_utf8_lossy(&output.stdout);
        let (text, code) = text.rsplit_once('\n').unwrap_or(("", "000"));
        if !output.status.success() || !code.starts_with('2') {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{method} {path}: {code} {text} {stderr}"));
        }
        Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)))
    }

    #[track_caller]
    fn must(&self, method: &str, path: &str, body: Option<&str>) -> Value {
        self.request(method, path, body)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    pub fn create(&self, path: &str, body: &str) -> Value {
        self.must("POST", path, Some(body))
    }

    /// A Node as a kubelet registers it, with its podCIDRs if it has any yet.
    #[track_caller]
    pub fn add_node(&self, name: &str, pod_cidrs: &[&str]) {
        // flanneld breaks at a Node without any annotation.
        let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
        self.add_node_with(name, pod_cidrs, &annotations);
    }

    /// The same with these annotations.
    #[track_caller]
    pub fn add_node_with(&self, name: &str, pod_cidrs: &[&str], annotations: &Value) {
        let body = node_with(name, pod_cidrs, annotations);
        self.create("/api/v1/nodes", &body.to_string());
    }

    /// Thousands of Nodes, many at a time.
    ///
    /// # Panics
    /// If the API server does not take one of them.
    pub fn add_nodes(&self, nodes: impl IntoIterator<Item = Value>) {
        let folder = self.folder().join("nodes");
        std::fs::create_dir_all(&folder).expect("a folder for the Nodes");
        let mut requests = String::new();
        for (n, node) in nodes.into_iter().enumerate() {
            let file = folder.join(n.to_string());
            std::fs::write(&file, node.to_string()).expect("write a Node");
            let (url, ca, file) = (self.url(), self.ca.display(), file.display());
            // Each request says all of it anew.
            requests.push_str(&format!(
                "next\nurl = \"{url}/api/v1/nodes\"\ncacert = \"{ca}\"\nheader = \"Authorization: Bearer {ADMIN}\"\n\
                 header = \"Content-Type: application/json\"\ndata-binary = \"@{file}\"\noutput = \"/dev/null\"\nfail\n"
            ));
        }
        let config = folder.join("requests");
        let requests = requests.strip_prefix("next\n").unwrap_or(&requests);
        std::fs::write(&config, requests).expect("write the requests");
        let mut command = self.curl();
        command.args(["--silent", "--show-error", "--fail-early", "--parallel"]);
        command.arg("--config").arg(&config);
        let output = command.output().expect("run curl");
        assert!(output.status.success(), "curl: {output:?}");
    }

    /// A Node as one that flannel has annotated: of a vxlan network, at `public_ip`, with `data` as its tunnel's.
    #[track_caller]
    pub fn add_peer(&self, name: &str, pod_cidr: &str, public_ip: &str, data: &str) {
        let body = Self::peer(name, pod_cidr, public_ip, data);
        self.create("/api/v1/nodes", &body.to_string());
    }

    /// Such a Node as an object.
    pub fn peer(name: &str, pod_cidr: &str, public_ip: &str, data: &str) -> Value {
        let annotations = json!({
            format!("{PREFIX}/kube-subnet-manager"): "true",
            format!("{PREFIX}/backend-type"): "vxlan",
            format!("{PREFIX}/backend-data"): data,
            format!("{PREFIX}/public-ip"): public_ip,
        });
        node_with(name, &[pod_cidr], &annotations)
    }

    #[track_caller]
    pub fn delete_node(&self, name: &str) {
        self.must("DELETE", &format!("/api/v1/nodes/{name}"), None);
    }

    #[track_caller]
    pub fn node(&self, name: &str) -> Value {
        self.must("GET", &format!("/api/v1/nodes/{name}"), None)
    }

    #[track_caller]
    pub fn patch_node(&self, name: &str, patch: &Value) {
        let path = format!("/api/v1/nodes/{name}");
        self.must("PATCH", &path, Some(&patch.to_string()));
    }

    /// As kube-controller-manager does.
    #[track_caller]
    pub fn assign(&self, name: &str, pod_cidr: &str) {
        let spec = json!({"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]});
        self.patch_node(name, &json!({ "spec": spec }));
    }

    /// One of flannel's annotations, by the end of its name.
    #[track_caller]
    pub fn annotation(&self, node: &str, name: &str) -> Option<String> {
        let full = format!("{PREFIX}/{name}");
        let annotations = &self.node(node)["metadata"]["annotations"];
        annotations[full].as_str().map(str::to_owned)
    }

    /// Null takes one away.
    #[track_caller]
    pub fn annotate(&self, node: &str, name: &str, value: impl Into<Value>) {
        let full = format!("{PREFIX}/{name}");
        let annotations = json!({ full: value.into() });
        self.patch_node(node, &json!({"metadata": {"annotations": annotations}}));
    }

    /// The condition NetworkUnavailable: status, reason and message.
    #[track_caller]
    pub fn network_unavailable(&self, node: &str) -> Option<[String; 3]> {
        let node = self.node(node);
        let conditions = node["status"]["conditions"].as_array()?;
        let condition = conditions
            .iter()
            .find(|condition| condition["type"] == "NetworkUnavailable")?;
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Some(["status", "reason", "message"].map(text))
    }

    /// Method, path and body of what flannel's ServiceAccount wrote.
    pub fn writes(&self) -> Vec<(String, String, Value)> {
        let entries = self.audit().into_iter();
        entries
            .filter(|entry| !matches!(entry["verb"].as_str(), Some("get" | "list" | "watch")))
            .map(|entry| {
                let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
                (
                    text("verb"),
                    text("requestURI"),
                    entry["requestObject"].clone(),
                )
            })
            .collect()
    }
}

fn node_with(name: &str, pod_cidrs: &[&str], annotations: &Value) -> Value {
    let mut spec = json!({});
    if let Some(first) = pod_cidrs.first() {
        spec = json!({"podCIDR": first, "podCIDRs": pod_cidrs});
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": annotations}, "spec": spec})
}
