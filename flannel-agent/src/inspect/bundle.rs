//! `debug bundle`: everything that somebody who helps will ask for, in one file, without secrets.

mod command;
mod log;
mod outlet;
mod pieces;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::Verdict;
use crate::base::logging::describe;
use crate::base::wall::Moment;
use crate::settings::flags::Flags;
use crate::settings::{Config, Secrets};
use outlet::Outlet;
use pieces::Piece;

/// `debug …`
#[derive(Debug, Subcommand)]
pub enum Debug {
    /// Write what a report of a bug needs into one file, without passwords and keys; takes the agent's flags
    ///
    /// It works without an agent, too. What cannot be found out is named in index.json, and is no failure.
    ///
    /// Exit status: 0 written; 2 it could not be written.
    Bundle(Bundle),
}

/// `debug bundle …`
#[derive(Debug, Args)]
pub struct Bundle {
    /// What to write: a .tar.gz, or a new folder [default: flannel-bundle-<node>-<time>.tar.gz, here]
    #[arg(long, value_name = "PATH")]
    pub to: Option<PathBuf>,
    #[command(flatten)]
    pub flags: Flags,
}

/// No piece is longer. Tables are cut: their first lines say what they look like.
const LONGEST: usize = 1 << 20;
/// What is read for a piece: one byte more than fits, so that whoever writes it on notices the cut.
const READ_MOST: u64 = LONGEST as u64 + 1;
/// Pieces that are not begun by then are left out; one takes some seconds at most.
const AT_MOST: Duration = Duration::from_mins(1);

/// What became of a piece.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    bytes: usize,
    ms: u128,
    /// It was longer than a piece may be.
    cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Index<'a> {
    version: &'static str,
    made: Moment,
    pieces: &'a [Entry],
}

impl Bundle {
    /// The networks of a daemon that serves several, each with flags and settings of its own.
    fn parts(
        &self,
        config: Result<&Config, &anyhow::Error>,
    ) -> Option<Vec<(String, Flags, Config)>> {
        let config = config.ok()?;
        let networks = config.networks.as_ref()?;
        let names = networks.known(config).unwrap_or_default();
        let part = |name: String| {
            let part = config.of_network(networks, &name).ok()?;
            let flags = Flags {
                etcd_prefix: part.etcd.prefix.clone(),
                subnet_file: part.subnet_file.display().to_string(),
                ..self.flags.clone()
            };
            Some((name, flags, part))
        };
        Some(names.into_iter().filter_map(part).collect())
    }

    /// `config`: what these flags mean, or why they cannot be used; `shown`: as `config show` prints them.
    pub(super) fn make(
        &self,
        config: Result<&Config, &anyhow::Error>,
        shown: &str,
        out: &mut dyn Write,
    ) -> anyhow::Result<Verdict> {
        let secrets = Secrets::of(&self.flags);
        let path = self.to.clone().unwrap_or_else(default_path);
        let cannot = || format!("cannot write {}", path.display());
        let mut outlet = Outlet::open(&path).with_context(cannot)?;
        let begun = Instant::now();
        let mut index = Vec::new();
        let parts = self.parts(config);
        let mut all = pieces::of_node(config, shown);
        match &parts {
            None => all.extend(pieces::of_network(&self.flags, config)),
            Some(parts) => all.extend(parts.iter().flat_map(|(name, flags, config)| {
                let mut pieces = pieces::of_network(flags, Ok(config));
                for piece in &mut pieces {
                    piece.name = format!("{name}.{}", piece.name);
                }
                pieces
            })),
        }
        for piece in all {
            let (entry, text) = collect(piece, &secrets, begun.elapsed() < AT_MOST);
            if !text.is_empty() {
                outlet
                    .add(&entry.name, text.as_bytes())
                    .with_context(cannot)?;
            }
            index.push(entry);
        }
        let whole = serde_json::to_string_pretty(&Index {
            version: env!("CARGO_PKG_VERSION"),
            made: Moment::now(),
            pieces: &index,
        })?;
        outlet
            .add("index.json", whole.as_bytes())
            .with_context(cannot)?;
        outlet.close().with_context(cannot)?;
        let missing = index.iter().filter(|entry| entry.error.is_some()).count();
        writeln!(
            out,
            "wrote {}: {} pieces, and {missing} that could not be made (index.json says why)",
            path.display(),
            index.len() - missing
        )?;
        writeln!(
            out,
            "passwords and keys are taken out; addresses, routes and firewall rules of this node are in it"
        )?;
        Ok(Verdict::Fine)
    }
}

