//! The two kinds of iptables. They do not see each other's rules, and packets pass both.

use std::fmt;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::base::open_files;

/// Seconds to wait for the xtables lock, which others hold only briefly.
const LOCK: &str = "5";
/// A tool takes part of a second, a few with tens of thousands of rules. Some never end: the kernel, a module or a wrapper around the
/// tool waits for something else.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rules in nftables.
    Nft,
    /// Tables of its own in the kernel.
    Legacy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        })
    }
}

/// What did not work.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    #[error("there is no {0} on this node's path: install iptables (the shipped image has it)")]
    Missing(Kind),
    #[error("cannot run {program}: {error}{}", open_files::hint_at(error))]
    Run {
        program: &'static str,
        error: io::Error,
    },
    #[error("{program} {command} did not end within {} s, and was ended", patience.as_secs())]
    TooLong {
        program: &'static str,
        command: String,
        patience: Duration,
    },
    #[error("{program} {command}: {reason}")]
    Refused {
        program: &'static str,
        command: String,
        reason: String,
    },
}

impl IptablesError {
    fn is_no_program(&self) -> bool {
        matches!(self, Self::Run { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A program that shows and changes the rules of its kind.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    program: &'static str,
    restore: &'static str,
}

/// Every program that the agent may call. A node or an image without them works, where nothing has to be done with them.
pub const PROGRAMS: [&str; 7] = [
    NFT.program,
    NFT.restore,
    LEGACY.program,
    LEGACY.restore,
    PLAIN.program,
    PLAIN.restore,
    "nft",
];

const NFT: Tool = Tool {
    program: "iptables-nft",
    restore: "iptables-nft-restore",
};
const LEGACY: Tool = Tool {
    program: "iptables-legacy",
    restore: "iptables-legacy-restore",
};
/// Either of them; before 1.8 there was only the older kind, with no other name.
const PLAIN: Tool = Tool {
    program: "iptables",
    restore: "iptables-restore",
};

impl Tool {
    /// The tool of a kind, by its own name, or by the plain one if that is what it is.
    ///
    /// # Errors
    /// [`IptablesError::Missing`] if there is none.
    pub async fn of(kind: Kind) -> Result<Self, IptablesError> {
        let named = match kind {
            Kind::Nft => NFT,
            Kind::Legacy => LEGACY,
        };
        for tool in [named, PLAIN] {
            match output(tool.program, &["--version"], "").await {
                Ok(version) if tool.is(kind, &version.stdout) => return Ok(tool),
                Ok(_) => {}
                Err(error) if error.is_no_program() => {}
                Err(error) => return Err(error),
            }
        }
        Err(IptablesError::Missing(kind))
    }

    /// By what it says of itself: "iptables v1.8.9 (nf_tables)".
    fn is(self, kind: Kind, version: &[u8]) -> bool {
        let is_nft = version.windows(9).any(|word| word == b"nf_tables");
        is_nft == (kind == Kind::Nft)
    }

    /// What it prints.
    ///
    /// # Errors
    /// [`IptablesError::Refused`] with its own words.
    pub async fn run(self, arguments: &[&str]) -> Result<String, IptablesError> {
        let all = [&["-w", LOCK], arguments].concat();
        finish(self.program, &all, "").await
    }

    /// Applies a script as one change; chains that it does not declare keep what it does not name.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn restore(self, script: &str) -> Result<(), IptablesError> {
        let arguments = ["-w", LOCK, "--noflush"];
        finish(self.restore, &arguments, script).await.map(drop)
    }
}

/// What `nft` prints; `None` without it.
///
/// # Errors
/// As [`Tool::run`].
pub async fn nft(arguments: &[&str]) -> Result<Option<String>, IptablesError> {
    match finish("nft", arguments, "").await {
        Err(error) if error.is_no_program() => Ok(None),
        printed => printed.map(Some),
    }
}

async fn finish(
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, IptablesError> {
    let Output {
        status,
        stdout,
        stderr,
    } = output(program, arguments, input).await?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    Err(IptablesError::Refused {
        program,
        command: arguments.join(" "),
        reason: String::from_utf8_lossy(&stderr).trim().to_owned(),
    })
}

async fn output(
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<Output, IptablesError> {
    output_within(PATIENCE, program, arguments, input).await
}

async fn output_within(
    patience: Duration,
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<Output, IptablesError> {
    let failed = |error| IptablesError::Run { program, error };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = open_files::as_given(&mut command).spawn().map_err(failed)?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok());
    let stdin = child.stdin.take();
    let printed = async {
        if let Some(mut stdin) = stdin {
            // Dropped at the end: the tool reads until then. One that does not read at all has ended.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match timeout(patience, printed).await {
        Ok(output) => output.map_err(failed),
        Err(_) => {
            // Whatever a wrapper called, too; the wrapper itself may be gone by now.
            if let Some(group) = group {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            Err(IptablesError::TooLong {
                program,
                command: arguments.join(" "),
                patience,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_name_is_one_of_the_two() {
        let is = |kind, version: &str| PLAIN.is(kind, version.as_bytes());
        assert!(is(Kind::Nft, "iptables v1.8.9 (nf_tables)\n"));
        assert!(is(Kind::Legacy, "iptables v1.8.9 (legacy)\n"));
        assert!(is(Kind::Legacy, "iptables v1.6.1\n"), "there was one kind");
        assert!(!is(Kind::Nft, "iptables v1.6.1\n"));
    }

    #[tokio::test]
    async fn a_tool_that_never_ends_is_ended() {
        let patience = Duration::from_millis(10);
        let error = output_within(patience, "sh", &["-c", "sleep infinity; :"], "").await;
        let said = error.unwrap_err().to_string();
        assert!(
            said.starts_with("sh -c sleep infinity; : did not end within"),
            "{said}"
        );
        let output = output_within(Duration::from_mins(10), "cat", &[], "rules").await;
        assert_eq!(output.unwrap().stdout, b"rules");
    }
}
