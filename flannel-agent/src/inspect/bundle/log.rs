//! The agent's log, of which the end counts.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::READ_MOST;
use super::command::run;
use crate::reconcile::logbook::Page;

/// Its last lines, where they can be got at.
pub(super) fn copy(folder: &Path, network: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    let pid = Page::read(folder, network)
        .context(
            "no agent has written down its process (--state-dir): its log is where its stderr goes",
        )?
        .pid;
    let process = PathBuf::from(format!("/proc/{pid}"));
    let comm = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    if comm.trim_end() == "flannel-agent" {
        let stderr = process.join("fd/2");
        let file = File::open(&stderr).ok();
        if let Some(file) = file.filter(|f| f.metadata().is_ok_and(|m| m.is_file())) {
            return Ok(end_of(file, out)?);
        }
    }
    let by_pid = format!("_PID={pid}");
    let mut said = Vec::new();
    let arguments = ["--no-pager", "--quiet", "--boot", "--lines=5000", &by_pid];
    let journal = run("journalctl", &arguments, &mut said);
    if said.is_empty() {
        journal?;
        bail!(
            "the journal has nothing of process {pid}: the log is where the agent's stderr goes \
             (in a container: kubectl logs)"
        );
    }
    out.write_all(&said)?;
    journal
}

/// The last lines, as many as a piece may have. The line that is cut is left out: what is left of a secret in it is not
/// known as one.
fn end_of(file: impl Read + Seek, out: &mut dyn Write) -> io::Result<()> {
    let mut file = BufReader::new(file);
    let len = file.seek(SeekFrom::End(0))?;
    match len.checked_sub(READ_MOST) {
        Some(before) => {
            file.seek(SeekFrom::Start(before))?;
            file.skip_until(b'\n')?;
        }
        None => file.rewind()?,
    }
    io::copy(&mut file, out).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::LONGEST;
    use super::*;

    fn end(text: String) -> String {
        let mut out = Vec::new();
        end_of(Cursor::new(text), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_end_of_a_long_log_begins_with_a_whole_line() {
        let fits = format!("{}\n", "-".repeat(LONGEST - 1));
        assert!(end(fits.clone()) == fits);
        assert!(end(format!("\n{fits}")) == fits);
        let last = "-".repeat(LONGEST - 10);
        // The end of the first line would fit.
        let cut = format!("password=hunter22\n{last}\n");
        assert!(end(cut) == format!("{last}\n"), "and not hunter22");
        assert_eq!(end("short".to_owned()), "short");
    }
}