/// Makes one piece, at most as long as it may be.
fn collect(piece: Piece<'_>, secrets: &Secrets, in_time: bool) -> (Entry, String) {
    let begun = Instant::now();
    let mut buffer = Capped::default();
    let made = match in_time {
        true => (piece.make)(&mut buffer),
        false => Err(anyhow::anyhow!("left out: the others took too long")),
    };
    if buffer.full || made.is_err() {
        whole_lines(&mut buffer.bytes);
    }
    let text = secrets.hide(&String::from_utf8_lossy(&buffer.bytes));
    let error = made.err().filter(|_| !buffer.full);
    let entry = Entry {
        name: piece.name,
        bytes: text.len(),
        ms: begun.elapsed().as_millis(),
        cut: buffer.full,
        error: error.map(|error| secrets.hide(&describe(&error))),
    };
    (entry, text)
}

/// Takes off a last line that is not whole: the first half of a secret is not known as one.
fn whole_lines(bytes: &mut Vec<u8>) {
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    bytes.truncate(end.map_or(0, |end| end + 1));
}

fn default_path() -> PathBuf {
    let name = nix::sys::utsname::uname();
    let node = name
        .as_ref()
        .map_or_else(|_| OsStr::new("node"), |name| name.nodename());
    let seconds = Moment::now().unix().as_secs();
    format!("flannel-bundle-{}-{seconds}.tar.gz", node.display()).into()
}

/// Takes so much and refuses the rest, so that whoever writes a long table stops.
#[derive(Debug, Default)]
struct Capped {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST - self.bytes.len();
        if room == 0 && !bytes.is_empty() {
            self.full = true;
            return Err(io::Error::other("the piece is long enough"));
        }
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.bytes.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn secrets() -> Secrets {
        let command = Flags::augment_args(Command::new("flags").no_binary_name(true));
        let matches = command
            .try_get_matches_from(["--etcd-password=hunter22"])
            .unwrap();
        Secrets::of(&Flags::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn a_long_piece_is_cut_and_its_writer_stops() {
        let mut lines = 0_usize;
        let piece = Piece::new("long.txt", |out| {
            loop {
                writeln!(out, "{:1023}", "hunter22")?;
                lines += 1;
            }
        });
        let (entry, text) = collect(piece, &secrets(), true);
        assert!(entry.cut && entry.error.is_none(), "{entry:?}");
        assert!(text.len() <= LONGEST && !text.contains("hunter22"));
        assert_eq!(lines, LONGEST / 1024);
    }

    #[test]
    fn no_part_of_a_secret_is_left_where_a_piece_is_cut() {
        let filler = "-".repeat(LONGEST - 6);
        let piece = Piece::new("long.txt", |out| Ok(write!(out, "{filler}\nhunter22\n")?));
        let (entry, text) = collect(piece, &secrets(), true);
        assert!(entry.cut);
        assert_eq!(text, format!("{filler}\n"), "and not hunte");

        // A tool that is given up may be in the middle of a line, too.
        let late = Piece::new("late.txt", |out| {
            write!(out, "half\nhunt")?;
            anyhow::bail!("it took too long")
        });
        assert_eq!(collect(late, &secrets(), true).1, "half\n");
        let one_line = Piece::new("one.txt", |out| Ok(write!(out, "{filler}hunter22")?));
        assert_eq!(collect(one_line, &secrets(), true).1, "");
    }

    #[test]
    fn a_piece_that_fails_keeps_what_it_has_and_its_error_has_no_secret() {
        let failing = || {
            Piece::new("half.txt", |out| {
                writeln!(out, "half")?;
                anyhow::bail!("hunter22 refused")
            })
        };
        let (entry, text) = collect(failing(), &secrets(), true);
        assert_eq!(text, "half\n");
        assert_eq!(entry.error.as_deref(), Some("*** refused"));
        let (late, text) = collect(failing(), &secrets(), false);
        assert!(text.is_empty() && late.error.unwrap().contains("left out"));
    }
}
