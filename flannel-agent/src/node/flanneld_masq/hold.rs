//! The rule that takes the place of flanneld's: it wants conntrack, and does nothing.

use super::{KINDS, MasqError, NFT_CHAIN, is_in, words};
use crate::node::iptables::{IptablesError, Kind, Tool, nft};
use crate::node::net::{ip_tables, nftables};

/// By this the rule is known that takes the place of flanneld's.
pub(super) const HOLDS: &str = "flannel-ebpf: conntrack stays for connections that run";

/// The rule wants conntrack, and has no target.
pub(super) fn holder() -> String {
    format!("-A POSTROUTING -m conntrack --ctstate INVALID -m comment --comment \"{HOLDS}\"\n")
}

pub(super) fn is_holder(rule: &str) -> bool {
    is_in("POSTROUTING", rule) && rule.contains(HOLDS)
}

/// Whether [`remove`](super::remove) has left its rule for conntrack. A kind of iptables whose tool is missing counts as without.
///
/// # Errors
/// A tool is there and refuses.
pub async fn is_held() -> Result<bool, MasqError> {
    for kind in KINDS {
        if !holders(kind).await?.1.is_empty() {
            return Ok(true);
        }
    }
    is_held_in_nft().await
}

/// Takes that rule away, in every place.
///
/// # Errors
/// A tool refuses.
pub async fn release() -> Result<(), MasqError> {
    for kind in KINDS {
        if let (Some(tool), held) = holders(kind).await?
            && !held.is_empty()
        {
            tool.restore(&format!("*nat\n{held}COMMIT\n")).await?;
        }
    }
    if is_held_in_nft().await? {
        nft(&words("flush")).await?;
    }
    Ok(())
}

/// The tool, if it is worth asking, and the lines that delete the rule.
async fn holders(kind: Kind) -> Result<(Option<Tool>, String), MasqError> {
    let may_be = match kind {
        Kind::Nft => !nftables::rules("nat", "POSTROUTING")?.is_empty(),
        Kind::Legacy => ip_tables::has_table("nat"),
    };
    let tool = match (may_be, Tool::of(kind)) {
        (false, _) => return Ok((None, String::new())),
        (true, tool) => match tool.await {
            Err(IptablesError::Missing(_)) => return Ok((None, String::new())),
            tool => tool?,
        },
    };
    let rules = tool.run(&["-t", "nat", "-S", "POSTROUTING"]).await?;
    let held = rules.lines().filter(|rule| is_holder(rule));
    let deleted = held.map(|rule| rule.replacen("-A ", "-D ", 1) + "\n");
    Ok((Some(tool), deleted.collect()))
}

async fn is_held_in_nft() -> Result<bool, MasqError> {
    let [_, table, chain] = NFT_CHAIN;
    if nftables::rules(table, chain)?.is_empty() {
        return Ok(false);
    }
    let rules = nft(&words("list")).await?.unwrap_or_default();
    Ok(rules.contains(HOLDS))
}
