//! Knocking at closed doors: what a host is told where nobody answers.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use crate::host::Host;
use crate::iptables::Iptables;
use crate::wait::uninterrupted;
use crate::{tcp, udp};

/// A port that nobody listens on and no rule guards.
pub const CLOSED: u16 = 9;
/// Guarded by a REJECT rule of each kind, see [`guard`].
pub const DOORS: [Door; 4] = [
    Door::new(1001, "icmp-port-unreachable", ErrorKind::ConnectionRefused),
    Door::new(1002, "icmp-admin-prohibited", ErrorKind::HostUnreachable),
    Door::new(1003, "icmp-host-prohibited", ErrorKind::HostUnreachable),
    Door::new(1004, "tcp-reset", ErrorKind::ConnectionRefused),
];

/// A port with its guard, and what that makes `connect` fail with.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    pub port: u16,
    with: &'static str,
    told: ErrorKind,
}

impl Door {
    const fn new(port: u16, with: &'static str, told: ErrorKind) -> Self {
        Self { port, with, told }
    }

    fn is_for_tcp_alone(self) -> bool {
        self.with == "tcp-reset"
    }
}

/// Has `host` reject what it would forward to the doors of `target`.
pub fn guard(host: &(impl Host + ?Sized), target: Ipv4Addr) {
    let mut lines = vec!["*filter".to_owned()];
    for door in DOORS {
        let Door { port, with, .. } = door;
        let reject = format!("--dport {port} -j REJECT --reject-with {with}");
        lines.push(format!("-I FORWARD -d {target} -p tcp {reject}"));
        if !door.is_for_tcp_alone() {
            lines.push(format!("-I FORWARD -d {target} -p udp {reject}"));
        }
    }
    lines.push("COMMIT".to_owned());
    Iptables::Nft.restore(host, &lines);
}

/// # Panics
/// Unless every door of `target` is refused to `from` as its rule says, and at once.
#[track_caller]
pub fn assert_guarded(from: &(impl Host + ?Sized), target: Ipv4Addr) {
    for door in DOORS {
        let to = SocketAddrV4::new(target, door.port);
        let told = tcp::connect(from, to).unwrap_err();
        assert_eq!(told.kind(), door.told, "tcp to {to}, {}: {told}", door.with);
        if !door.is_for_tcp_alone() {
            let told = refused(&udp::Server::on(from).into_socket(), to);
            assert_eq!(told.kind(), door.told, "udp to {to}, {}: {told}", door.with);
        }
    }
}

/// # Panics
/// Unless a port of `target` that is closed is refused to `from`.
#[track_caller]
pub fn assert_closed(from: &(impl Host + ?Sized), target: Ipv4Addr) {
    let to = SocketAddrV4::new(target, CLOSED);
    let told = tcp::connect(from, to).unwrap_err();
    assert_eq!(
        told.kind(),
        ErrorKind::ConnectionRefused,
        "tcp to {to}: {told}"
    );
    let told = refused(&udp::Server::on(from).into_socket(), to);
    assert_eq!(
        told.kind(),
        ErrorKind::ConnectionRefused,
        "udp to {to}: {told}"
    );
}

/// What a datagram to `to` is answered with instead of data.
#[track_caller]
pub fn refused(socket: &UdpSocket, to: SocketAddrV4) -> io::Error {
    socket.connect(to).expect("choose the destination");
    socket.send(b"anybody?").expect("send");
    uninterrupted(|| socket.recv(&mut [0; 16])).expect_err("nobody answers there")
}

/// Who says that `target` cannot be reached, when `from` pings it.
#[track_caller]
pub fn unreachable(from: &(impl Host + ?Sized), target: Ipv4Addr) -> Option<Ipv4Addr> {
    // The node asks for the address thrice, a second each, before it gives up.
    let text = from.try_exec(&format!("ping -n -c 1 -W 8 {target}"));
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.ends_with("Destination Host Unreachable"))?;
    // "From 10.244.2.0 icmp_seq=1 Destination Host Unreachable"
    line.split_whitespace().nth(1)?.parse().ok()
}
