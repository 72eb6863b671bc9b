//! BPF filters at a clsact qdisc: how programs are attached before tcx (kernel 6.6).

use std::fmt;

use futures_util::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpf, TcFilterBpfOption, TcMessage, TcOption};
use nix::errno::Errno;

use super::Netlink;
use super::error::{NetError, errno};

/// Which way packets pass a hook.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Direction {
    Ingress,
    Egress,
}

/// One BPF filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub priority: u16,
    pub handle: u32,
    /// The kernel's id of the program.
    pub program: u32,
}

impl Netlink {
    /// The BPF filters of one hook; none if the device or its clsact qdisc is not there.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn filters(&self, index: u32, direction: Direction) -> Result<Vec<Filter>, NetError> {
        let messages = self.filter_messages(index, direction).await?;
        // An ingress qdisc has nothing on egress, and lists what is on ingress when asked for that.
        if direction == Direction::Egress
            && !messages.is_empty()
            && self.ingress_qdiscs().await?.contains(&index)
        {
            return Ok(Vec::new());
        }
        Ok(messages.iter().filter_map(parse).collect())
    }

    /// Kinds of the filters of one hook that no agent of ours put there.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn foreign_filters(
        &self,
        index: u32,
        direction: Direction,
    ) -> Result<Vec<String>, NetError> {
        let messages = self.filter_messages(index, direction).await?;
        Ok(messages.iter().filter_map(foreign).collect())
    }

    /// The same with filters of other kinds, whose program is 0.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn filters_of_any_kind(
        &self,
        index: u32,
        direction: Direction,
    ) -> Result<Vec<Filter>, NetError> {
        let messages = self.filter_messages(index, direction).await?;
        Ok(messages.iter().filter_map(place).collect())
    }

    /// Removes the clsact qdisc of a device; that there is none is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn remove_clsact(&self, index: u32) -> Result<(), NetError> {
        /// `TC_H_CLSACT`, where it hangs, and the handle that it always has.
        const PARENT: u32 = 0xffff_fff1;
        const HANDLE: u32 = 0xffff_0000;

        let action = || format!("remove the clsact qdisc of interface #{index}");
        let mut request = self.handle().qdisc().del(signed(index, action)?);
        let message = request.message_mut();
        message.header.parent = PARENT.into();
        message.header.handle = HANDLE.into();
        // The kernel compares: an ingress qdisc, which hangs at the same place, is not ours.
        message
            .attributes
            .push(TcAttribute::Kind("clsact".to_owned()));
        match self.in_time(request.execute()).await {
            Err(e)
                if matches!(
                    errno(&e),
                    Some(Errno::ENODEV | Errno::EINVAL | Errno::ENOENT)
                ) =>
            {
                Ok(())
            }
            other => other.map_err(|e| NetError::netlink(action(), &e)),
        }
    }

    async fn filter_messages(
        &self,
        index: u32,
        direction: Direction,
    ) -> Result<Vec<TcMessage>, NetError> {
        let action = || format!("list the tc filters of interface #{index}");
        let index = signed(index, action)?;
        let mut handle = self.handle().traffic_filter(index);
        let request = match direction {
            Direction::Ingress => handle.get().ingress(),
            Direction::Egress => handle.get().egress(),
        };
        let _turn = self.turn_to_dump().await;
        let found: Result<Vec<TcMessage>, _> = self.in_time(request.execute().try_collect()).await;
        match found {
            Ok(messages) => Ok(messages),
            // EINVAL: there is no clsact qdisc to hold filters.
            Err(e) if matches!(errno(&e), Some(Errno::ENODEV | Errno::EINVAL)) => Ok(Vec::new()),
            Err(e) => Err(NetError::netlink(action(), &e)),
        }
    }
}

/// Priorities of our filters, of whichever network.
pub(crate) const PRIORITIES: [u16; 2] = [0x65, 0x66];

fn priority(message: &TcMessage) -> Option<u16> {
    // tcm_info: priority in the upper half, protocol in the lower.
    u16::try_from(message.header.info >> 16).ok()
}

/// The kind, unless it is a BPF filter where ours are. A dump shows each priority once more by itself, without a handle.
fn foreign(message: &TcMessage) -> Option<String> {
    let kind = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Kind(kind) => Some(kind),
        _ => None,
    })?;
    let ours = kind == TcFilterBpf::KIND
        && priority(message).is_some_and(|priority| PRIORITIES.contains(&priority));
    (!ours).then(|| kind.clone())
}

fn signed(index: u32, action: impl Fn() -> String) -> Result<i32, NetError> {
    i32::try_from(index).map_err(|_| NetError::Failed {
        action: action(),
        reason: "no such index".to_owned(),
    })
}

/// A filter by where it is; `None` for what the dump says of a priority as a whole.
fn place(message: &TcMessage) -> Option<Filter> {
    let handle = message.header.handle.into();
    (handle != 0).then_some(Filter {
        priority: priority(message)?,
        handle,
        program: 0,
    })
}

fn parse(message: &TcMessage) -> Option<Filter> {
    let (mut bpf, mut program) = (false, None);
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => bpf = kind == TcFilterBpf::KIND,
            TcAttribute::Options(options) => {
                program = options.iter().find_map(|option| match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if !bpf {
        return None;
    }
    Some(Filter {
        program: program?,
        ..place(message)?
    })
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}
