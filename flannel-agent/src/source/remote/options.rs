//! How to reach the servers.

use std::path::PathBuf;
use std::time::Duration;

use super::transport::Server;
use crate::flannel::lease;

/// Which servers, and how long before its end our lease is renewed.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Host and port; with a scheme or without.
    pub servers: Vec<String>,
    /// `None`: the one without a name.
    pub network: Option<String>,
    /// `None`: plain HTTP.
    pub tls: Option<RemoteTls>,
    pub renew_margin: Duration,
    /// After so long without a sign of life a server that gives them counts as dead.
    pub silence: Duration,
}

/// Files for TLS, all PEM, of a client or a server.
#[derive(Debug, Clone)]
pub struct RemoteTls {
    /// Whom to trust. A client without it trusts the system's roots, a server asks for no certificate.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A server breaks the silence every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);

impl RemoteOptions {
    /// Plain access, and flannel's renewal margin.
    #[must_use]
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            network: None,
            tls: None,
            renew_margin: lease::RENEW_MARGIN,
            silence: SILENCE,
        }
    }

    /// # Errors
    /// What is wrong with the name of a server.
    pub fn check(server: &str, tls: bool) -> Result<(), &'static str> {
        Server::parse(server, tls).map(drop)
    }
}
