//! A name server for Services and one question to it, as CoreDNS and a pod's resolver exchange them: records A over UDP.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::Host;
use crate::udp;
use crate::wait::{SOON, uninterrupted};

pub const PORT: u16 = 53;
const POLL: Duration = Duration::from_millis(50);
/// One question or answer without EDNS.
const LONGEST: usize = 512;
const HEADER: usize = 12;
/// Type A, class IN.
const QUESTION_END: [u8; 4] = [0, 1, 0, 1];
/// The name at the question's place; type A, class IN, 30 s, four bytes.
const RECORD: [u8; 12] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4];

/// Answers until dropped.
#[derive(Debug)]
pub struct NameServer {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// On all addresses of `host`, for these names.
    pub fn on(host: &(impl Host + ?Sized), names: &[(&str, Ipv4Addr)]) -> Self {
        let socket = udp::Server::on_port(host, PORT).into_socket();
        socket.set_read_timeout(Some(POLL)).expect("set a time-out");
        let end = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&end);
        let names: Vec<(Vec<u8>, Ipv4Addr)> = names
            .iter()
            .map(|(name, address)| (labels(name), *address))
            .collect();
        let thread = std::thread::spawn(move || serve(&socket, &names, &stop));
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, names: &[(Vec<u8>, Ipv4Addr)], stop: &AtomicBool) {
    let mut buffer = [0; LONGEST];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((n, client)) = socket.recv_from(&mut buffer) {
            // One that cannot be sent is missed by who has asked.
            let _ = socket.send_to(&answer(&buffer[..n], names), client);
        }
    }
}

fn answer(question: &[u8], names: &[(Vec<u8>, Ipv4Addr)]) -> Vec<u8> {
    let asked = &question[HEADER..];
    let is_it = |(name, _): &&(Vec<u8>, Ipv4Addr)| {
        asked.strip_prefix(&**name) == Some(QUESTION_END.as_slice())
    };
    let found = names.iter().find(is_it);
    let mut answer = question.to_vec();
    // An answer, as the one who knows; no such name.
    answer[2..4].copy_from_slice(if found.is_some() {
        &[0x85, 0x80]
    } else {
        &[0x85, 0x83]
    });
    if let Some((_, address)) = found {
        answer[7] = 1;
        answer.extend(RECORD);
        answer.extend(address.octets());
    }
    answer
}

/// Asks `server` from inside `client`; none if there is no such name.
///
/// # Panics
/// If no answer comes within [`SOON`], or one from somebody else.
#[track_caller]
pub fn resolve(client: &(impl Host + ?Sized), server: Ipv4Addr, name: &str) -> Option<Ipv4Addr> {
    let socket = udp::Server::on(client).into_socket();
    socket.set_read_timeout(Some(SOON)).expect("set a time-out");
    // So that an answer that was not translated back is none.
    socket
        .connect(SocketAddrV4::new(server, PORT))
        .expect("choose the server");
    // Number 0x4649, recursion desired, one question.
    let mut question = vec![0x46, 0x49, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(labels(name));
    question.extend(QUESTION_END);
    socket.send(&question).expect("ask");
    let mut buffer = [0; LONGEST];
    let n = uninterrupted(|| socket.recv(&mut buffer))
        .unwrap_or_else(|e| panic!("{name} asked of {server}: {e}"));
    let (head, record) = buffer[..n].split_at(question.len());
    assert_eq!(head[..2], question[..2], "an answer to another question");
    assert_eq!(head[HEADER..], question[HEADER..]);
    let address: [u8; 4] = record.strip_prefix(RECORD.as_slice())?.try_into().ok()?;
    Some(address.into())
}

/// A name as it is sent.
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("at most 63 bytes"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
