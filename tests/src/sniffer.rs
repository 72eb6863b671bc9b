//! Watches a node's uplink from the far end of the wire: no packet with a pod's address may come out of it, neither
//! as its source nor in the packet that an ICMP error carries.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, panicking};

use crate::node::Node;
use crate::packet_socket::PacketSocket;
use crate::wait::{SOON, eventually};

const ICMP: u8 = 1;

/// One packet that came out, as far as it matters: source, destination and protocol; ports where there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sight {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub proto: u8,
    pub source_port: u16,
    /// Found in the packet that an ICMP error carries.
    pub carried: bool,
}

/// A running watch; fails the test when it is dropped and has seen what must not be seen.
#[derive(Debug)]
pub struct Sniffer {
    node: String,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
    socket: Arc<PacketSocket>,
}

#[derive(Debug, Default)]
struct Seen {
    leaks: Mutex<BTreeMap<Sight, usize>>,
    allowed: Mutex<Vec<(Ipv4Addr, Option<u16>)>>,
    between_pods: AtomicBool,
    packets: AtomicUsize,
    end: AtomicBool,
}

impl Sniffer {
    /// Watches `node` for packets with a source in `cluster` (`a.b.c.d/n`).
    pub fn on(node: &Node, cluster: &str) -> Self {
        let (netns, device) = node.far_end();
        let socket = netns.enter(|| PacketSocket::on(&device));
        let socket = socket.unwrap_or_else(|e| panic!("a packet socket on {device}: {e}"));
        let socket = Arc::new(socket);
        let seen = Arc::new(Seen::default());
        let cluster: ipnet::Ipv4Net = cluster.parse().expect("a.b.c.d/n");
        let thread = {
            let (socket, seen) = (Arc::clone(&socket), Arc::clone(&seen));
            std::thread::spawn(move || watch(&socket, &seen, cluster))
        };
        Self {
            node: node.name().to_owned(),
            seen,
            thread: Some(thread),
            socket,
        }
    }

    /// Lets `source` come out with `port` as its source port: the replies of a connection that came in.
    pub fn allow(&self, source: Ipv4Addr, port: u16) {
        self.seen.allowed.lock().unwrap().push((source, Some(port)));
    }

    /// Lets everything of `source` come out: a pod that is exempt.
    pub fn allow_all(&self, source: Ipv4Addr) {
        self.seen.allowed.lock().unwrap().push((source, None));
    }

    /// Lets pods be seen by each other: where there is no tunnel.
    pub fn allow_between_pods(&self) {
        self.seen.between_pods.store(true, Ordering::Relaxed);
    }

    /// Waits until something that must not be seen is seen: for tests of the harness, and of what is not translated.
    #[track_caller]
    pub fn wait_for_leak(&self) -> Sight {
        eventually("a packet with a pod's address", SOON, || {
            !self.seen.leaks.lock().unwrap().is_empty()
        });
        let leaks = std::mem::take(&mut *self.seen.leaks.lock().unwrap());
        *leaks.keys().next().expect("just seen")
    }

    /// How many packets it has looked at.
    pub fn packets(&self) -> usize {
        self.seen.packets.load(Ordering::Relaxed)
    }

    fn finish(&mut self) -> Vec<String> {
        self.seen.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut complaints: Vec<String> = Vec::new();
        for (sight, count) in &*self.seen.leaks.lock().unwrap() {
            complaints.push(format!("{count} packets of {sight:?}"));
        }
        match self.socket.lost() {
            Ok(0) => {}
            Ok(lost) => complaints.push(format!("and {lost} packets nobody looked at")),
            Err(error) => complaints.push(format!("and it cannot tell what it lost: {error}")),
        }
        if self.packets() == 0 {
            complaints.push("and no packet at all: it watched nothing".to_owned());
        }
        complaints
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        let complaints = self.finish();
        if complaints.is_empty() {
            return;
        }
        let text = format!("out of {} came {}", self.node, complaints.join(", "));
        if panicking() {
            eprintln!("{text}");
        } else {
            panic!("{text}");
        }
    }
}

