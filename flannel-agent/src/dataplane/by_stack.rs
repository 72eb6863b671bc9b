//! Tunnel packets that the node's own stack has to send: to peers that a policy of IPsec or a rule of the host's firewall
//! is about. The programs let them pass; behind the pair a packet socket takes them, and a UDP socket (of the backend udp the one
//! on the port, of ipip a raw one) sends them, by the routing table, OUTPUT and IPsec. Slow, and not while no agent runs.

mod allowance;
mod hindrance;
mod marked;
mod out;
mod refusals;
mod segments;
mod unreachable;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip};
use flannel_common::vxlan::Vxlan;
use flannel_common::{ecn, gbp, maps, udp as bare};
use ipnet::Ipv4Net;
use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrIn, sendmsg, setsockopt,
    socket,
};
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio_util::task::AbortOnDropHandle;

use crate::base::mac::MacAddr;
use crate::dataplane::{DataplaneError, Peer, Sources, raw};
use crate::flannel::backend::Wire;
use crate::node::net::sockopt;
use allowance::Allowance;
use hindrance::Hindrance;
pub(crate) use out::Lent;
use out::Out;
use refusals::Refusals;
pub(crate) use segments::segments;

/// More are left out.
const NAMED: usize = 10;
/// No frame is longer.
const LONGEST: usize = 65_535 + Eth::LEN;

/// What it sends, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// ifindex of `flgro.<VNI>`.
    pub(crate) device: u32,
    pub(crate) bpffs: PathBuf,
    pub(crate) network: String,
    pub(crate) wire: Wire,
    pub(crate) port: u16,
    /// The node's outer address.
    pub(crate) from: Ipv4Addr,
    /// That of `flannel.<VNI>`, and its MAC.
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: MacAddr,
    /// MTU of the overlay.
    pub(crate) mtu: u32,
    /// Whether the tunnel carries marks.
    pub(crate) gbp: bool,
    /// The socket on the port, of the backend udp, while that is ours.
    pub(crate) lent: Option<Lent>,
}

/// Why nothing is sent this way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ByStackError {
    #[error(transparent)]
    Maps(#[from] DataplaneError),
    #[error(
        "cannot open a socket for packets that the stack has to send (it takes CAP_NET_RAW): {0}"
    )]
    Open(#[from] io::Error),
    #[error(
        "packets that the stack has to send would not come from UDP port {0}, which somebody else has"
    )]
    NoPort(u16),
}

/// The task that sends. Ends by being dropped.
#[derive(Debug, Default)]
pub(crate) struct ByStack {
    task: Option<(Options, AbortOnDropHandle<()>)>,
    refusals: Arc<Refusals>,
    /// Peers of which it was said.
    named: BTreeSet<Ipv4Addr>,
    hindrance: Hindrance,
}

impl ByStack {
    /// Has it run with these options. What the kernel refuses is said once, and tried again with the next call.
    pub(crate) fn keep(&mut self, options: &Options) {
        let opened = self.open(options);
        self.hindrance.note(opened.err());
        self.warn();
    }

    fn warn(&mut self) {
        if let Some(news) = self.hindrance.news() {
            tracing::warn!("{news}");
        }
    }

    /// What an operator has to put right.
    pub(crate) fn complaint(&self) -> Option<&str> {
        self.hindrance.complaint()
    }

    fn open(&mut self, options: &Options) -> Result<(), ByStackError> {
        let runs =
            |(now, task): &(Options, AbortOnDropHandle<()>)| now == options && !task.is_finished();
        if self.task.as_ref().is_some_and(runs) {
            return Ok(());
        }
        self.task = None;
        let way = Way::open(options.clone(), Arc::clone(&self.refusals))?;
        let sources = Sources::open(&options.bpffs, &options.network)?;
        let refusals = Arc::clone(&self.refusals);
        let task = tokio::spawn(async move {
            tokio::select! {
                ended = way.run() => if let Err(error) = ended {
                    tracing::warn!("the socket for packets that the stack has to send broke: {error}");
                },
                () = refusals.watch(sources) => {}
            }
        });
        self.task = Some((options.clone(), AbortOnDropHandle::new(task)));
        Ok(())
    }

