//! Where clients connect: an address, or a socket that systemd holds already.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;

use crate::settings::remote::Listen;

/// Binds it, or takes it over.
///
/// # Errors
/// The address is taken or not this node's, or systemd has passed no such socket.
pub(super) async fn listen(at: &Listen) -> anyhow::Result<TcpListener> {
    match at {
        Listen::Address(address) => {
            let bound = match address.strip_prefix(':') {
                // As Go does: on all addresses of both families.
                Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
                    Ok(bound) => Ok(bound),
                    Err(_) => TcpListener::bind(format!("0.0.0.0:{port}")).await,
                },
                None => TcpListener::bind(address).await,
            };
            bound.with_context(|| {
                format!("cannot listen on --listen={address}: give a free port and an address of this machine")
            })
        }
        Listen::Socket(wanted) => inherited(*wanted),
    }
}

/// # Errors
/// There is no such socket.
fn inherited(wanted: Option<RawFd>) -> anyhow::Result<TcpListener> {
    let shown = wanted.map_or_else(String::new, |number| number.to_string());
    let passed: Vec<RawFd> = sd_notify::listen_fds()
        .context("cannot read LISTEN_FDS")?
        .collect();
    let number = match wanted {
        Some(number) => passed.iter().find(|passed| **passed == number),
        None => passed.first(),
    };
    let Some(number) = number else {
        bail!(
            "--listen=fd://{shown}: systemd has passed {} sockets, and not that one; start the service by its .socket unit, or give \
             an address",
            passed.len()
        );
    };
    // SAFETY: systemd has opened it for this process, and nobody else here takes what is passed.
    let socket = unsafe { OwnedFd::from_raw_fd(*number) };
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
        .with_context(|| format!("--listen=fd://{shown}: that is no socket that listens"))
}
