//! Accept rules for hosts whose FORWARD chain drops by policy (Docker, ufw): packets between pods and
//! tunnel that take the stack would die there.
//!
//! The same two rules as flanneld's, so that either finds the other's. Nothing is touched where the policy
//! is ACCEPT, and where there is no iptables there is no such chain.

use std::io;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::process::Command;
use tokio::time::Instant;

const CHAIN: &str = "FLANNEL-FWD";
const COMMENT: &str = "flanneld forward";
/// Seconds to wait for the xtables lock, which others hold only briefly.
const PATIENCE: &str = "5";
/// Others rewrite their rules while we run; each look costs a process.
const EVERY: Duration = Duration::from_secs(30);

/// iptables would not do as told.
#[derive(Debug, thiserror::Error)]
pub enum ForwardRulesError {
    #[error("cannot run iptables: {0}")]
    Run(#[from] io::Error),
    #[error(
        "iptables {command}: {reason}; accept the network's packets in FORWARD yourself, \
         or give --iptables-forward-rules=false"
    )]
    Refused { command: String, reason: String },
}

/// Looks after the rules, from time to time.
#[derive(Debug, Default)]
pub struct ForwardRules {
    looked: Option<Instant>,
}

impl ForwardRules {
    /// Looks after the rules of `network` unless it was done a moment ago. Returns whether any was added.
    ///
    /// # Errors
    /// As [`ensure`].
    pub async fn keep(&mut self, network: Ipv4Net) -> Result<bool, ForwardRulesError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return Ok(false);
        }
        let added = ensure(network).await?;
        self.looked = Some(Instant::now());
        Ok(added)
    }
}

/// Whether FORWARD drops by policy and lacks any of the rules.
///
/// # Errors
/// iptables is there and refuses.
pub async fn are_missing(network: Ipv4Net) -> Result<bool, ForwardRulesError> {
    if !are_needed().await? {
        return Ok(false);
    }
    for rule in rules(network) {
        if run(&with("-C", CHAIN, &rule)).await.is_err() {
            return Ok(true);
        }
    }
    Ok(run(&with("-C", "FORWARD", &jump())).await.is_err())
}

async fn are_needed() -> Result<bool, ForwardRulesError> {
    match run(&["-S", "FORWARD"]).await {
        Err(ForwardRulesError::Run(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        forward => Ok(forward?.lines().any(|line| line == "-P FORWARD DROP")),
    }
}

/// Adds what is missing where FORWARD drops by policy. Returns whether anything was.
///
/// # Errors
/// iptables is there and refuses.
pub async fn ensure(network: Ipv4Net) -> Result<bool, ForwardRulesError> {
    if !are_needed().await? {
        return Ok(false);
    }
    let mut added = false;
    // A chain that is there already is no failure worth a word.
    if run(&["-S", CHAIN]).await.is_err() {
        run(&["-N", CHAIN]).await?;
    }
    for rule in rules(network) {
        added |= append(CHAIN, &rule).await?;
    }
    // Last: from here on packets meet the rules.
    added |= append("FORWARD", &jump()).await?;
    Ok(added)
}

/// Whether any rule of `network` is there.
///
/// # Errors
/// iptables cannot be run.
pub async fn are_there(network: Ipv4Net) -> Result<bool, ForwardRulesError> {
    match run(&["-S", CHAIN]).await {
        Err(ForwardRulesError::Run(error)) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error.into());
        }
        // No iptables, no chain.
        Err(_) => return Ok(false),
        Ok(_) => {}
    }
    for rule in rules(network) {
        if run(&with("-C", CHAIN, &rule)).await.is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the rules of `network`, and the chain with the last of them. What is not there is fine.
///
/// # Errors
/// iptables cannot be run.
pub async fn remove(network: Ipv4Net) -> Result<(), ForwardRulesError> {
    let mut rest = String::new();
    match run(&["-S", CHAIN]).await {
        Err(ForwardRulesError::Run(error)) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error.into());
        }
        Err(_) => return Ok(()),
        Ok(_) => {
            for rule in rules(network) {
                delete(CHAIN, &rule).await?;
            }
            rest.push_str(&run(&["-S", CHAIN]).await?);
        }
    }
    // Another network on this node may still need it.
    if rest.lines().any(|line| line.starts_with("-A")) {
        return Ok(());
    }
    delete("FORWARD", &jump()).await?;
    run(&["-X", CHAIN]).await.map(drop)
}

fn rules(network: Ipv4Net) -> [Vec<String>; 2] {
    ["-s", "-d"].map(|side| {
        let network = network.to_string();
        [
            side,
            &network,
            "-m",
            "comment",
            "--comment",
            COMMENT,
            "-j",
            "ACCEPT",
        ]
        .map(str::to_owned)
        .to_vec()
    })
}

fn jump() -> Vec<String> {
    ["-m", "comment", "--comment", COMMENT, "-j", CHAIN]
        .map(str::to_owned)
        .to_vec()
}

async fn append(chain: &str, rule: &[String]) -> Result<bool, ForwardRulesError> {
    if run(&with("-C", chain, rule)).await.is_ok() {
        return Ok(false);
    }
    run(&with("-A", chain, rule)).await.map(|_| true)
}

async fn delete(chain: &str, rule: &[String]) -> Result<(), ForwardRulesError> {
    if run(&with("-C", chain, rule)).await.is_ok() {
        run(&with("-D", chain, rule)).await?;
    }
    Ok(())
}

fn with<'a>(verb: &'a str, chain: &'a str, rule: &'a [String]) -> Vec<&'a str> {
    let rule = rule.iter().map(String::as_str);
    [verb, chain].into_iter().chain(rule).collect()
}

async fn run(arguments: &[&str]) -> Result<String, ForwardRulesError> {
    let output = Command::new("iptables")
        .args(["-w", PATIENCE])
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ForwardRulesError::Refused {
        command: arguments.join(" "),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
