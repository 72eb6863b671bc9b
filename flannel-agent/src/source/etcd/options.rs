//! How to reach etcd.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::flannel::lease;

/// Which etcd, which network in it, and how long before expiry our lease is renewed.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// URLs; `host:port` alone means https with a client identity and http without.
    pub endpoints: Vec<String>,
    /// Duplicate, trailing and dot segments are cleaned up as Go's path join does.
    pub prefix: String,
    pub tls: Tls,
    pub login: Option<Login>,
    pub renew_margin: Duration,
}

impl EtcdOptions {
    /// Plain access without a login, and flannel's renewal margin.
    #[must_use]
    pub fn new(endpoints: Vec<String>, prefix: impl Into<String>) -> Self {
        Self {
            endpoints,
            prefix: prefix.into(),
            tls: Tls::default(),
            login: None,
            renew_margin: lease::RENEW_MARGIN,
        }
    }
}

/// Files for https endpoints, all PEM. http endpoints do not use them.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Whom to trust; without it the system's roots.
    pub ca_file: Option<PathBuf>,
    pub identity: Option<ClientIdentity>,
}

/// A TLS client certificate.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// etcd v3 authentication.
#[derive(Clone)]
pub struct Login {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Login {
    /// Without the password: debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}
