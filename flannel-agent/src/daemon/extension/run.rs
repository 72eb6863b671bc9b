//! One command: how it is started, for how long anybody waits, and what it printed.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::timeout;

use crate::base::open_files;
use crate::flannel::backend::CommandLine;

/// Whoever makes devices and routes is done long before.
const PATIENCE: Duration = Duration::from_secs(60);
/// More is nothing that a lease could say, and cannot be written: also not by what goes on in the background.
const PRINTED_MOST: u64 = 1 << 20;
/// No affair of a command's, although flanneld gives it to them.
const SECRET: &str = "FLANNELD_ETCD_PASSWORD";

/// Runs it, and returns what it printed on both outputs, without space at the ends. The variables are in its words and in its
/// environment; on its standard input are `input` and the end of a line.
///
/// # Errors
/// It cannot be started, fails or takes too long; what it had printed by then is named.
pub(super) async fn run(
    command: &CommandLine,
    variables: &[(&str, String)],
    input: &str,
) -> anyhow::Result<String> {
    run_for(PATIENCE, command, variables, input).await
}

async fn run_for(
    patience: Duration,
    command: &CommandLine,
    variables: &[(&str, String)],
    input: &str,
) -> anyhow::Result<String> {
    let words = command.words(|name| {
        let ours = variables.iter().find(|(variable, _)| *variable == name);
        let ours = ours.map(|(_, value)| value.clone());
        ours.or_else(|| std::env::var(name).ok())
            .unwrap_or_default()
    });
    let Some((program, arguments)) = words.split_first() else {
        return Ok(String::new());
    };
    // Files, not pipes: nobody waits for a child of its own that keeps them open.
    let mut printed = room(c"output")?;
    let given = in_memory(c"input", &format!("{input}\n"))?;
    let mut started = Command::new(program);
    started
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env_remove(SECRET)
        .stdin(Stdio::from(given))
        .stdout(Stdio::from(printed.try_clone()?))
        .stderr(Stdio::from(printed.try_clone()?))
        .process_group(0)
        .kill_on_drop(true);
    let mut child = open_files::as_given(&mut started)
        .spawn()
        .with_context(|| format!("cannot run {command}"))?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok());
    let ended = timeout(patience, child.wait()).await;
    if ended.is_err()
        && let Some(group) = group
    {
        // All of it; it may be over by now.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let output = read(&mut printed)?;
    match ended {
        Err(_) => bail!(
            "{command} was ended after {} s{}",
            patience.as_secs(),
            so_far(&output)
        ),
        Ok(status) => {
            let status = status.with_context(|| format!("cannot wait for {command}"))?;
            if !status.success() {
                bail!("{command} ended with {status}{}", so_far(&output));
            }
        }
    }
    tracing::info!("ran {command}{}", so_far(&output));
    Ok(output)
}

fn so_far(output: &str) -> String {
    match output {
        "" => String::new(),
        output => format!(", having printed: {output}"),
    }
}

fn in_memory(name: &std::ffi::CStr, text: &str) -> anyhow::Result<File> {
    let mut file = memory(name)?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// A file that never has more than `PRINTED_MOST`.
fn room(name: &std::ffi::CStr) -> anyhow::Result<File> {
    let file = memory(name)?;
    file.set_len(PRINTED_MOST)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW))
        .context("cannot bound a file in memory")?;
    Ok(file)
}

fn memory(name: &std::ffi::CStr) -> anyhow::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create(name, flags).context("cannot make a file in memory")?;
    Ok(File::from(fd))
}

/// What was written: the place of the one that writes is ours as well.
fn read(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let written = file.stream_position()?;
    file.rewind()?;
    file.take(written).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ran(command: &str, input: &str) -> Result<String, String> {
        ran_for(Duration::from_secs(600), command, input).await
    }

    async fn ran_for(patience: Duration, command: &str, input: &str) -> Result<String, String> {
        let command = CommandLine::new(command).unwrap();
        let variables = [("SUBNET", "10.1.2.0/24".to_owned())];
        let outcome = run_for(patience, &command, &variables, input).await;
        outcome.map_err(|error| format!("{error:#}"))
    }

    fn script(folder: &tempfile::TempDir, text: &str) -> String {
        let path = folder.path().join("script");
        std::fs::write(&path, text).unwrap();
        format!("sh {}", path.display())
    }

    #[tokio::test]
    async fn words_environment_and_input_are_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let text = "read line; echo \"$1 $SUBNET $line\" >&2; cat; echo end";
        let command = script(&folder, text) + " $SUBNET";
        assert_eq!(
            ran(&command, "02:00\nmore").await.unwrap(),
            "10.1.2.0/24 10.1.2.0/24 02:00\nmore\nend"
        );
        assert_eq!(ran("true", "").await.unwrap(), "");
    }

    #[tokio::test]
    async fn failures_say_what_was_printed() {
        let folder = tempfile::tempdir().unwrap();
        let error = ran(&script(&folder, "echo no such device; exit 3"), "").await;
        let error = error.unwrap_err();
        assert!(
            error.contains("exit status: 3, having printed: no such device"),
            "{error}"
        );
        let error = ran("/no/such/program $SUBNET", "").await.unwrap_err();
        assert!(
            error.contains("cannot run /no/such/program $SUBNET: "),
            "{error}"
        );
        let command = script(&folder, "echo begun; sleep 600");
        let error = ran_for(Duration::from_secs(1), &command, "").await;
        let error = error.unwrap_err();
        assert!(
            error.contains("was ended after 1 s, having printed: begun"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_is_printed_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let text = "head -c 3000000 /dev/zero | tr '\\0' '#'; echo >&2 end";
        let output = ran(&script(&folder, text), "").await;
        let said = output.unwrap_or_else(|error| error);
        let most = usize::try_from(PRINTED_MOST).unwrap();
        assert_eq!(said.matches('#').count(), most);
    }

    #[tokio::test]
    async fn nobody_waits_for_what_it_leaves_in_the_background() {
        let folder = tempfile::tempdir().unwrap();
        let command = script(&folder, "sleep 600 & echo $!");
        let pid = ran(&command, "").await.unwrap().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
}
