//! Kubernetes objects as we ship them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kube_api::KubeApi;

/// A file or folder of `deploy/`.
pub fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

/// The objects of `deploy/kube-flannel-ebpf.yaml`, in its order.
#[track_caller]
pub fn shipped() -> Vec<Value> {
    let file = deployed("kube-flannel-ebpf.yaml");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    objects(&text)
}

/// Those of a file with several documents. One of comments alone is none.
#[track_caller]
pub fn objects(text: &str) -> Vec<Value> {
    let documents = text.trim_start_matches("---\n").split("\n---\n");
    let objects = documents.map(|document| {
        serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{document}: {e}"))
    });
    objects.filter(|object: &Value| !object.is_null()).collect()
}

#[track_caller]
pub fn object<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

/// `Kind/name`.
#[track_caller]
pub fn name(object: &Value) -> String {
    let [kind, name] = [&object["kind"], &object["metadata"]["name"]];
    format!(
        "{}/{}",
        kind.as_str().expect("kind"),
        name.as_str().expect("name")
    )
}

/// Has the API server make it; a field that it does not know is an error.
#[track_caller]
pub fn create(api: &KubeApi, object: &Value) {
    let path = format!("{}?fieldValidation=Strict", path(object));
    api.create(&path, &object.to_string());
}

/// Whether the API server would, and nothing is made.
///
/// # Errors
/// Its refusal.
pub fn try_create(api: &KubeApi, object: &Value) -> Result<(), String> {
    let path = format!("{}?fieldValidation=Strict&dryRun=All", path(object));
    let made = api.request("POST", &path, Some(&object.to_string()));
    made.map(drop)
}

/// Where the API server makes objects of this kind.
fn path(object: &Value) -> String {
    let group = match object["apiVersion"].as_str().expect("apiVersion") {
        "v1" => "/api/v1".to_owned(),
        group => format!("/apis/{group}"),
    };
    let kind = object["kind"].as_str().expect("kind").to_lowercase();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{kind}s"),
        None => format!("{group}/{kind}s"),
    }
}
