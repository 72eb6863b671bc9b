//! flanneld's masquerade rules, which stay when it ends: removed once our programs translate, and not before.
//!
//! Only rules with flanneld's comment that name our network go, and what only held them. Base chains stay,
//! even where they are empty now: with the last of them the kernel would stop translating connections that
//! run (`nf_nat_unregister_fn`). So it would without conntrack, and that is hooked only as long as some rule wants it
//! (`nf_ct_netns_get`), as flanneld's MASQUERADE does: a rule that wants it and does nothing takes the place of the last.

mod hold;

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::node::iptables::{IptablesError, Kind, Tool, nft};
use crate::node::net::{NetError, ip_tables, nftables};
use hold::{HOLDS, holder, is_holder};
pub use hold::{is_held, release};

const CHAIN: &str = "FLANNEL-POSTRTG";
const COMMENT: &str = "--comment \"flanneld masq\"";
/// The rule that every network shares: what kube-proxy masquerades is left to it.
const SHARED: &str = "--mark 0x4000/0x4000";
/// flanneld's with `EnableNFTables`: family, table, chain.
const NFT_CHAIN: [&str; 3] = ["ip", "flannel-ipv4", "postrtg"];
/// After a failure.
const AGAIN: Duration = Duration::from_secs(30);

/// Rules that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum MasqError {
    #[error(
        "flanneld's masquerade rules cannot be removed: {0}; remove them yourself (docs/migration.md), or pods' packets go \
         on being masqueraded by them"
    )]
    Iptables(#[from] IptablesError),
    #[error("cannot look for flanneld's masquerade rules: {0}")]
    Look(#[from] NetError),
    #[error(
        "flanneld's masquerade rules are in nftables' `ip flannel-ipv4`, and there is no nft here to remove them: install \
         nftables (the shipped image has it), or remove them yourself (docs/migration.md)"
    )]
    NoNft,
}

/// Removes the rules once in the life of a process.
#[derive(Debug, Default)]
pub struct FlanneldMasq {
    done: bool,
    failed: Option<(Instant, String)>,
}

impl FlanneldMasq {
    /// Whether there is anything to do: after a failure half a minute has to pass.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let recently = |(at, _): &(Instant, String)| at.elapsed() < AGAIN;
        !self.done && !self.failed.as_ref().is_some_and(recently)
    }

    /// Removes flanneld's masquerading of `network`, if that [is due](Self::is_due). Returns whether there was any.
    ///
    /// # Errors
    /// As [`remove`], with news.
    pub async fn replace(&mut self, network: Ipv4Net) -> Result<bool, String> {
        if !self.is_due() {
            return Ok(false);
        }
        let known = self.failed.take().map(|(_, why)| why);
        match remove(network).await {
            Ok(any) => {
                self.done = true;
                Ok(any)
            }
            Err(error) => {
                let why = error.to_string();
                self.failed = Some((Instant::now(), why.clone()));
                match known.as_ref() == Some(&why) {
                    true => Ok(false),
                    false => Err(why),
                }
            }
        }
    }

    /// Why they are still there.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.failed.as_ref().map(|(_, why)| why.as_str())
    }
}

/// What there is of `network`, as the kernel's tools name it: what [`remove`] would remove.
///
/// # Errors
/// A tool is missing, or is there and refuses.
pub async fn find(network: Ipv4Net) -> Result<Vec<String>, MasqError> {
    let mut found = Vec::new();
    for kind in KINDS {
        if iptables_script(kind, network).await?.is_some() {
            found.push(kind.to_string());
        }
    }
    if is_in_nft(network).await? {
        found.push("nft".to_owned());
    }
    Ok(found)
}

/// Removes flanneld's masquerading of `network` from both kinds of iptables and from nftables. Returns
/// whether there was any.
///
/// # Errors
/// A tool is missing, or is there and refuses.
pub async fn remove(network: Ipv4Net) -> Result<bool, MasqError> {
    let mut any = false;
    for kind in KINDS {
        if let Some((tool, script)) = iptables_script(kind, network).await? {
            tool.restore(&script).await?;
            any = true;
        }
    }
    Ok(any | remove_nft(network).await?)
}

const KINDS: [Kind; 2] = [Kind::Nft, Kind::Legacy];

async fn iptables_script(
    kind: Kind,
    network: Ipv4Net,
) -> Result<Option<(Tool, String)>, MasqError> {
    let (chain_is_there, may_be_old) = match kind {
        Kind::Nft => (!nftables::rules("nat", CHAIN)?.is_empty(), true),
        Kind::Legacy => (
            ip_tables::has_chain("nat", CHAIN)?,
            ip_tables::has_table("nat"),
        ),
    };
    // Rules of the time before the chain are seen with the tool alone. Asking for legacy tables that are not there would
    // load a module and put its hooks in place.
    if !chain_is_there && !may_be_old {
        return Ok(None);
    }
    let tool = match Tool::of(kind).await {
        Err(IptablesError::Missing(_)) if !chain_is_there => return Ok(None),
        tool => tool?,
    };
    let rules = tool.run(&["-t", "nat", "-S"]).await?;
    Ok(script(&rules, network).map(|script| (tool, script)))
}

