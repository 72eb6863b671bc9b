//! What nftables holds, asked without a tool, and when it changes. iptables-nft's rules are in here, too.

mod message;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use message::{Answer, Request};
pub use message::{Chain, Expression, Family, Rule, Touched};

use super::NetError;

/// `NFNLGRP_NFTABLES` as a bit of the groups in an address.
const CHANGES: u32 = 1 << (7 - 1);
/// The kernel answers within the system call; this only ends what should not be.
const PATIENCE: Duration = Duration::from_secs(5);
/// `NLMSG_GOODSIZE` and then some: no message of ours is longer.
const BUFFER: usize = 64 << 10;

/// One chain; `None` where there is no such chain, or no nftables.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn chain(table: &str, name: &str) -> Result<Option<Chain>, NetError> {
    let request = Request::chain(Family::Ipv4, table, name);
    let answers = ask(&request, &format!("look at the chain {name} of nftables"))?;
    Ok(answers.iter().find_map(Chain::parse))
}

/// Every chain; none without nftables.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn chains() -> Result<Vec<Chain>, NetError> {
    let answers = ask(&Request::chains(), "list the chains of nftables")?;
    Ok(answers.iter().filter_map(Chain::parse).collect())
}

/// Every rule; none without nftables.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn all_rules() -> Result<Vec<Rule>, NetError> {
    let answers = ask(&Request::all_rules(), "list the rules of nftables")?;
    Ok(answers.into_iter().filter_map(Rule::parse).collect())
}

/// The rules of a chain; none where there is no such chain, or no nftables.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn rules(table: &str, chain: &str) -> Result<Vec<Rule>, NetError> {
    let request = Request::rules(Family::Ipv4, table, chain);
    let answers = ask(&request, &format!("list the rules of {chain}"))?;
    // Before 4.17 the kernel lists those of all chains.
    let here = |rule: &Rule| rule.of.is(Family::Ipv4, table, Some(chain));
    let rules = answers.into_iter().filter_map(Rule::parse);
    Ok(rules.filter(here).collect())
}

/// Number of the last change of anything; `None` without nftables.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn generation() -> Result<Option<u32>, NetError> {
    let answers = ask(&Request::generation(), "ask nftables for its generation")?;
    Ok(answers.iter().find_map(message::generation))
}

/// What does not exist has no answers.
fn ask(request: &Request, what: &str) -> Result<Vec<Answer>, NetError> {
    let failed = |error: io::Error| NetError::io(what, &error);
    let socket = Socket::from(open(0, SockFlag::empty()).map_err(failed)?);
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    socket.send(request.bytes()).map_err(failed)?;
    let mut answers = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    loop {
        let len = match socket.recv(&mut buffer) {
            // A time-out makes the call end also when the process was stopped and goes on (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received.map_err(failed)?,
        };
        match message::read(written(&buffer, len), &mut answers) {
            Ok(done) if done || !request.is_dump() => return Ok(answers),
            Ok(_) => {}
            // ENOENT: no such table or chain. EINVAL, EOPNOTSUPP: a kernel without nf_tables.
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP) => return Ok(Vec::new()),
                _ => return Err(failed(error)),
            },
        }
    }
}

/// A subscription to changes; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<Socket>,
}

impl Watch {
    /// Subscribes in the calling thread's network namespace. Has to run inside a tokio runtime.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN.
    pub fn open() -> Result<Self, NetError> {
        let socket = open(CHANGES, SockFlag::SOCK_NONBLOCK)
            .and_then(|fd| {
                // SAFETY: the socket owns its descriptor, which is open and stays the same until it is dropped.
                let registered = unsafe { AsyncFd::register(Socket::from(fd)) };
                Ok(registered?)
            })
            .map_err(|error| NetError::io("listen to nftables", &error))?;
        Ok(Self { socket })
    }

    /// Waits until something changed that `concerns` us, or changes were lost.
    ///
    /// # Errors
    /// If the socket breaks.
    pub async fn changed(&self, concerns: impl Fn(&Touched) -> bool) -> io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        loop {
            let received = self
                .socket
                .async_io(tokio::io::Interest::READABLE, |socket| {
                    socket.recv(&mut buffer)
                });
            let len = match received.await {
                Ok(len) => len,
                // More than the socket holds: what it was, nobody knows.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut changes = Vec::new();
            message::read(written(&buffer, len), &mut changes)?;
            let mut touched = changes.iter().filter_map(Touched::parse);
            if touched.any(|touched| concerns(&touched)) {
                return Ok(());
            }
        }
    }
}

fn open(groups: u32, flags: SockFlag) -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags | SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// The part that a system call has filled.
fn written(buffer: &[MaybeUninit<u8>], len: usize) -> &[u8] {
    let filled = &buffer[..len.min(buffer.len())];
    // SAFETY: the kernel wrote `len` bytes, and any byte is a u8.
    unsafe { filled.assume_init_ref() }
}