    /// Whether the packets that ask arrive with us. Else nobody is asked.
    pub(crate) fn hear(&self, hears: bool) {
        self.refusals.hear(hears);
    }

    /// Peers that a rule of the host's firewall is about.
    pub(crate) fn refused(&self) -> BTreeSet<Ipv4Addr> {
        self.refusals.all()
    }

    /// Waits until these are others.
    pub(crate) async fn changed(&self) {
        self.refusals.changed.notified().await;
    }

    /// Logs which peers it is for, as far as that is news.
    pub(crate) fn tell(&mut self, peers: &BTreeMap<Ipv4Net, Peer>) {
        let all = peers.values().filter(|peer| peer.by_stack);
        let now: BTreeSet<Ipv4Addr> = all.map(|peer| peer.public_ip).collect();
        for peer in now.difference(&self.named).take(NAMED) {
            tracing::warn!(
                "packets to and from {peer} take the node's own stack, slowly: a policy of IPsec is about them (ip xfrm policy), \
                 or a rule of the firewall (INPUT or OUTPUT) drops them"
            );
        }
        for peer in self.named.difference(&now).take(NAMED) {
            tracing::info!("packets to and from {peer} are the programs' again");
        }
        self.hindrance.matters(!now.is_empty());
        self.named = now;
        self.warn();
    }

    pub(crate) fn release(&mut self) {
        self.task = None;
        self.hindrance.note(None);
    }
}

/// Frames that are taken before others have their turn.
const AT_ONCE: u32 = 64;

struct Way {
    frames: AsyncFd<OwnedFd>,
    out: Out,
    sources: Sources,
    options: Options,
    refusals: Arc<Refusals>,
    /// For answers to packets that nobody leases the address of.
    allowance: Allowance,
}

impl Way {
    fn open(options: Options, refusals: Arc<Refusals>) -> Result<Self, ByStackError> {
        let sources = Sources::open(&options.bpffs, &options.network)?;
        // SAFETY: an `OwnedFd` is open, and the same one, for as long as it is owned; it is not handed out.
        let frames = unsafe { AsyncFd::register(frames(options.device, options.gbp)?) };
        Ok(Self {
            frames: frames.map_err(io::Error::from)?,
            out: match (options.wire, &options.lent) {
                (Wire::Vxlan { .. }, _) => Out::Own(udp()?.into()),
                // IPsec and firewalls go by both ports, and flanneld's packets have the same.
                (Wire::Udp, Some(lent)) => Out::Lent(lent.clone()),
                (Wire::Udp, None) => return Err(ByStackError::NoPort(options.port)),
                (Wire::Ipip, _) => Out::Own(raw::sending()?.into()),
            },
            refusals,
            sources,
            options,
            allowance: Allowance::default(),
        })
    }

