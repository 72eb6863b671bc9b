//! What other tools say, for as long as anybody can wait.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::{READ_MOST, whole_lines};
use crate::inspect::look::asking;

/// A tool that waits for a lock somebody else holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes what `program` prints.
///
/// # Errors
/// There is no such program, it fails, or it takes too long; what it had printed by then is written.
pub(super) fn run(program: &str, arguments: &[&str], out: &mut dyn Write) -> anyhow::Result<()> {
    asking(async || {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let read = async {
            let said = async {
                match stdout {
                    Some(pipe) => pipe.take(READ_MOST).read_to_end(&mut said).await,
                    None => Ok(0),
                }
            };
            let complaint = async {
                match stderr {
                    Some(pipe) => pipe.take(READ_MOST).read_to_end(&mut complaint).await,
                    None => Ok(0),
                }
            };
            tokio::try_join!(said, complaint)?;
            child.wait().await
        };
        let ended = timeout(PATIENCE, read).await;
        out.write_all(&said)?;
        match ended {
            Err(_) => bail!("{program} took more than {} s", PATIENCE.as_secs()),
            Ok(Err(error)) => Err(error).with_context(|| format!("cannot read from {program}")),
            Ok(Ok(status)) if !status.success() => {
                if complaint.len() as u64 == READ_MOST {
                    whole_lines(&mut complaint);
                }
                let complaint = String::from_utf8_lossy(&complaint);
                bail!("{program} ended with {status}: {}", complaint.trim())
            }
            Ok(Ok(_)) => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(program: &str, arguments: &[&str]) -> (String, Option<String>) {
        let mut out = Vec::new();
        let error = run(program, arguments, &mut out).err();
        let text = String::from_utf8(out).unwrap();
        (text, error.map(|error| format!("{error:#}")))
    }

    #[test]
    fn what_is_printed_is_kept_even_if_the_tool_fails() {
        assert_eq!(said("echo", &["a b"]), ("a b\n".to_owned(), None));
        let (text, error) = said("sh", &["-c", "echo half; echo why >&2; exit 3"]);
        assert_eq!(text, "half\n");
        let error = error.unwrap();
        assert!(error.contains('3') && error.ends_with("why"), "{error}");
        let (_, error) = said("/no/such/tool", &[]);
        assert!(error.unwrap().contains("/no/such/tool"));
    }

    #[test]
    fn a_tool_that_never_stops_printing_is_cut() {
        let (text, error) = said("yes", &[]);
        assert_eq!(text.len() as u64, READ_MOST);
        assert!(error.is_some(), "it was not done");
        let script = "head -c 2000000 /dev/zero | tr '\\0' a >&2; exit 3";
        let (_, error) = said("sh", &["-c", script]);
        assert!(
            error.unwrap().ends_with(": "),
            "half a line could be half a secret"
        );
    }
}
