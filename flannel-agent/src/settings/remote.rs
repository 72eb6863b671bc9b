//! Client–server mode: what its flags mean.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::flags::Flags;
use crate::base::options::Authorize;
use crate::source::remote::{RemoteOptions, RemoteTls};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Host and port, or a port behind a colon.
    Address(String),
    /// A socket that systemd passes; `None`: the first.
    Socket(Option<RawFd>),
}

/// What `--listen` asks for.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub listen: Listen,
    pub tls: Option<RemoteTls>,
    pub authorize: Authorize,
    /// At a time.
    pub connections: usize,
}

/// The first number that systemd gives to a socket (sd_listen_fds(3)).
const FIRST_SOCKET: RawFd = 3;

/// `None`: this is no server.
pub(super) fn server(flags: &Flags) -> Result<Option<ServerOptions>, ConfigError> {
    let text = flags.listen.trim();
    if text.is_empty() {
        if flags.remote_authorize != Authorize::None {
            return Err(ConfigError::new(
                "remote-authorize",
                "public-ip",
                "only a server can ask who writes",
                "give it to the server, beside --listen",
            ));
        }
        return Ok(None);
    }
    let conflict = |problem, fix| ConfigError::new("listen", text, problem, fix);
    if !flags.remote.is_empty() {
        return Err(conflict(
            "a server takes its leases from etcd, and --remote is given, too",
            "leave one of them out: --listen makes a server, --remote a client of one",
        ));
    }
    if flags.kube_subnet_mgr {
        return Err(conflict(
            "a server takes its leases from etcd, and --kube-subnet-mgr is given, too",
            "leave one of them out: in Kubernetes every node asks the API server",
        ));
    }
    let tls = tls(flags)?;
    if let Some(tls) = &tls
        && tls.identity.is_none()
    {
        return Err(ConfigError::new(
            "remote-cafile",
            &flags.remote_cafile,
            "a server without a certificate",
            "give --remote-certfile and --remote-keyfile, too",
        ));
    }
    let asks = tls.as_ref().is_some_and(|tls| tls.ca_file.is_some());
    if flags.remote_authorize == Authorize::PublicIp && !asks {
        return Err(ConfigError::new(
            "remote-authorize",
            "public-ip",
            "without client certificates nobody knows who writes",
            "give --remote-cafile, and --remote-certfile with --remote-keyfile",
        ));
    }
    Ok(Some(ServerOptions {
        listen: listen(text)?,
        tls,
        authorize: flags.remote_authorize,
        connections: flags.remote_connections.get(),
    }))
}

fn listen(text: &str) -> Result<Listen, ConfigError> {
    const FIX: &str =
        "give an address and a port such as 0.0.0.0:8888, or fd:// for systemd's socket";
    let bad = |problem: &str| ConfigError::new("listen", text, problem, FIX);
    if let Some(number) = text.strip_prefix("fd://") {
        if number.is_empty() {
            return Ok(Listen::Socket(None));
        }
        let number: Option<RawFd> = number.parse().ok();
        let number = number.filter(|number| *number >= FIRST_SOCKET);
        let number = number.ok_or_else(|| bad("systemd numbers its sockets from 3 on"))?;
        return Ok(Listen::Socket(Some(number)));
    }
    let address = text.strip_prefix("tcp://").unwrap_or(text);
    let port = address
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(Listen::Address(address.to_owned())),
        Some(Err(_)) => Err(bad("that is no port")),
        None => Err(bad("there is no port")),
    }
}

/// `None`: no server is asked.
pub(super) fn client(
    flags: &Flags,
    renew_margin: Duration,
) -> Result<Option<RemoteOptions>, ConfigError> {
    let servers: Vec<String> = flags
        .remote
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .map(str::to_owned)
        .collect();
    if servers.is_empty() {
        return Ok(None);
    }
    if flags.kube_subnet_mgr {
        return Err(ConfigError::new(
            "remote",
            &flags.remote,
            "the leases come from a server or from Kubernetes, and --kube-subnet-mgr is given, too",
            "leave one of them out",
        ));
    }
    let tls = tls(flags)?;
    for server in &servers {
        RemoteOptions::check(server, tls.is_some()).map_err(|problem| {
            ConfigError::new(
                "remote",
                server,
                problem,
                "give host and port of each server, with commas between: 10.0.0.3:8888,10.0.0.4:8888",
            )
        })?;
    }
    Ok(Some(RemoteOptions {
        tls,
        renew_margin,
        ..RemoteOptions::new(servers)
    }))
}

/// `None`: plain HTTP.
fn tls(flags: &Flags) -> Result<Option<RemoteTls>, ConfigError> {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let ca_file = path(&flags.remote_cafile);
    let identity = match (path(&flags.remote_certfile), path(&flags.remote_keyfile)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError::new(
                "remote-certfile",
                &flags.remote_certfile,
                "a certificate without its key",
                "give --remote-keyfile, too",
            ));
        }
        (None, Some(_)) => {
            return Err(ConfigError::new(
                "remote-keyfile",
                &flags.remote_keyfile,
                "a key without its certificate",
                "give --remote-certfile, too",
            ));
        }
    };
    if ca_file.is_none() && identity.is_none() {
        return Ok(None);
    }
    Ok(Some(RemoteTls { ca_file, identity }))
}
