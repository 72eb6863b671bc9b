//! Somebody who makes frames in others' names, with no more than `CAP_NET_RAW`, which pods have by default.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use etherparse::PacketBuilder;
use flannel_common::Mac;

use crate::host::Host;
use crate::packet_socket::PacketSocket;
use crate::wait::{SOON, eventually};

/// What is in the datagrams that it makes: longer than what they are to be taken for.
pub const CONTENT: [u8; 40] = *b"made by somebody who is not the sender..";

/// A datagram from one to the other.
pub fn datagram(macs: [Mac; 2], from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs[0], macs[1])
        .ipv4(from.ip().octets(), to.ip().octets(), 64)
        .udp(from.port(), to.port());
    let mut frame = Vec::with_capacity(builder.size(CONTENT.len()));
    builder.write(&mut frame, &CONTENT).expect("a datagram");
    frame
}

/// A segment of a connection, with data.
pub fn segment(macs: [Mac; 2], from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs[0], macs[1])
        .ipv4(from.ip().octets(), to.ip().octets(), 64)
        .tcp(from.port(), to.port(), 1000, 500)
        .ack(77);
    let mut frame = Vec::with_capacity(builder.size(CONTENT.len()));
    builder.write(&mut frame, &CONTENT).expect("a segment");
    frame
}

/// MAC of a host's `eth0`.
pub fn mac(host: &(impl Host + ?Sized)) -> Mac {
    let shown = host.exec("ip -o link show dev eth0");
    let mut words = shown.split_whitespace().skip_while(|w| *w != "link/ether");
    let text = words.nth(1).expect("an Ethernet address");
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("two digits"))
        .collect();
    bytes.try_into().expect("six bytes")
}

/// Sends frames by a host's `eth0`, again and again.
#[derive(Debug)]
pub struct Forger {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Forger {
    #[track_caller]
    pub fn start(host: &(impl Host + ?Sized), frames: Vec<Vec<u8>>) -> Self {
        let socket = host.netns().enter(|| PacketSocket::on("eth0"));
        let socket = socket.expect("a packet socket");
        let (over, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let thread = {
            let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    for frame in &frames {
                        socket.send(frame).expect("send a frame");
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    // So that others have the CPU, too.
                    std::thread::sleep(Duration::from_micros(200));
                }
            })
        };
        let forger = Self {
            over,
            sent,
            thread: Some(thread),
        };
        forger.sends(100);
        forger
    }

    /// Waits until it has sent so many more.
    #[track_caller]
    pub fn sends(&self, frames: usize) {
        let before = self.sent.load(Ordering::Relaxed);
        eventually("frames are forged", SOON, || {
            self.sent.load(Ordering::Relaxed) >= before + frames
        });
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
