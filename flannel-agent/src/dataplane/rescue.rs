//! The socket on the VXLAN port (of the backend ipip a raw one): what `uplink_rx` leaves to the stack comes out here.
//!
//! Outer fragments (reassembled by the kernel by now) and packets with outer IP options are rare and slow,
//! but not lost: the inner frame is pushed into `flgro.<VNI>`, as the program would have done. Several agents
//! share the port; whichever gets a packet delivers it to the network that the VNI names.

mod answer;
mod complaints;
mod fit;
mod flood;
pub mod frame;
mod holder;
mod inject;
mod networks;
mod partial;
mod socket;
mod too_big;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use flannel_common::reason::Reason;
use flannel_common::source::Claim;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::base::options::SourceCheck;
use crate::dataplane::by_stack::segments;
use crate::flannel::backend::Wire;
use crate::node::net::{NetError, Netlink};
use complaints::Complaints;
use fit::Fit;
use flood::{By, Flood, Heard, Turn};
use frame::Frame;
pub(crate) use holder::{find as holder_of, process as process_on};
use inject::{Head, Injector, Offload};
use networks::Networks;
use partial::Unfinished;
use socket::{Datagram, Socket};
use too_big::{Misfit, TooBig};

/// Why there is no such socket.
#[derive(Debug, thiserror::Error)]
pub enum RescueError {
    #[error(
        "UDP port {port} is held by {holder}: end that, or give the network another Port in its config \
         (on all nodes)"
    )]
    Busy { port: u16, holder: String },
    #[error("cannot open {what}: {error}")]
    Open { what: String, error: std::io::Error },
    #[error(transparent)]
    Net(#[from] NetError),
}

/// How the socket is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The tunnel's port, if it has one, and what its packets look like.
    pub port: u16,
    pub wire: Wire,
    /// As for the programs: drop what does not come from the peer it claims to come from.
    pub source_check: SourceCheck,
    pub bpffs: PathBuf,
    /// Whose port it is, where it is one network's.
    pub network: String,
}

/// Packets by what became of them.
#[derive(Debug, Default)]
pub struct Stats {
    delivered: Mutex<BTreeMap<Option<Reason>, u64>>,
}

impl Stats {
    /// Packets that were delivered.
    pub fn delivered(&self) -> u64 {
        self.get(None)
    }

    /// Packets that were dropped for a reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.get(Some(reason))
    }

    fn get(&self, outcome: Option<Reason>) -> u64 {
        let counts = self
            .delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.get(&outcome).copied().unwrap_or_default()
    }

    fn count(&self, outcome: Option<Reason>) {
        let mut counts = self
            .delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *counts.entry(outcome).or_default() += 1;
    }
}

/// The open socket.
#[derive(Debug)]
pub struct Rescue {
    socket: Socket,
    /// Where tunnel packets may be forbidden to be fragmented.
    too_big: Option<TooBig>,
    injector: Injector,
    networks: Networks,
    wire: Wire,
    source_check: SourceCheck,
    stats: Arc<Stats>,
    complaints: Complaints,
    flood: Flood,
    heard: Heard,
}