/// What `iptables-restore` has to do; `None`: nothing of `network` is in `rules` (`iptables -t nat -S`).
fn script(rules: &str, network: Ipv4Net) -> Option<String> {
    let network = network.to_string();
    let names_network = |rule: &str| {
        let words: Vec<_> = rule.split_whitespace().collect();
        words
            .windows(2)
            .any(|pair| ["-s", "-d"].contains(&pair[0]) && pair[1] == network)
    };
    let flannelds = || rules.lines().filter(|rule| rule.contains(COMMENT));
    // Releases without the chain wrote the same rules to POSTROUTING.
    let mut gone: Vec<&str> = flannelds()
        .filter(|rule| is_in("POSTROUTING", rule) || is_in(CHAIN, rule))
        .filter(|rule| names_network(rule))
        .collect();
    if gone.is_empty() {
        return None;
    }
    let in_chain = || rules.lines().filter(|rule| is_in(CHAIN, rule));
    let is_needed = in_chain().any(|rule| !gone.contains(&rule) && !rule.contains(SHARED));
    let has_chain = rules.lines().any(|rule| rule == format!("-N {CHAIN}"));
    if has_chain && !is_needed {
        let known: BTreeSet<_> = gone.iter().copied().collect();
        gone.extend(in_chain().filter(|rule| !known.contains(rule)));
        let jump = format!("-j {CHAIN}");
        gone.extend(flannelds().filter(|rule| rule.ends_with(&jump)));
    }
    let mut script = String::from("*nat\n");
    for rule in gone {
        script += &rule.replacen("-A ", "-D ", 1);
        script.push('\n');
    }
    if has_chain && !is_needed {
        script += &format!("-X {CHAIN}\n");
    }
    if !rules.lines().any(is_holder) {
        script += &holder();
    }
    script += "COMMIT\n";
    Some(script)
}

fn is_in(chain: &str, rule: &str) -> bool {
    rule.strip_prefix("-A ")
        .and_then(|rest| rest.split(' ').next())
        == Some(chain)
}

fn words(verb: &'static str) -> Vec<&'static str> {
    let [family, table, chain] = NFT_CHAIN;
    vec!["-n", verb, "chain", family, table, chain]
}

async fn is_in_nft(network: Ipv4Net) -> Result<bool, MasqError> {
    let [_, table, chain] = NFT_CHAIN;
    if nftables::rules(table, chain)?.is_empty() {
        return Ok(false);
    }
    let rules = nft(&words("list")).await?.ok_or(MasqError::NoNft)?;
    let network = network.to_string();
    Ok(rules.split_whitespace().any(|word| word == network))
}

async fn remove_nft(network: Ipv4Net) -> Result<bool, MasqError> {
    if !is_in_nft(network).await? {
        return Ok(false);
    }
    let chain = NFT_CHAIN.join(" ");
    // One transaction: conntrack is never without a rule that wants it.
    let change =
        format!("flush chain {chain}; add rule {chain} ct state invalid comment \"{HOLDS}\"");
    nft(&[&change]).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "-P PREROUTING ACCEPT\n-P POSTROUTING ACCEPT\n-N FLANNEL-POSTRTG\n-N KUBE\n";
    const FOREIGN: &str = "-A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE\n-A POSTROUTING -j KUBE\n";
    const JUMP: &str = "-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n";
    const MARK: &str = "-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN\n";

    fn rules(network: &str) -> String {
        format!(
            "-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d {network} -m comment --comment \"flanneld masq\" -j RETURN\n\
             -A FLANNEL-POSTRTG ! -s {network} -d {network} -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully\n"
        )
    }

    fn deleted(rules: &str) -> String {
        rules.replace("-A ", "-D ")
    }

    fn made(rules: &str) -> Option<String> {
        script(rules, "10.244.0.0/16".parse().unwrap())
    }

    #[test]
    fn all_of_flannelds_goes_and_nothing_else() {
        let ours = rules("10.244.0.0/16");
        let all = [HEAD, FOREIGN, JUMP, MARK, &ours].concat();
        let script = [
            "*nat\n",
            &deleted(&ours),
            &deleted(MARK),
            &deleted(JUMP),
            "-X FLANNEL-POSTRTG\n",
            &holder(),
            "COMMIT\n",
        ];
        assert_eq!(made(&all), Some(script.concat()));
    }

    #[test]
    fn another_network_keeps_its_rules_and_the_chain() {
        let (ours, others) = (rules("10.244.0.0/16"), rules("10.24.0.0/16"));
        let all = [HEAD, JUMP, MARK, &others, &ours].concat();
        assert_eq!(
            made(&all),
            Some(format!("*nat\n{}{}COMMIT\n", deleted(&ours), holder()))
        );
        assert_eq!(made(&[HEAD, JUMP, MARK, &others].concat()), None);
    }

    #[test]
    fn rules_of_the_time_before_the_chain_go_too() {
        let old = "-A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE\n";
        let all = ["-P POSTROUTING ACCEPT\n", FOREIGN, old].concat();
        let script = format!("*nat\n{}{}COMMIT\n", deleted(old), holder());
        assert_eq!(made(&all), Some(script));
    }

    #[test]
    fn conntrack_is_held_once() {
        let all = [HEAD, &holder(), JUMP, MARK, &rules("10.244.0.0/16")].concat();
        assert!(!made(&all).unwrap().contains("conntrack"));
    }

    #[test]
    fn rules_that_somebody_else_wrote_stay() {
        assert_eq!(made(&[HEAD, FOREIGN].concat()), None);
        // An empty chain is nobody's rule.
        assert_eq!(made(&[HEAD, JUMP, MARK].concat()), None);
    }
}
