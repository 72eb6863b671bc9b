//! Where the API server is, and who we are there.

use std::path::{Path, PathBuf};

use super::error::AccessError;

/// One API server and our credentials there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) server: String,
    /// In its certificate, if not the host of the URL.
    pub(super) server_name: Option<String>,
    /// Any certificate will do.
    pub(super) insecure: bool,
    /// `None`: whom the machine trusts.
    pub(super) authority: Option<Bytes>,
    pub(super) credentials: Credentials,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    /// Certificate and key.
    pub(super) identity: Option<(Bytes, Bytes)>,
    /// Counts more than `token`.
    pub(super) token_file: Option<PathBuf>,
    pub(super) token: Option<String>,
    /// The header's value.
    pub(super) basic: Option<String>,
    pub(super) exec: Option<ExecPlugin>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Contents of a file: read again with each connection, since it may be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bytes {
    Here(Vec<u8>),
    File(PathBuf),
}

/// A program that prints credentials (client.authentication.k8s.io).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExecPlugin {
    pub(super) command: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) api_version: String,
    pub(super) install_hint: String,
}

impl Bytes {
    pub(super) fn read(&self) -> Result<Vec<u8>, AccessError> {
        match self {
            Self::Here(bytes) => Ok(bytes.clone()),
            Self::File(file) => std::fs::read(file).map_err(|source| AccessError::File {
                what: "of the API server's credentials",
                file: file.clone(),
                source,
            }),
        }
    }
}

impl Access {
    /// The URL and nothing else.
    pub(super) fn anonymous(server: String) -> Self {
        Self {
            server,
            server_name: None,
            insecure: false,
            authority: None,
            credentials: Credentials::default(),
        }
    }

    /// As a pod is told; `account` is the folder of its ServiceAccount.
    ///
    /// # Errors
    /// Where there is no pod.
    pub(super) fn in_cluster(host: &str, port: &str, account: &Path) -> Result<Self, AccessError> {
        if host.is_empty() || port.is_empty() {
            return Err(AccessError::NoServer);
        }
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.to_owned(),
        };
        let authority = account.join("ca.crt");
        Ok(Self {
            // Without it Go trusts whom the machine trusts.
            authority: authority.exists().then_some(Bytes::File(authority)),
            credentials: Credentials {
                token_file: Some(account.join("token")),
                ..Credentials::default()
            },
            ..Self::anonymous(format!("https://{host}:{port}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_told_where_and_who() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), "x").unwrap();
        let access = Access::in_cluster("10.96.0.1", "443", folder.path()).unwrap();
        assert_eq!(access.server, "https://10.96.0.1:443");
        assert_eq!(
            access.authority,
            Some(Bytes::File(folder.path().join("ca.crt")))
        );
        let token = access.credentials.token_file;
        assert_eq!(token, Some(folder.path().join("token")));
        let six = Access::in_cluster("fd00::1", "443", Path::new("/none")).unwrap();
        assert_eq!(six.server, "https://[fd00::1]:443");
        assert_eq!(six.authority, None);
        let nothing = Access::in_cluster("", "", folder.path()).unwrap_err();
        assert!(
            nothing.to_string().contains("--kubeconfig-file"),
            "{nothing}"
        );
    }

    #[test]
    fn credentials_are_not_shown() {
        let credentials = Credentials {
            token: Some("hunter22".to_owned()),
            ..Credentials::default()
        };
        assert!(!format!("{credentials:?}").contains("hunter"));
    }
}