impl Rescue {
    /// Takes the port. Has to run inside a tokio runtime, in the node's network namespace, and after a
    /// kernel vxlan device on the same port is gone.
    ///
    /// # Errors
    /// [`RescueError::Busy`] if somebody else has it.
    pub async fn open(net: Netlink, options: &Options) -> Result<Self, RescueError> {
        let port = options.port;
        let bound = match options.wire {
            Wire::Vxlan { .. } | Wire::Udp => Socket::bind(port),
            Wire::Ipip => Socket::raw(),
        };
        let socket = match bound {
            Ok(socket) => socket,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let holder = holder::find(&net, port).await;
                return Err(RescueError::Busy { port, holder });
            }
            Err(error) => {
                let what = match options.wire {
                    Wire::Vxlan { .. } | Wire::Udp => format!("UDP port {port}"),
                    Wire::Ipip => "a raw socket (it takes CAP_NET_RAW)".to_owned(),
                };
                return Err(RescueError::Open { what, error });
            }
        };
        let injector = Injector::open().map_err(|error| RescueError::Open {
            what: "a packet socket (it takes CAP_NET_RAW)".to_owned(),
            error,
        })?;
        let too_big = match options.wire {
            Wire::Vxlan { .. } | Wire::Udp => None,
            Wire::Ipip => Some(TooBig::open().map_err(|error| RescueError::Open {
                what: "a raw socket for ICMP (it takes CAP_NET_RAW)".to_owned(),
                error,
            })?),
        };
        Ok(Self {
            socket,
            too_big,
            injector,
            networks: Networks::new(net, options.bpffs.clone(), options.network.clone()),
            wire: options.wire,
            source_check: options.source_check,
            stats: Arc::default(),
            complaints: Complaints::default(),
            flood: Flood::new(Instant::now()),
            heard: Heard::default(),
        })
    }

    /// For what is sent from the port, where that is to have it as its source. To be dropped with the rest.
    ///
    /// # Errors
    /// If the limit of open files is reached.
    pub fn sender(&self) -> Result<Option<OwnedFd>, RescueError> {
        if self.wire != Wire::Udp {
            return Ok(None);
        }
        let sender = self.socket.sender().map_err(|error| RescueError::Open {
            what: "the UDP port a second time".to_owned(),
            error,
        })?;
        Ok(Some(sender))
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Delivers until cancelled.
    ///
    /// # Errors
    /// If the socket breaks.
    pub async fn run(mut self, cancel: &CancellationToken) -> std::io::Result<()> {
        let mut buffer = vec![0; socket::LONGEST];
        loop {
            let opens = self.flood.opens();
            let datagram = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                () = at(opens) => {
                    self.open_again();
                    continue;
                }
                datagram = self.socket.receive(&mut buffer) => datagram,
                // Last: anybody can send such messages, and packets of peers go before them.
                message = next(self.too_big.as_ref()) => {
                    self.pass_on(&message?).await;
                    continue;
                }
            };
            let datagram = datagram?;
            let payload = &buffer[datagram.at..datagram.len];
            let outcome = self.deliver(&datagram, payload).await;
            match outcome {
                Ok(()) => {
                    self.complaints.hear(&datagram);
                    self.heard.add(datagram.source);
                }
                Err(reason) => {
                    let from = datagram.source;
                    tracing::debug!(%from, reason = reason.name(), "packet on the VXLAN port dropped");
                }
            }
            if let Err(reason) = outcome {
                self.came_in_vain(&datagram, reason);
            }
            // Last: who sees the count sees what came of it.
            self.stats.count(outcome.err());
        }
    }

    /// What a router says of a tunnel packet, for who sent the packet inside.
    async fn pass_on(&mut self, message: &[u8]) {
        let Some(misfit) = Misfit::of(message) else {
            return;
        };
        let Some(network) = self.networks.get(self.wire).await else {
            return;
        };
        if network.may_be_told(&misfit) {
            let sent = self.injector.too_long(misfit.mtu, misfit.packet);
            tracing::debug!(mtu = misfit.mtu, ?sent, "a tunnel packet does not fit");
        }
    }

    fn came_in_vain(&mut self, datagram: &Datagram, reason: Reason) {
        let Turn::Shut { tell, by } = self.flood.count(Instant::now(), reason) else {
            return;
        };
        if tell {
            let what = match by {
                By::Network => {
                    "of networks that have no device of ours here (not on this node, or its device is gone or somebody else's: see `status`)"
                }
                By::Source => "that must be refused",
            };
            tracing::warn!(
                "packets {what} come in great numbers, some of them from {} ({}): the kernel drops them from now on; the \
                 counter other_vni goes on",
                datagram.source,
                reason.name()
            );
        }
        let sources = match by {
            By::Network => None,
            By::Source => Some(self.heard.and(self.networks.addresses())),
        };
        // Packets without a VNI are all of one network.
        let vnis = self.wire.vni().map(|_| self.networks.vnis());
        if let Err(error) = self.socket.only(vnis.as_ref(), sources.as_ref()) {
            tracing::debug!("no filter at the VXLAN port: {error}");
        }
    }

    fn open_again(&mut self) {
        self.flood.opened(Instant::now());
        if let Err(error) = self.socket.all() {
            tracing::debug!("the filter at the VXLAN port stays: {error}");
        }
    }

    async fn deliver(&mut self, datagram: &Datagram, payload: &[u8]) -> Result<(), Reason> {
        let frame = match self.wire {
            Wire::Vxlan { .. } => Frame::parse(payload)?,
            Wire::Udp | Wire::Ipip => Frame::bare(self.wire, payload)?,
        };
        let network = self
            .networks
            .get(frame.wire)
            .await
            .ok_or(Reason::OtherVni)?;
        let claim = Claim {
            outer: datagram.source.octets(),
            inner: frame.ip.src,
            mac: frame.src_mac,
        };
        // Who sends no packet of the network is no sender that anybody has to be told of.
        if self.wire == Wire::Ipip && !network.is_ours(&claim, frame.ip.dst, self.source_check) {
            return Err(Reason::UnknownVtep);
        }
        network.is_at(datagram.destination)?;
        let mark = frame.mark(network.gbp)?;
        network.check(&claim, self.source_check)?;
        network.heard(claim.outer);
        let network = &*network;
        let mut packet = frame.decapsulate(datagram.tos)?;
        let head = Head {
            src_mac: frame.src_mac,
            mark,
        };
        let send_as = |packet: &[u8], offload: &Offload| {
            let sent = self.injector.send(network, &head, packet, offload);
            sent.map_err(|error| {
                tracing::debug!(%error, "cannot push a packet in");
                Reason::Mangled
            })
        };
        if let Some(unfinished) = Unfinished::find(&packet) {
            if let Some(offload) = Offload::cut_up(unfinished, &packet, network.mtu) {
                return send_as(&packet, &offload);
            }
            unfinished.finish(&mut packet);
        }
        let send = |packet: &[u8]| send_as(packet, &Offload::NONE);
        // What GRO has merged comes whole.
        if packet.len() > network.mtu as usize {
            let segments = segments(&packet, network.mtu);
            if !segments.is_empty() {
                return segments.iter().try_for_each(|packet| send(packet));
            }
        }
        match fit::fit(&packet, network.mtu) {
            Fit::Whole => send(&packet),
            Fit::Pieces(pieces) => pieces.iter().try_for_each(|piece| send(piece)),
            Fit::TooLong => {
                let told = self.injector.too_long(network.mtu, &packet);
                told.map_err(|_| Reason::Mangled)
            }
        }
    }
}

async fn next(too_big: Option<&TooBig>) -> std::io::Result<Vec<u8>> {
    match too_big {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
