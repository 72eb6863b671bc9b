//! The command line: flanneld's flags, flanneld's environment, and what they mean.

mod argv;
pub mod config;
pub mod flags;
mod layers;
mod notices;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

pub use config::Config;
use flags::Flags;
use layers::{Origin, Origins};

/// Drop-in for flanneld whose dataplane is eBPF
#[derive(Debug, Parser)]
#[command(
    name = "flannel-agent",
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true,
    after_help = "\
Each flag can also be given as an environment variable: FLANNELD_ and the flag's name in upper case,
dashes as underscores (FLANNELD_ETCD_PREFIX). The command line wins; an empty variable is ignored.
Flags may start with one dash or two."
)]
pub struct Cli {
    #[command(flatten)]
    pub flags: Flags,
}

/// A command line that was understood.
#[derive(Debug)]
struct Invocation {
    cli: Cli,
    origins: Origins,
}

/// Runs what the command line of this process asks for.
///
/// Exit status: 0 done or ended by a signal, 1 failed, 2 wrong command line.
pub fn main() -> ExitCode {
    let env = std::env::vars_os().filter_map(|(name, value)| {
        // Only our own variables have to be readable as text.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    let invocation = match read(std::env::args_os(), &env.collect()) {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    match run(&invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read(
    argv: impl IntoIterator<Item = OsString>,
    env: &BTreeMap<String, String>,
) -> Result<Invocation, clap::Error> {
    let argv = argv
        .into_iter()
        .map(|token| {
            token.into_string().map_err(|token| {
                clap::Error::raw(
                    clap::error::ErrorKind::InvalidUtf8,
                    format!("argument {} is not UTF-8\n", token.display()),
                )
            })
        })
        .collect::<Result<_, _>>()?;
    let (matches, origins) = layers::read(argv, env)?;
    let cli = Cli::from_arg_matches(&matches)?;
    Ok(Invocation { cli, origins })
}

/// The definition of all flags and subcommands.
fn command() -> clap::Command {
    // An empty default means "not given"; help that prints it only confuses.
    Cli::command().mut_args(|arg| {
        let unset = arg
            .get_default_values()
            .iter()
            .all(|value| value.is_empty());
        arg.hide_default_value(unset)
    })
}

fn run(invocation: &Invocation) -> anyhow::Result<()> {
    let flags = &invocation.cli.flags;
    if flags.version {
        eprintln!("flannel-agent v{}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    crate::logging::init(flags.v, flags.log_format);
    let outcome = Config::new(flags)
        .map_err(|error| match invocation.origins.get(error.flag) {
            Some(origin @ Origin::Environment(_)) => {
                anyhow::Error::from(error).context(format!("cannot use the {origin}"))
            }
            _ => error.into(),
        })
        .map(|config| {
            for notice in notices::notices(flags, &invocation.origins) {
                tracing::warn!("{notice}");
            }
            tracing::debug!(?config, "settings");
        });
    if let Err(error) = &outcome {
        tracing::error!("{error:#}");
    }
    outcome
}

#[cfg(test)]
mod tests;
