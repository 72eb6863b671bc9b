//! BPF filters at a clsact qdisc: how programs are attached before tcx (kernel 6.6).

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

    async fn filter_messages(
        &self,
        index: u32,
        direction: Direction,
    ) -> Result<Vec<TcMessage>, NetError> {
        let action = || format!("list the tc filters of interface #{index}");
        let index = i32::try_from(index).map_err(|_| NetError::Failed {
            action: action(),
            reason: "no such index".to_owned(),
        })?;
        let mut handle = self.handle.traffic_filter(index);
        let request = match direction {
            Direction::Ingress => handle.get().ingress(),
            Direction::Egress => handle.get().egress(),
        };
        let found: Result<Vec<TcMessage>, _> = request.execute().try_collect().await;
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
        priority: priority(message)?,
        handle: message.header.handle.into(),
        program: program?,
    })
}