fn watch(socket: &PacketSocket, seen: &Seen, cluster: ipnet::Ipv4Net) {
    let mut buffer = [0_u8; 256];
    loop {
        // Read first, then look for the end: what has arrived by then is looked at.
        let ending = seen.end.load(Ordering::Relaxed);
        match socket.receive(&mut buffer) {
            Ok(Some(len)) => {
                seen.packets.fetch_add(1, Ordering::Relaxed);
                for sight in sights(&buffer[..len]) {
                    let allowed = seen.allowed.lock().unwrap();
                    let may = allowed.iter().any(|(source, port)| {
                        *source == sight.source && port.is_none_or(|port| port == sight.source_port)
                    });
                    let between = seen.between_pods.load(Ordering::Relaxed);
                    let may = may || between && cluster.contains(&sight.destination);
                    if cluster.contains(&sight.source) && !may {
                        *seen.leaks.lock().unwrap().entry(sight).or_default() += 1;
                    }
                }
            }
            Ok(None) => {}
            Err(_) if ending => return,
            Err(_) => {}
        }
    }
}

/// Whom an Ethernet frame shows: its sender, and whom an ICMP error in it is about.
fn sights(frame: &[u8]) -> Vec<Sight> {
    let (Some([0x08, 0x00]), Some(packet)) = (frame.get(12..14), frame.get(14..)) else {
        return Vec::new();
    };
    let Some((outer, payload)) = sight(packet) else {
        return Vec::new();
    };
    let mut sights = vec![outer];
    let is_error = payload
        .first()
        .is_some_and(|kind| [3, 4, 5, 11, 12].contains(kind));
    if outer.proto == ICMP
        && is_error
        && let Some((about, payload)) = payload.get(8..).and_then(sight)
    {
        // An error goes back to who sent what it is about: ours is the other end.
        sights.push(Sight {
            source: about.destination,
            destination: about.source,
            source_port: port_at(payload, 2),
            proto: about.proto,
            carried: true,
        });
    }
    sights
}

/// What an IPv4 packet shows, and what follows its header.
fn sight(packet: &[u8]) -> Option<(Sight, &[u8])> {
    let header = packet.get(..20)?;
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let payload = packet.get(usize::from(header[0] & 0xf) * 4..)?;
    let follows_another = [header[6] & 0x1f, header[7]] != [0, 0];
    let has_ports = [6, 17, 132].contains(&header[9]) && !follows_another;
    let sight = Sight {
        source: address(12),
        destination: address(16),
        proto: header[9],
        source_port: if has_ports { port_at(payload, 0) } else { 0 },
        carried: false,
    };
    Some((sight, payload))
}

fn port_at(payload: &[u8], at: usize) -> u16 {
    payload
        .get(at..at + 2)
        .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::outside::{POD, Plain, ROUTER, SERVER, US, fragments};

    #[test]
    fn the_sender_is_seen() {
        let seen = sights(&Plain::default().udp());
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].source, seen[0].source_port), (POD.into(), 40_000));
        assert_eq!(seen[0].destination, Ipv4Addr::from(SERVER));
        let follower = sights(&fragments(&Plain::default().udp(), 8)[1]);
        assert_eq!(
            (follower[0].source, follower[0].source_port),
            (POD.into(), 0)
        );
    }

    #[test]
    fn whom_an_error_is_about_is_seen() {
        let came = Plain::default().answer().udp();
        let error = Plain {
            src: US,
            dst: ROUTER,
            ..Plain::default()
        }
        .error(3, 3, &came, 28);
        let seen = sights(&error);
        assert_eq!(seen[1].source, Ipv4Addr::from(POD));
        assert_eq!(seen[1].source_port, 40_000);
        assert!(seen[1].carried);
    }

    #[test]
    fn what_is_cut_off_shows_what_there_is() {
        let error = Plain::default().error(3, 3, &Plain::default().answer().udp(), 28);
        for len in 0..error.len() {
            sights(&error[..len]);
        }
    }
}
