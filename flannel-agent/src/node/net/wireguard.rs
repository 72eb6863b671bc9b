//! WireGuard devices: what the kernel has of one, and what it is to have (`wg show`, `wg set`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr as Port};

use super::bound::{limit, received};
use super::{NetError, Netlink, Outcome, error};
use crate::base::key::{PrivateKey, Psk, PublicKey};

/// Peers in one message: some hundred bytes each, and an attribute holds 64 KiB.
const AT_ONCE: usize = 128;

/// A device as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub private_key: Option<PrivateKey>,
    pub public_key: Option<PublicKey>,
    pub port: u16,
    pub peers: BTreeMap<PublicKey, PeerState>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Where it was last heard, or is said to be.
    pub endpoint: Option<SocketAddr>,
    pub allowed: BTreeSet<IpNet>,
    pub psk: Psk,
    /// Seconds; 0: it is not called.
    pub keepalive: u16,
    /// When it last proved its key: since 1970. `None`: never.
    pub handshake: Option<Duration>,
    pub received: u64,
    pub sent: u64,
}

/// A peer as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerChange {
    /// `None`: where it was last heard, it stays.
    pub endpoint: Option<SocketAddrV4>,
    pub allowed: BTreeSet<Ipv4Net>,
    pub psk: Psk,
    pub keepalive: u16,
}

/// What is to be told to a device; what is not named stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub private_key: Option<PrivateKey>,
    pub port: Option<u16>,
    /// These go first.
    pub remove: BTreeSet<PublicKey>,
    pub put: BTreeMap<PublicKey, PeerChange>,
}

/// Whether this kernel has such devices. Asking loads the module, where there is one.
///
/// # Errors
/// If it cannot be asked.
pub fn is_there() -> Result<bool, NetError> {
    let family = Talk::open().and_then(|mut talk| talk.family());
    let family = family.map_err(|error| NetError::io("ask for WireGuard", &error))?;
    Ok(family.is_some())
}

/// `None`: there is no WireGuard device of that name.
///
/// # Errors
/// If the kernel does not tell.
pub fn read(device: &str) -> Result<Option<State>, NetError> {
    let failed = |error: io::Error| NetError::io(format!("look at {device}"), &error);
    let mut talk = Talk::open().map_err(failed)?;
    let Some(family) = talk.family().map_err(failed)? else {
        return Ok(None);
    };
    let ask = WireguardMessage {
        cmd: WireguardCmd::GetDevice,
        attributes: vec![WireguardAttribute::IfName(device.to_owned())],
    };
    match talk.ask(family, ask, NLM_F_DUMP) {
        Ok(parts) => Ok(Some(state(parts))),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// # Errors
/// If the kernel refuses; some of it may be done by then.
pub fn configure(device: &str, change: &Change) -> Result<(), NetError> {
    let failed = |error: io::Error| NetError::io(format!("configure {device}"), &error);
    let mut talk = Talk::open().map_err(failed)?;
    let family = talk.family().map_err(failed)?;
    let family =
        family.ok_or_else(|| NetError::refused(format!("configure {device}"), Errno::ENODEV))?;
    for message in messages(device, change) {
        talk.ask(family, message, NLM_F_ACK).map_err(failed)?;
    }
    Ok(())
}

impl Netlink {
    /// Creates a WireGuard device, which is down.
    ///
    /// # Errors
    /// [`Outcome::Exists`] is not an error; any other refusal is.
    pub async fn create_wireguard(&self, name: &str, mtu: u32) -> Result<Outcome, NetError> {
        let message = rtnetlink::LinkWireguard::new(name).mtu(mtu).build();
        error::outcome(
            format!("create the WireGuard device {name}"),
            self.in_time(self.handle().link().add(message).execute())
                .await,
        )
    }
}

/// The requests for a change, with everything that concerns the device itself in the first.
fn messages(device: &str, change: &Change) -> Vec<WireguardMessage> {
    let gone = change.remove.iter().map(|key| {
        WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(key.0),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ])
    });
    let put = change.put.iter().map(|(key, peer)| put(*key, peer));
    let peers: Vec<WireguardPeer> = gone.chain(put).collect();
    let private = change.private_key.as_ref();
    let private = private.map(|key| WireguardAttribute::PrivateKey(key.bytes()));
    let port = change.port.map(WireguardAttribute::ListenPort);
    let mut first: Vec<_> = private.into_iter().chain(port).collect();
    let mut chunks = peers.chunks(AT_ONCE);
    let mut messages = Vec::new();
    loop {
        let chunk = chunks.next();
        if chunk.is_none() && first.is_empty() {
            return messages;
        }
        let mut attributes = vec![WireguardAttribute::IfName(device.to_owned())];
        attributes.append(&mut first);
        attributes.extend(chunk.map(|peers| WireguardAttribute::Peers(peers.to_vec())));
        messages.push(WireguardMessage {
            cmd: WireguardCmd::SetDevice,
            attributes,
        });
    }
}