    async fn run(self) -> io::Result<()> {
        let mut buffer = vec![0; LONGEST];
        let mut received = 0_u32;
        loop {
            received = received.wrapping_add(1);
            if received.is_multiple_of(AT_ONCE) {
                // A socket that is never empty would have this thread for itself.
                yield_now().await;
            }
            let mut ready = self.frames.readable().await?;
            let frame = ready.try_io(|fd| marked::receive(fd.as_raw_fd(), &mut buffer));
            match frame {
                Ok(Ok((len, mark))) => self.send(&buffer[..len], mark),
                // The device is gone, or down: the next look at the node finds another.
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    /// `mark`: of the frame, as far as the tunnel carries it.
    fn send(&self, frame: &[u8], mark: u32) {
        let Some(packet) = frame.get(Eth::LEN..) else {
            return;
        };
        let Some(head) = packet.get(..Ip::LEN) else {
            return;
        };
        let ip: Ip = bytemuck::pod_read_unaligned(head);
        let Some(peer) = self.sources.owner(ip.dst) else {
            if self.options.wire == Wire::Udp && self.allowance.take() {
                let told = unreachable::answer(self.options.address, packet);
                tracing::debug!(?told, "a packet for an address that nobody leases");
            }
            return;
        };
        let mut packet = packet.to_vec();
        let mut tos = ecn::encapsulate(ip.tos);
        if self.options.wire == Wire::Udp {
            // As the program would have done.
            let Ok(hop) = bare::hop(&ip) else {
                return;
            };
            packet[..Ip::FRONT].copy_from_slice(&hop.front());
            tos = 0;
        }
        for packet in segments(&packet, self.options.mtu) {
            let sent = self.send_to(&peer, tos, mark, &ip, &packet);
            self.refusals.sent(peer.public_ip.into(), &sent);
            if let Err(error) = sent {
                let peer = Ipv4Addr::from(peer.public_ip);
                tracing::debug!("the stack does not send to {peer}: {error}");
            }
        }
    }

    /// Between the UDP header and the packet.
    fn headers(&self, vni: u32, peer: &maps::Peer, mark: u32) -> Vec<u8> {
        let vxlan = Vxlan {
            flags: gbp::flags(mark),
            vni: (vni << 8).to_be_bytes(),
        };
        let eth = Eth {
            dst: peer.vtep_mac,
            src: self.options.mac.0,
            ethertype: ETHERTYPE_IPV4,
        };
        [bytemuck::bytes_of(&vxlan), bytemuck::bytes_of(&eth)].concat()
    }

    /// `ip`: the packet's header as it came.
    fn send_to(
        &self,
        peer: &maps::Peer,
        tos: u8,
        mark: u32,
        ip: &Ip,
        packet: &[u8],
    ) -> io::Result<()> {
        let out = self.out.get()?;
        let headers = match self.options.wire {
            Wire::Vxlan { vni } => self.headers(vni, peer, mark),
            Wire::Udp => Vec::new(),
            Wire::Ipip => {
                raw::inherit(&*out, ip)?;
                Vec::new()
            }
        };
        let parts = [IoSlice::new(&headers), IoSlice::new(packet)];
        let from = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(self.options.from.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let [a, b, c, d] = peer.public_ip;
        let to = SockaddrIn::new(a, b, c, d, self.options.port);
        let control = [
            ControlMessage::Ipv4PacketInfo(&from),
            ControlMessage::Ipv4Tos(&tos),
        ];
        sendmsg(
            out.as_raw_fd(),
            &parts,
            &control,
            MsgFlags::empty(),
            Some(&to),
        )?;
        Ok(())
    }
}

/// What comes out of the pair and no program has taken: a socket for one protocol is behind the programs at the hook
/// (`__netif_receive_skb_core`).
fn frames(device: u32, gbp: bool) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    if gbp {
        marked::ask(&fd)?;
    }
    // SAFETY: sockaddr_ll is plain old data of integers; all zeroes is a valid value.
    let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    at.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    at.sll_ifindex = i32::try_from(device).map_err(io::Error::other)?;
    at.sll_protocol = u16::from_ne_bytes(ETHERTYPE_IPV4);
    let len = libc::socklen_t::try_from(size_of_val(&at)).map_err(io::Error::other)?;
    // SAFETY: the socket is open; the address is initialised, live across the call, and given with its true length.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const at).cast(), len) };
    match bound {
        0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As a kernel vxlan device sends: no checksum, no DF, from a port of the node's range.
fn udp() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    sockopt::set_ip(&fd, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    sockopt::set(&fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
    // Nobody answers to it, and nobody reads.
    setsockopt(&fd, RcvBuf, &0)?;
    Ok(fd)
}
