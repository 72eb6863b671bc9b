//! What can go wrong between us and the API server, in words an operator can act on.

use std::path::PathBuf;

use serde::Deserialize;

/// The way to the API server, or our credentials, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("cannot read {file} ({what}): {source}; give a file the agent may read")]
    File {
        what: &'static str,
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{file} (--kubeconfig-file): {problem}")]
    Kubeconfig { file: PathBuf, problem: String },
    #[error(
        "no API server is named: give --kubeconfig-file or --kube-api-url, or run in a pod, where \
         KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT say it"
    )]
    NoServer,
    #[error("{url:?} is no address of an API server: {problem}; write https://192.0.2.1:6443")]
    Url { url: String, problem: &'static str },
    #[error("TLS to the API server: {0}")]
    Tls(String),
    #[error("{command} (exec in the kubeconfig file): {problem}")]
    Plugin { command: PathBuf, problem: String },
    #[error(
        "the node's name is unknown: set NODE_NAME, or POD_NAME and POD_NAMESPACE of the pod that this runs in"
    )]
    NoNodeName,
}

/// A request to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// Passes when the API server is back.
    #[error("cannot {what}: the API server at {server} does not answer ({reason})")]
    Unreachable {
        what: String,
        server: String,
        reason: String,
    },
    /// It answered with a refusal.
    #[error("the API server refuses to {what}: {reason}{}", fix(*.code, .what))]
    Refused {
        what: String,
        code: u16,
        reason: String,
    },
    /// The history from which we want to follow is gone: list anew. Not a fault.
    #[error("the API server no longer knows version {0}")]
    Gone(String),
    /// It has no streaming lists: ask for pages. Not a fault.
    #[error("the API server streams no lists: {0}")]
    NoStream(String),
    #[error("the API server ended the watch: {0}")]
    WatchEnded(String),
    #[error("cannot {what}: the answer cannot be read: {reason}")]
    Answer { what: String, reason: String },
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// What an operator can do about a refusal.
fn fix(code: u16, what: &str) -> String {
    match code {
        401 => {
            "; check the token or certificate that the kubeconfig file or the ServiceAccount gives"
                .to_owned()
        }
        403 => {
            format!("; let the agent's ServiceAccount {what} by a ClusterRole (flannel's own does)")
        }
        _ => String::new(),
    }
}

/// `metav1.Status`, as far as it says why.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) message: String,
    pub(super) reason: String,
    pub(super) code: u16,
}

impl Status {
    /// The answer's own words, or what can be made of them.
    pub(super) fn of(code: u16, body: &[u8]) -> Self {
        let status: Self = serde_json::from_slice(body).unwrap_or_default();
        let text = String::from_utf8_lossy(body);
        let message = match status.message.is_empty() {
            true => format!("HTTP {code} {}", text.lines().next().unwrap_or_default()),
            false => status.message,
        };
        Self {
            message,
            code: if status.code == 0 { code } else { status.code },
            ..status
        }
    }

    pub(super) fn refuse(self, what: &str) -> KubeError {
        KubeError::Refused {
            what: what.to_owned(),
            code: self.code,
            reason: self.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_named_by_verb_and_object() {
        let body = br#"{"kind":"Status","status":"Failure","message":"nodes \"a\" is forbidden: User \"u\" cannot patch resource \"nodes/status\" in API group \"\" at the cluster scope","reason":"Forbidden","code":403}"#;
        let error = Status::of(403, body).refuse("patch nodes/status of a");
        let text = error.to_string();
        assert!(
            text.contains("patch nodes/status of a") && text.contains("cannot patch"),
            "{text}"
        );
        assert!(text.contains("ClusterRole"), "{text}");
    }

    #[test]
    fn an_answer_that_is_no_status_speaks_for_itself() {
        let status = Status::of(502, b"Bad Gateway\nmore");
        assert_eq!(
            (status.code, &*status.message),
            (502, "HTTP 502 Bad Gateway")
        );
    }
}