fn put(key: PublicKey, peer: &PeerChange) -> WireguardPeer {
    let allowed = peer.allowed.iter().map(|net| {
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv4),
            WireguardAllowedIpAttr::IpAddr(net.network().into()),
            WireguardAllowedIpAttr::Cidr(net.prefix_len()),
        ])
    });
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::PresharedKey(peer.psk.0),
    ];
    let endpoint = peer.endpoint.map(SocketAddr::from);
    attributes.extend(endpoint.map(WireguardPeerAttribute::Endpoint));
    attributes.push(WireguardPeerAttribute::PersistentKeepalive(peer.keepalive));
    attributes.push(WireguardPeerAttribute::AllowedIps(allowed.collect()));
    WireguardPeer(attributes)
}

/// A peer with many subnets goes on in the next part.
fn state(parts: Vec<WireguardMessage>) -> State {
    let mut state = State::default();
    for attribute in parts.into_iter().flat_map(|part| part.attributes) {
        match attribute {
            WireguardAttribute::PrivateKey(key) => {
                state.private_key = Some(PrivateKey::from_bytes(key));
            }
            WireguardAttribute::PublicKey(key) => state.public_key = Some(PublicKey(key)),
            WireguardAttribute::ListenPort(port) => state.port = port,
            WireguardAttribute::Peers(peers) => {
                peers
                    .into_iter()
                    .for_each(|peer| add(&mut state.peers, peer));
            }
            _ => {}
        }
    }
    state
}

fn add(peers: &mut BTreeMap<PublicKey, PeerState>, WireguardPeer(attributes): WireguardPeer) {
    let key = attributes.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(PublicKey(*key)),
        _ => None,
    });
    let Some(key) = key else { return };
    let peer = peers.entry(key).or_default();
    for attribute in attributes {
        match attribute {
            WireguardPeerAttribute::PresharedKey(psk) => peer.psk = Psk(psk),
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(endpoint),
            WireguardPeerAttribute::PersistentKeepalive(every) => peer.keepalive = every,
            WireguardPeerAttribute::LastHandshake(at) => {
                let seconds = u64::try_from(at.seconds).unwrap_or(0);
                peer.handshake = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            WireguardPeerAttribute::RxBytes(bytes) => peer.received = bytes,
            WireguardPeerAttribute::TxBytes(bytes) => peer.sent = bytes,
            WireguardPeerAttribute::AllowedIps(nets) => {
                peer.allowed.extend(nets.iter().filter_map(net));
            }
            _ => {}
        }
    }
}

fn net(WireguardAllowedIp(attributes): &WireguardAllowedIp) -> Option<IpNet> {
    let (mut address, mut len) = (None, None);
    for attribute in attributes {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(ip) => address = Some::<IpAddr>(*ip),
            WireguardAllowedIpAttr::Cidr(bits) => len = Some(*bits),
            _ => {}
        }
    }
    IpNet::new(address?, len?).ok()
}

/// A conversation with the kernel in generic netlink.
struct Talk(Socket);

