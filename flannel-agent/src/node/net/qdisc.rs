//! Queueing disciplines that stand where clsact would.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcMessage};

use super::Netlink;
use super::error::NetError;

impl Netlink {
    /// Interfaces with an `ingress` qdisc, as CNI's bandwidth plugin sets it up to shape what a pod sends. It stands in
    /// clsact's place, and takes a filter for egress in silence, on ingress (`ingress_tcf_block`).
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn ingress_qdiscs(&self) -> Result<BTreeSet<u32>, NetError> {
        let _turn = self.turn_to_dump().await;
        let found: Result<Vec<TcMessage>, _> = {
            let mut handle = self.handle().qdisc();
            let dump = handle.get().execute();
            self.in_time(dump.try_collect()).await
        };
        let messages = found.map_err(|e| NetError::netlink("list the qdiscs", &e))?;
        Ok(messages.iter().filter_map(ingress).collect())
    }
}

fn ingress(message: &TcMessage) -> Option<u32> {
    let is_ingress =
        |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "ingress");
    let found = message.attributes.iter().any(is_ingress);
    u32::try_from(message.header.index).ok().filter(|_| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clsact_is_none() {
        let qdisc = |kind: &str| {
            let mut message = TcMessage::with_index(7);
            message.attributes.push(TcAttribute::Kind(kind.to_owned()));
            message
        };
        assert_eq!(ingress(&qdisc("ingress")), Some(7));
        assert_eq!(ingress(&qdisc("clsact")), None);
    }
}
