//! Running other programs, with errors that say which.

use std::io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs `command` with our terminal; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", show(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", show(command));
    }
    Ok(())
}

/// As [`run`]; what it prints also goes to `read`, a line at a time and without the line feed.
pub(crate) fn run_reading(command: Command, mut read: impl FnMut(&str)) -> Result<()> {
    let (output, mut child, shown) = start(command)?;
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    // Bytes, because a test may print any.
    while lines
        .read_until(b'\n', &mut line)
        .with_context(|| format!("cannot read from `{shown}`"))?
        > 0
    {
        std::io::stdout().write_all(&line).context("cannot print")?;
        read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` and returns what it printed, errors and all in their order, and how it ended.
pub(crate) fn capture(mut command: Command) -> Result<(Vec<u8>, ExitStatus)> {
    command.stdin(Stdio::null());
    let (mut output, mut child, shown) = start(command)?;
    let mut printed = Vec::new();
    output
        .read_to_end(&mut printed)
        .with_context(|| format!("cannot read from `{shown}`"))?;
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{shown}`"))?;
    Ok((printed, status))
}

/// Starts `command`. Gives what it will print, by one pipe for both outputs, so that the order stays; and the command line.
fn start(mut command: Command) -> Result<(PipeReader, Child, String)> {
    let (output, input) = std::io::pipe().context("cannot make a pipe")?;
    command
        .stderr(input.try_clone().context("cannot make a pipe")?)
        .stdout(input);
    let shown = show(&command);
    let child = command
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    // `command` holds our ends of the pipe and goes here: as long as they are open the output has no end.
    Ok((output, child, shown))
}

/// Runs `command` and returns what it printed, without the last line feed.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", show(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}\n{}",
            show(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    let text = String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that is not UTF-8", show(command)))?;
    Ok(text.trim_end().to_owned())
}

/// The command line as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
