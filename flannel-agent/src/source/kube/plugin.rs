//! Credential plugins of kubeconfig files: a program that prints a token, or a certificate and its key.

use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use super::access::ExecPlugin;
use super::error::AccessError;
use crate::base::open_files;

/// A plugin may ask a cloud.
const PATIENCE: Duration = Duration::from_secs(30);
const DEFAULT_VERSION: &str = "client.authentication.k8s.io/v1";

/// What it printed.
#[derive(Debug, Default, Deserialize)]
struct Printed {
    #[serde(default)]
    status: Option<Given>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Given {
    pub(super) token: Option<String>,
    pub(super) client_certificate_data: Option<String>,
    pub(super) client_key_data: Option<String>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// `KUBERNETES_EXEC_INFO`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    kind: &'a str,
    api_version: &'a str,
    spec: Spec,
}

#[derive(Serialize)]
struct Spec {
    interactive: bool,
}

/// Runs it. Its expiry needs no clock of ours: whoever is refused asks again.
pub(super) async fn ask(plugin: &ExecPlugin) -> Result<Given, AccessError> {
    let failed = |problem: String| AccessError::Plugin {
        command: plugin.command.clone(),
        problem,
    };
    let version = match plugin.api_version.as_str() {
        "" => DEFAULT_VERSION,
        version => version,
    };
    let info = Info {
        kind: "ExecCredential",
        api_version: version,
        spec: Spec { interactive: false },
    };
    let info = serde_json::to_string(&info).map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(&plugin.command);
    command
        .args(&plugin.args)
        .envs(plugin.env.iter().map(|(name, value)| (name, value)))
        .env("KUBERNETES_EXEC_INFO", info)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    open_files::as_given(&mut command);
    let output = match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            let hint = plugin.install_hint.trim();
            let hint = if hint.is_empty() {
                "is it installed?"
            } else {
                hint
            };
            return Err(failed(format!("{error}; {hint}")));
        }
        Err(_) => {
            return Err(failed(format!("no answer in {} s", PATIENCE.as_secs())));
        }
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next_back().unwrap_or_default();
        return Err(failed(format!("{}: {said}", output.status)));
    }
    read(&output.stdout).map_err(failed)
}

fn read(printed: &[u8]) -> Result<Given, String> {
    // Without the reader's words, which may quote a secret.
    let printed: Printed =
        serde_json::from_slice(printed).map_err(|_| "it printed no ExecCredential".to_owned())?;
    let given = printed.status.unwrap_or_default();
    let both = given.client_certificate_data.is_some() && given.client_key_data.is_some();
    if given.token.is_none() && !both {
        return Err("it gave neither a token nor a certificate with its key".to_owned());
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(script: &str) -> ExecPlugin {
        ExecPlugin {
            command: "sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: vec![("TOKEN".to_owned(), "t1".to_owned())],
            api_version: String::new(),
            install_hint: "install it".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_plugin_is_told_what_is_asked_and_gives_a_token() {
        let script = r#"echo "$KUBERNETES_EXEC_INFO" | grep -q ExecCredential && printf '{"status":{"token":"%s"}}' "$TOKEN""#;
        let given = ask(&plugin(script)).await.unwrap();
        assert_eq!(given.token.as_deref(), Some("t1"));
    }

    #[tokio::test]
    async fn failures_are_named_and_secrets_are_not() {
        let error = ask(&plugin("echo broken >&2; exit 3")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("3: broken"), "{text}");
        let text = ask(&plugin("echo '{hunter22'"))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("no ExecCredential") && !text.contains("hunter"),
            "{text}"
        );
        let text = ask(&plugin("echo '{\"status\":{}}'"))
            .await
            .unwrap_err()
            .to_string();
        assert!(text.contains("neither a token"), "{text}");
        let missing = ExecPlugin {
            command: "/no/such/plugin".into(),
            ..plugin("")
        };
        let text = ask(&missing).await.unwrap_err().to_string();
        assert!(
            text.contains("/no/such/plugin") && text.contains("install it"),
            "{text}"
        );
    }
}
