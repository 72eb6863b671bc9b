//! TCP connections that conntrack has, and what it minds about them (`nf_conntrack_proto_tcp.c`, `ctnetlink`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use socket2::Socket;

use super::NetError;
use super::message::{HEADER, NLMSG_DONE, NLMSG_ERROR, attribute, dump_request, message};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_NEW` and `_GET`.
const NEW: u16 = 1 << 8;
const GET: u16 = NEW | 1;
const NLM_F_REQUEST: u16 = 1;
/// `struct nfgenmsg`.
const FAMILY: usize = 4;
/// An attribute made of attributes.
const NESTED: u16 = 1 << 15;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_PROTOINFO: u16 = 4;
const CTA_ZONE: u16 = 18;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`: of this one connection, what `nf_conntrack_tcp_be_liberal` is of all.
const BE_LIBERAL: u8 = 0x08;
/// `IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED`: it is kept for minutes, not days.
const DATA_UNACKNOWLEDGED: u8 = 0x10;

/// The kernel answers within the system call; this only ends what should not be.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the kernel gives at once (`NLMSG_GOODSIZE`, or more if it is asked by larger buffers).
const BUFFER: usize = 64 << 10;
/// Of changes that are sent at once: the kernel works them off within the system call.
const BATCH: usize = 32 << 10;

/// Has conntrack go on as it is about each IPv4 connection that there is, whatever the sysctl about TCP's windows says from now on. It never
/// saw most of what fast flows sent, and what is out of the windows that it knows does not move them: those stay behind for as long as
/// the connection lives. Returns how many connections there are. Blocks for some milliseconds per ten thousand.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where the kernel has no `nf_conntrack_netlink`. A connection that ends meanwhile is none.
pub fn stay_liberal() -> Result<usize, NetError> {
    let failed =
        |error: &io::Error| NetError::io("be liberal about the connections that there are", error);
    change_all().map_err(|error| failed(&error))
}

fn change_all() -> io::Result<usize> {
    let changes = open()?;
    let list = open()?;
    list.set_read_timeout(Some(PATIENCE))?;
    list.send(&dump_request(
        GET,
        &[libc::AF_INET.to_ne_bytes()[0], 0, 0, 0],
    ))?;
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let (mut batch, mut count) = (Vec::with_capacity(BATCH + BUFFER), 0);
    loop {
        let len = match list.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        let mut rest = written(&buffer, len);
        let mut is_done = false;
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => is_done = true,
                NLMSG_ERROR => return Err(refusal(body)),
                _ => {
                    if let Some(change) = change(body) {
                        batch.extend(change);
                        count += 1;
                    }
                }
            }
            rest = next;
        }
        if batch.len() >= BATCH || is_done && !batch.is_empty() {
            // Who is refused has ended; those answers, nobody reads.
            changes.send(&batch)?;
            batch.clear();
        }
        if is_done {
            return Ok(count);
        }
    }
}

fn refusal(body: &[u8]) -> io::Error {
    let code = body
        .first_chunk()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(-code)
}

/// The message that changes the connection of which `body` tells; `None` if it is not one of TCP.
fn change(body: &[u8]) -> Option<Vec<u8>> {
    let told = body.get(FAMILY..)?;
    attribute_of(attribute_of(told, CTA_PROTOINFO)?, CTA_PROTOINFO_TCP)?;
    let tuple = attribute_of(told, CTA_TUPLE_ORIG)?;
    let flags = [BE_LIBERAL, BE_LIBERAL | DATA_UNACKNOWLEDGED];
    let mut tcp = Vec::new();
    push(&mut tcp, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &flags);
    push(&mut tcp, CTA_PROTOINFO_TCP_FLAGS_REPLY, &flags);
    let mut protocol = Vec::new();
    push(&mut protocol, CTA_PROTOINFO_TCP | NESTED, &tcp);

    let mut message = vec![0; HEADER];
    message.extend(&body[..FAMILY]);
    push(&mut message, CTA_TUPLE_ORIG | NESTED, tuple);
    if let Some(zone) = attribute_of(told, CTA_ZONE) {
        push(&mut message, CTA_ZONE, zone);
    }
    push(&mut message, CTA_PROTOINFO | NESTED, &protocol);
    let len = u32::try_from(message.len()).ok()?;
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message[4..6].copy_from_slice(&NEW.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    Some(message)
}

/// Whether or not it says that it is made of others.
fn attribute_of(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attribute(bytes, wanted | NESTED).or_else(|| attribute(bytes, wanted))
}

/// With the padding that keeps what follows aligned.
fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    #[expect(clippy::cast_possible_truncation, reason = "some bytes")]
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn open() -> io::Result<Socket> {
    let fd: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(Socket::from(fd))
}

/// The part that a system call has filled.
fn written(buffer: &[MaybeUninit<u8>], len: usize) -> &[u8] {
    let filled = &buffer[..len.min(buffer.len())];
    // SAFETY: the kernel wrote `len` bytes, and any byte is a u8.
    unsafe { filled.assume_init_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(proto: u16) -> Vec<u8> {
        let mut tcp = Vec::new();
        push(&mut tcp, 1, &[3]);
        let mut protocol = Vec::new();
        push(&mut protocol, proto | NESTED, &tcp);
        let mut body = vec![2, 0, 0, 0];
        push(&mut body, CTA_TUPLE_ORIG | NESTED, b"who to whom");
        push(&mut body, CTA_PROTOINFO | NESTED, &protocol);
        push(&mut body, CTA_ZONE, &[0, 7]);
        body
    }

    #[test]
    fn a_connection_is_named_as_it_was_told_of() {
        let change = change(&told(CTA_PROTOINFO_TCP)).unwrap();
        let (kind, body, rest) = message(&change).unwrap();
        assert_eq!((kind, rest.len()), (NEW, 0));
        let told = &body[FAMILY..];
        assert_eq!(attribute_of(told, CTA_TUPLE_ORIG).unwrap(), b"who to whom");
        assert_eq!(attribute_of(told, CTA_ZONE).unwrap(), [0, 7]);
        let protocol = attribute_of(told, CTA_PROTOINFO).unwrap();
        let tcp = attribute_of(protocol, CTA_PROTOINFO_TCP).unwrap();
        for direction in [
            CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
            CTA_PROTOINFO_TCP_FLAGS_REPLY,
        ] {
            assert_eq!(attribute(tcp, direction).unwrap(), [0x08, 0x18]);
        }
    }

    #[test]
    fn other_protocols_have_no_windows() {
        const CTA_PROTOINFO_SCTP: u16 = 3;
        assert_eq!(change(&told(CTA_PROTOINFO_SCTP)), None);
        assert_eq!(change(&[]), None);
    }
}
