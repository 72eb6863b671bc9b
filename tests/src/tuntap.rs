//! Links made of this process: a tun or tap device at either end, and a thread that carries what one sends to the other.
//!
//! For what no device of the kernel at hand does: frames with a tag of their own, and packets without any frame.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::Host;
use crate::netns::Netns;
use crate::node::Node;

/// What the devices carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// IP packets, as of a WireGuard or tun device.
    Ip,
    /// Ethernet frames.
    Ethernet,
}

/// What becomes of a frame on its way.
pub type Change = fn(&mut Vec<u8>);

/// Longest packet, and an Ethernet header with a tag.
const LONGEST: usize = 65_535 + 18;
const POLL_MILLIS: u8 = 20;

/// A link between two devices, until it is dropped: then they go, too.
#[derive(Debug)]
pub struct Link {
    end: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
}

/// One end of a [`Link`]: the namespace and the device's name.
pub type End<'a> = (&'a Netns, &'a str);

impl Link {
    /// Makes both devices, down and without an address. `change` sees what `a` sends before `b` gets it, and the other way round.
    pub fn between(layer: Layer, a: End<'_>, b: End<'_>, change: Change) -> Self {
        let (a, b) = (open(layer, a), open(layer, b));
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let pump = std::thread::spawn(move || pump(&a, &b, change, &ended));
        Self {
            end,
            pump: Some(pump),
        }
    }

    /// Takes the place of the wire between a node and its switch; what crosses it, either way, is changed.
    pub fn to_switch(node: &Node, change: Change) -> Self {
        let (far, port) = node.far_end();
        let uplink = Node::UPLINK;
        let route = node.exec("ip route show default");
        node.exec(&format!("ip link del {uplink}"));
        let ends = ((far, port.as_str()), (node.netns(), uplink));
        let link = Self::between(Layer::Ethernet, ends.0, ends.1, change);
        far.ip_batch(&[format!("link set {port} master switch up")]);
        node.ip_batch(&[
            format!("addr add {}/24 dev {uplink}", node.address()),
            format!("link set {uplink} mtu {} up", node.uplink_mtu()),
            format!("route add {}", route.trim()),
        ]);
        link
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

/// Puts an 802.1Q tag with VLAN id 0 and priority 5 into a frame, as switches and hypervisors send it.
pub fn tag_with_priority(frame: &mut Vec<u8>) {
    const MACS: usize = 12;
    const TAG: [u8; 4] = [0x81, 0x00, 5 << 5, 0];
    frame.splice(MACS..MACS, TAG);
}

/// Leaves it as it is.
pub fn unchanged(_: &mut Vec<u8>) {}

fn open(layer: Layer, (netns, name): End<'_>) -> File {
    netns
        .enter(|| create(layer, name))
        .unwrap_or_else(|e| panic!("make {name} by /dev/net/tun: {e}"))
}

/// In the calling thread's namespace.
fn create(layer: Layer, name: &str) -> io::Result<File> {
    let kind = match layer {
        Layer::Ip => libc::IFF_TUN,
        Layer::Ethernet => libc::IFF_TAP,
    };
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all-zero bytes are an ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "{name}");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = kind | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("16 bits");
    // SAFETY: the request lives through the call, which reads and writes no more than an ifreq.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

fn pump(a: &File, b: &File, change: Change, end: &AtomicBool) {
    let mut buffer = vec![0; LONGEST];
    while !end.load(Ordering::Relaxed) {
        let mut ready = [a, b].map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::from(POLL_MILLIS)) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => panic!("wait for what the devices send: {error}"),
        }
        let readable = ready.map(|fd| fd.revents().is_some_and(|e| e.contains(PollFlags::POLLIN)));
        for (from, to, readable) in [(a, b, readable[0]), (b, a, readable[1])] {
            let (mut from, mut to) = (from, to);
            if readable && let Ok(len) = from.read(&mut buffer) {
                let mut frame = buffer[..len].to_vec();
                change(&mut frame);
                // A device that is down, or gone with its namespace, takes nothing.
                let _ = to.write_all(&frame);
            }
        }
    }
}
