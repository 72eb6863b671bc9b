//! Queueing disciplines.

use futures_util::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::Netlink;
use super::error::NetError;

/// Where `ingress` and `clsact` hang: the same handle, `TC_H_CLSACT`.
const HOOKS: TcHandle = TcHandle::INGRESS;

/// One of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discipline {
    /// ifindex.
    pub index: u32,
    pub kind: String,
    place: TcHandle,
}

impl Discipline {
    /// `clsact` and `ingress`, which queue nothing.
    #[must_use]
    pub fn holds_filters(&self) -> bool {
        self.place == HOOKS
    }

    /// Whether it is at the root and does anything at all with what leaves. A device without a queue of its own, as veth and
    /// bridges are, has none of itself.
    #[must_use]
    pub fn shapes(&self) -> bool {
        self.place == TcHandle::ROOT && self.kind != "noqueue"
    }
}

impl Netlink {
    /// Those of all devices.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn disciplines(&self) -> Result<Vec<Discipline>, NetError> {
        let _turn = self.turn_to_dump().await;
        let dump = self.handle().qdisc().get().execute();
        let found: Result<Vec<TcMessage>, _> = self.in_time(dump.try_collect()).await;
        let found = found.map_err(|e| NetError::netlink("list the queueing disciplines", &e))?;
        Ok(found.iter().filter_map(parse).collect())
    }
}

fn parse(message: &TcMessage) -> Option<Discipline> {
    let kind = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    })?;
    Some(Discipline {
        index: u32::try_from(message.header.index).ok()?,
        kind,
        place: message.header.parent,
    })
}
