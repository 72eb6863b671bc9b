//! The shipped chart by helm, which `cargo xtask setup` builds.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::manifest::{deployed, objects};

/// helm with a home of its own.
#[derive(Debug)]
pub struct Helm {
    home: TempDir,
}

impl Helm {
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("a folder"),
        }
    }

    /// What the chart makes of these values (YAML) for an installation in kube-flannel, in a cluster as recent as our API server.
    ///
    /// # Errors
    /// What helm says when it refuses.
    pub fn template(&self, values: &str) -> Result<Vec<Value>, String> {
        self.template_for("v1.34.4", values)
    }

    /// The same for a cluster of another version.
    ///
    /// # Errors
    /// What helm says when it refuses.
    pub fn template_for(&self, kubernetes: &str, values: &str) -> Result<Vec<Value>, String> {
        let file = self.home.path().join("values.yaml");
        std::fs::write(&file, values).expect("write the values");
        let version = format!("--kube-version={kubernetes}");
        let verb = ["template", "flannel", "--namespace=kube-flannel", &version];
        let output = self.run(&verb, &file);
        if output.status.success() {
            return Ok(objects(&String::from_utf8_lossy(&output.stdout)));
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What `helm lint --strict` says, and whether it is content.
    pub fn lint(&self, values: &str) -> (bool, String) {
        let file = self.home.path().join("values.yaml");
        std::fs::write(&file, values).expect("write the values");
        let output = self.run(&["lint", "--strict"], &file);
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        (output.status.success(), format!("{out}{err}"))
    }

    fn run(&self, verb: &[&str], values: &Path) -> Output {
        let mut command = Command::new(binary());
        command.args(verb).arg(deployed("charts/flannel-ebpf"));
        command.arg("--values").arg(values);
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, self.home.path());
        }
        // It would be asked for nothing, and must not be found.
        command.env("KUBECONFIG", self.home.path().join("none"));
        command.output().expect("run helm")
    }
}

/// Where `cargo xtask setup` put it.
///
/// # Panics
/// If it did not.
fn binary() -> PathBuf {
    let helm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/tools/bin/helm");
    assert!(
        helm.exists(),
        "{} is missing: `cargo xtask setup` builds it",
        helm.display()
    );
    helm
}
