//! Accept rules for hosts whose FORWARD chain drops by policy (Docker, ufw): packets between pods and
//! tunnel that take the stack would die there.
//!
//! The same two rules as flanneld's, so that either finds the other's. Nothing is touched where the policy
//! is ACCEPT. Each kind of iptables has a FORWARD chain of its own, and a packet needs both to let it pass.

mod keeper;

use ipnet::Ipv4Net;

use crate::node::iptables::{IptablesError, Kind, Tool};
use crate::node::net::{NetError, ip_tables, nftables};
pub use keeper::Keeper;

const TABLE: &str = "filter";
const CHAIN: &str = "FLANNEL-FWD";
const COMMENT: &str = "flanneld forward";

/// Rules that are needed and could not be added, or not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ForwardRulesError {
    #[error("cannot tell whether the firewall drops what is forwarded: {0}")]
    Look(#[from] NetError),
    #[error(
        "the policy of FORWARD ({kind}) is DROP, and no rules can be added that accept {network}: {source}; packets between \
         pods of two nodes are lost there; or accept them yourself and give --iptables-forward-rules=false"
    )]
    Cannot {
        kind: Kind,
        network: Ipv4Net,
        source: IptablesError,
    },
    #[error(transparent)]
    Iptables(#[from] IptablesError),
}

/// The kinds whose FORWARD chain drops what no rule decides about.
///
/// # Errors
/// If the kernel does not say.
pub fn dropping() -> Result<Vec<Kind>, NetError> {
    let mut kinds = Vec::new();
    if nftables::chain(TABLE, "FORWARD")?.is_some_and(|chain| chain.drops_forwarded()) {
        kinds.push(Kind::Nft);
    }
    if ip_tables::forward_drops()? {
        kinds.push(Kind::Legacy);
    }
    Ok(kinds)
}