impl Talk {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        limit(&socket)?;
        socket.bind_auto()?;
        Ok(Self(socket))
    }

    /// By which number the kernel knows WireGuard. `None`: it does not.
    fn family(&mut self) -> io::Result<Option<u16>> {
        let name = WireguardMessage::family_name().to_owned();
        let ask = GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(name)],
        };
        let answers = match self.ask(0, ask, NLM_F_ACK) {
            Ok(answers) => answers,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut attributes = answers.into_iter().flat_map(|answer| answer.nlas);
        Ok(attributes.find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(id),
            _ => None,
        }))
    }

    /// All that the kernel answers, up to its word that this was all.
    fn ask<F>(&mut self, family: u16, request: F, flags: u16) -> io::Result<Vec<F>>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Debug,
    {
        let mut request = GenlMessage::from_payload(request);
        request.set_resolved_family_id(family);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send_to(&bytes, &Port::new(0, 0), 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = received(|| self.0.recv_from_full())?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<GenlMessage<F>>::deserialize(rest);
                let message = message.map_err(io::Error::other)?;
                let len = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(len..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer.payload),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(Errno::from_raw(-done.code).into());
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(code) => Err(Errno::from_raw(-code.get()).into()),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u16) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        PublicKey(bytes)
    }

    fn peer(subnet: &str) -> PeerChange {
        PeerChange {
            endpoint: Some("192.0.2.2:51820".parse().unwrap()),
            allowed: [subnet.parse().unwrap()].into(),
            psk: Psk([7; 32]),
            keepalive: 25,
        }
    }

    /// What is sent, read as the kernel's own answer has the same form.
    fn sent(change: &Change) -> Vec<State> {
        let messages = messages("flannel-wg", change);
        messages
            .into_iter()
            .map(|message| {
                let mut bytes = vec![0; message.buffer_len()];
                message.emit(&mut bytes);
                let header = GenlHeader {
                    cmd: message.command(),
                    version: 1,
                };
                let read = WireguardMessage::parse_with_param(&bytes, header).unwrap();
                assert_eq!(read, message);
                assert_eq!(
                    read.attributes[0],
                    WireguardAttribute::IfName("flannel-wg".to_owned())
                );
                state(vec![read])
            })
            .collect()
    }

    #[test]
    fn a_device_and_its_peers_are_told_at_once() {
        let private = PrivateKey::generate();
        let change = Change {
            private_key: Some(private.clone()),
            port: Some(51_820),
            remove: [key(1)].into(),
            put: [(key(2), peer("10.244.2.0/24"))].into(),
        };
        let [state] = sent(&change).try_into().unwrap();
        assert_eq!((state.private_key, state.port), (Some(private), 51_820));
        assert_eq!(state.peers[&key(1)], PeerState::default());
        let expected = PeerState {
            endpoint: Some("192.0.2.2:51820".parse().unwrap()),
            allowed: ["10.244.2.0/24".parse().unwrap()].into(),
            psk: Psk([7; 32]),
            keepalive: 25,
            ..PeerState::default()
        };
        assert_eq!(state.peers[&key(2)], expected);
    }

    #[test]
    fn thousands_of_peers_come_in_parts_that_an_attribute_holds() {
        let put = (0..1000).map(|n| (key(n), peer("10.244.2.0/24"))).collect();
        let parts = sent(&Change {
            put,
            ..Change::default()
        });
        assert_eq!(parts.len(), 8);
        let peers: usize = parts.iter().map(|part| part.peers.len()).sum();
        assert_eq!(peers, 1000);
        assert!(sent(&Change::default()).is_empty());
    }

    #[test]
    fn a_peer_that_goes_on_in_the_next_part_is_one() {
        let half = |subnet: &str| {
            let put = [(key(1), peer(subnet))].into();
            messages(
                "d",
                &Change {
                    put,
                    ..Change::default()
                },
            )
            .remove(0)
        };
        let whole = state(vec![half("10.244.1.0/24"), half("10.244.2.0/24")]);
        assert_eq!(whole.peers[&key(1)].allowed.len(), 2);
    }
}
