//! The routing rules (`ip rule`), as far as a question for a way cannot ask by them.

use futures_util::TryStreamExt;
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use nix::errno::Errno;
use rtnetlink::IpVersion;

use super::Netlink;
use super::error::NetError;

impl Netlink {
    /// Whether a rule is for packets of one IP protocol.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn has_rules_by_protocol(&self) -> Result<bool, NetError> {
        let _turn = self.turn_to_dump().await;
        let mut dump = self.handle().rule().get(IpVersion::V4).execute();
        let mut found = false;
        loop {
            let rule = self.in_time(dump.try_next()).await;
            match rule.map_err(|e| NetError::netlink("list the routing rules", &e)) {
                Ok(Some(rule)) => found |= is_by_protocol(&rule),
                Ok(None) => return Ok(found),
                // A kernel without rules (CONFIG_IP_MULTIPLE_TABLES).
                Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_by_protocol(rule: &RuleMessage) -> bool {
    let names = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::IpProtocol(_));
    rule.attributes.iter().any(names)
}