/// Whether FORWARD drops by policy and lacks any of the rules.
///
/// # Errors
/// As [`ensure`].
pub async fn are_missing(network: Ipv4Net) -> Result<bool, ForwardRulesError> {
    for kind in dropping()? {
        if !lacking(kind, network).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds what is missing where FORWARD drops by policy. Returns whether anything was.
///
/// # Errors
/// No iptables of that kind, or it refuses.
pub async fn ensure(network: Ipv4Net) -> Result<bool, ForwardRulesError> {
    let mut added = false;
    for kind in dropping()? {
        added |= ensure_in(kind, network).await?;
    }
    Ok(added)
}

async fn ensure_in(kind: Kind, network: Ipv4Net) -> Result<bool, ForwardRulesError> {
    let cannot = |source| ForwardRulesError::Cannot {
        kind,
        network,
        source,
    };
    let missing = match lacking(kind, network).await {
        // flanneld's, say. Whether they name this network is the one thing not seen.
        Err(ForwardRulesError::Iptables(IptablesError::Missing(_)))
            if kind == Kind::Nft && are_in_nftables()? =>
        {
            return Ok(false);
        }
        Err(ForwardRulesError::Iptables(error)) => return Err(cannot(error)),
        missing => missing?,
    };
    if missing.is_empty() {
        return Ok(false);
    }
    let tool = Tool::of(kind).await.map_err(cannot)?;
    // Two networks may do this at once; a chain that a script declares would be emptied.
    let _ = tool.run(&["-N", CHAIN]).await;
    let rules = missing.join("\n");
    let script = format!("*{TABLE}\n{rules}\nCOMMIT\n");
    tool.restore(&script).await.map_err(cannot)?;
    Ok(true)
}

/// What is to be added, the jump last: from there on packets meet the rules.
async fn lacking(kind: Kind, network: Ipv4Net) -> Result<Vec<String>, ForwardRulesError> {
    let tool = Tool::of(kind).await?;
    let there = listed(kind, tool).await?;
    let mut missing: Vec<String> = rules(network)
        .into_iter()
        .filter(|rule| !there.lines().any(|line| line == rule))
        .collect();
    if tool
        .run(&["-S", "FORWARD"])
        .await?
        .lines()
        .all(|line| line != jump())
    {
        missing.push(jump());
    }
    Ok(missing)
}

/// The chain as `iptables -S` prints it; without the chain there is no rule. A tool that fails says nothing about rules: it may have
/// waited in vain for the xtables lock, which kube-proxy holds for seconds.
async fn listed(kind: Kind, tool: Tool) -> Result<String, ForwardRulesError> {
    if !has_chain(kind)? {
        return Ok(String::new());
    }
    match tool.run(&["-S", CHAIN]).await {
        // Meanwhile.
        Err(_) if !has_chain(kind)? => Ok(String::new()),
        printed => Ok(printed?),
    }
}

/// The kernel's word, which no lock holds up.
fn has_chain(kind: Kind) -> Result<bool, NetError> {
    match kind {
        Kind::Nft => Ok(nftables::chain(TABLE, CHAIN)?.is_some()),
        Kind::Legacy => ip_tables::has_chain(TABLE, CHAIN),
    }
}

/// As far as one sees without the tool.
fn are_in_nftables() -> Result<bool, NetError> {
    let met = nftables::rules(TABLE, "FORWARD")?;
    let rules = nftables::rules(TABLE, CHAIN)?;
    Ok(met.iter().any(|rule| rule.names(CHAIN)) && rules.len() >= 2)
}

/// The kinds that have the chain, ours or flanneld's.
fn kinds_with_chain() -> Result<Vec<Kind>, NetError> {
    let mut kinds = Vec::new();
    for kind in [Kind::Nft, Kind::Legacy] {
        if has_chain(kind)? {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

/// Whether any rule of `network` is there, or may be: without the tool only the chain is seen.
///
/// # Errors
/// If the kernel does not say.
pub async fn are_there(network: Ipv4Net) -> Result<bool, ForwardRulesError> {
    for kind in kinds_with_chain()? {
        let ours = rules(network);
        match Tool::of(kind).await {
            Err(IptablesError::Missing(_)) => return Ok(true),
            tool => {
                let there = listed(kind, tool?).await?;
                if there
                    .lines()
                    .any(|line| ours.iter().any(|rule| rule == line))
                {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Removes the rules of `network`, and the chain with the last of them. What is not there is fine.
///
/// # Errors
/// No iptables of a kind that has the chain, or it refuses.
pub async fn remove(network: Ipv4Net) -> Result<(), ForwardRulesError> {
    for kind in kinds_with_chain()? {
        let tool = Tool::of(kind).await?;
        for rule in rules(network) {
            delete(tool, CHAIN, &rule).await?;
        }
        let rest = tool.run(&["-S", CHAIN]).await?;
        // Another network on this node may still need it.
        if rest.lines().all(|line| !line.starts_with("-A")) {
            delete(tool, "FORWARD", &jump()).await?;
            tool.run(&["-X", CHAIN]).await?;
        }
    }
    Ok(())
}

/// As `iptables -S` prints them.
fn rules(network: Ipv4Net) -> [String; 2] {
    ["-s", "-d"].map(|side| {
        format!("-A {CHAIN} {side} {network} -m comment --comment \"{COMMENT}\" -j ACCEPT")
    })
}

fn jump() -> String {
    format!("-A FORWARD -m comment --comment \"{COMMENT}\" -j {CHAIN}")
}

/// A rule as it is printed, as often as it is there: each `-D` takes one.
async fn delete(tool: Tool, chain: &str, rule: &str) -> Result<(), IptablesError> {
    let there = tool.run(&["-S", chain]).await?;
    let times = there.lines().filter(|line| *line == rule).count();
    if times > 0 {
        let rule = rule.replacen("-A ", "-D ", 1) + "\n";
        let script = format!("*{TABLE}\n{}COMMIT\n", rule.repeat(times));
        tool.restore(&script).await?;
    }
    Ok(())
}
