//! flanneld's masquerade rules, which stay when it ends: removed once our programs translate, and not before.
//!
//! Only rules with flanneld's comment that name our network go, and what only held them. Base chains stay,
//! even where they are empty now: with the last of them the kernel would stop translating connections that
//! run (`nf_nat_unregister_fn`).

use std::collections::BTreeSet;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::Instant;

const CHAIN: &str = "FLANNEL-POSTRTG";
const COMMENT: &str = "--comment \"flanneld masq\"";
/// The rule that every network shares: what kube-proxy masquerades is left to it.
const SHARED: &str = "--mark 0x4000/0x4000";
/// flanneld's with `EnableNFTables`: family, table, chain.
const NFT_CHAIN: [&str; 3] = ["ip", "flannel-ipv4", "postrtg"];
/// Seconds to wait for the xtables lock, which others hold only briefly.
const PATIENCE: &str = "5";
/// After a failure.
const AGAIN: Duration = Duration::from_secs(30);

/// Rules that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum MasqError {
    #[error("cannot run {program}: {error}")]
    Run {
        program: &'static str,
        error: io::Error,
    },
    #[error(
        "{program} does not remove flanneld's masquerade rules: {reason}; \
         remove them yourself (docs/migration.md), or pods' packets go on being masqueraded by them"
    )]
    Refused {
        program: &'static str,
        reason: String,
    },
}

/// Removes the rules once in the life of a process.
#[derive(Debug, Default)]
pub struct FlanneldMasq {
    done: bool,
    failed: Option<Instant>,
}

impl FlanneldMasq {
    /// Removes flanneld's masquerading of `network`, unless that is done. Returns whether there was any.
    ///
    /// # Errors
    /// As [`remove`]; half a minute has to pass before it is tried again.
    pub async fn replace(&mut self, network: Ipv4Net) -> Result<bool, MasqError> {
        if self.done || self.failed.is_some_and(|at| at.elapsed() < AGAIN) {
            return Ok(false);
        }
        let outcome = remove(network).await;
        self.done = outcome.is_ok();
        self.failed = outcome.is_err().then(Instant::now);
        outcome
    }
}

/// What there is of `network`, as the kernel's tools name it: what [`remove`] would remove.
///
/// # Errors
/// A tool is there and refuses.
pub async fn find(network: Ipv4Net) -> Result<Vec<&'static str>, MasqError> {
    let mut found = Vec::new();
    for (program, _) in tools() {
        if iptables_script(program, network).await?.is_some() {
            found.push(program);
        }
    }
    if is_in_nft(network).await? {
        found.push("nft");
    }
    Ok(found)
}

/// Removes flanneld's masquerading of `network` from both kinds of iptables and from nftables. Returns
/// whether there was any.
///
/// # Errors
/// A tool is there and refuses.
pub async fn remove(network: Ipv4Net) -> Result<bool, MasqError> {
    let mut any = false;
    for (program, restore) in tools() {
        any |= remove_iptables(program, restore, network).await?;
    }
    Ok(any | remove_nft(network).await?)
}

/// Each kind has rules of its own, whichever goes by the plain name (before 1.8 there was one, with no other
/// name). Asking for legacy tables would load a module and put its hooks in place.
fn tools() -> Vec<(&'static str, &'static str)> {
    let mut tools = vec![("iptables-nft", "iptables-nft-restore")];
    if legacy_nat_is_there() {
        tools.push(("iptables-legacy", "iptables-legacy-restore"));
        tools.push(("iptables", "iptables-restore"));
    }
    tools
}

fn legacy_nat_is_there() -> bool {
    std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|tables| tables.lines().any(|table| table == "nat"))
}

async fn remove_iptables(
    program: &'static str,
    restore: &'static str,
    network: Ipv4Net,
) -> Result<bool, MasqError> {
    let Some(script) = iptables_script(program, network).await? else {
        return Ok(false);
    };
    let restored = run(restore, &["-w", PATIENCE, "--noflush"], Some(&script)).await?;
    restored.map(|_| true).ok_or_else(|| MasqError::Run {
        program: restore,
        error: io::ErrorKind::NotFound.into(),
    })
}

async fn iptables_script(
    program: &'static str,
    network: Ipv4Net,
) -> Result<Option<String>, MasqError> {
    let arguments = ["-w", PATIENCE, "-t", "nat", "-S"];
    let rules = run(program, &arguments, None).await?;
    Ok(rules.and_then(|rules| script(&rules, network)))
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
    script += "COMMIT\n";
    Some(script)
}

fn is_in(chain: &str, rule: &str) -> bool {
    rule.strip_prefix("-A ")
        .and_then(|rest| rest.split(' ').next())
        == Some(chain)
}

fn nft(verb: &'static str) -> Vec<&'static str> {
    ["-n", verb, "chain"].into_iter().chain(NFT_CHAIN).collect()
}

async fn is_in_nft(network: Ipv4Net) -> Result<bool, MasqError> {
    let rules = match run("nft", &nft("list"), None).await {
        Ok(rules) => rules.unwrap_or_default(),
        // No such table or chain.
        Err(MasqError::Refused { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let network = network.to_string();
    Ok(rules.split_whitespace().any(|word| word == network))
}

async fn remove_nft(network: Ipv4Net) -> Result<bool, MasqError> {
    if !is_in_nft(network).await? {
        return Ok(false);
    }
    run("nft", &nft("flush"), None).await.map(|_| true)
}

/// What `program` prints; `None` if there is no such program.
async fn run(
    program: &'static str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<Option<String>, MasqError> {
    let Output {
        status,
        stdout,
        stderr,
    } = match output(program, arguments, input).await {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(MasqError::Run { program, error }),
    };
    if status.success() {
        return Ok(Some(String::from_utf8_lossy(&stdout).into_owned()));
    }
    Err(MasqError::Refused {
        program,
        reason: String::from_utf8_lossy(&stderr).trim().to_owned(),
    })
}

async fn output(program: &str, arguments: &[&str], input: Option<&str>) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Dropped at the end: the tool reads until then.
        stdin
            .write_all(input.unwrap_or_default().as_bytes())
            .await?;
    }
    child.wait_with_output().await
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
            "-X FLANNEL-POSTRTG\nCOMMIT\n",
        ];
        assert_eq!(made(&all), Some(script.concat()));
    }

    #[test]
    fn another_network_keeps_its_rules_and_the_chain() {
        let (ours, others) = (rules("10.244.0.0/16"), rules("10.24.0.0/16"));
        let all = [HEAD, JUMP, MARK, &others, &ours].concat();
        assert_eq!(
            made(&all),
            Some(format!("*nat\n{}COMMIT\n", deleted(&ours)))
        );
        assert_eq!(made(&[HEAD, JUMP, MARK, &others].concat()), None);
    }

    #[test]
    fn rules_of_the_time_before_the_chain_go_too() {
        let old = "-A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE\n";
        let all = ["-P POSTROUTING ACCEPT\n", FOREIGN, old].concat();
        assert_eq!(made(&all), Some(format!("*nat\n{}COMMIT\n", deleted(old))));
    }

    #[test]
    fn rules_that_somebody_else_wrote_stay() {
        assert_eq!(made(&[HEAD, FOREIGN].concat()), None);
        // An empty chain is nobody's rule.
        assert_eq!(made(&[HEAD, JUMP, MARK].concat()), None);
    }
}
