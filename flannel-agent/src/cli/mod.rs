//! The command line: flanneld's flags, flanneld's environment, a config file, and what they mean.

mod advice;
mod argv;
mod file;
mod layers;
mod lookers;
mod notices;
mod show;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::base::logging::describe;
use crate::cleanup::Outcome;
use crate::flannel::docker_opts::{self, DockerOpts};
use crate::inspect::{DebugTask, Doctor, Inspect, Plan};
use crate::settings::Config;
use crate::settings::flags::Flags;
use crate::settings::remote::ServerOptions;
use crate::source::etcd::EtcdSource;
use crate::source::kube::KubeSource;
use crate::source::remote::{RemoteSource, ServerTls};
use layers::Origins;
use show::Output;

/// Drop-in for flanneld whose dataplane is eBPF
#[derive(Debug, Parser)]
#[command(
    name = "flannel-agent",
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    after_help = AFTER_HELP
)]
pub struct Cli {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub task: Option<Task>,
}

const AFTER_HELP: &str = "\
Without a command, the agent follows the leases of a flannel network in etcd, or with
--kube-subnet-mgr a cluster's Nodes, and keeps this node's tunnel equal to them until it gets SIGINT or SIGTERM. SIGUSR1 has it log more, SIGUSR2 less.

Settings:
  Each flag can also be given as an environment variable, FLANNELD_ and the flag's name in
  upper case with dashes as underscores (FLANNELD_ETCD_PREFIX), or as a key of the config file
  (etcd-prefix = \"/x\"). The command line wins over the environment, the environment over the
  file; an empty variable is ignored. Flags may start with one dash or two.
  `flannel-agent config show` prints what holds.

Exit status:
  0  done, or ended by a signal; what forwards stays in place
  1  a setting cannot be used, the start is impossible, or the agent cannot go on
  2  the command line, a variable or the config file cannot be read

Examples:
  flannel-agent --etcd-endpoints=http://10.0.0.1:2379 --iface=eth0
  flannel-agent --config=/etc/flannel-ebpf.toml --healthz-port=8081 -v=2
  FLANNELD_ETCD_PREFIX=/second/network flannel-agent config show";

/// What else the binary does.
#[derive(Debug, Subcommand)]
pub enum Task {
    #[command(flatten)]
    Inspect(Inspect),
    /// Look for everything that is known to go wrong, and say what repairs it; takes the agent's flags
    ///
    /// Exit status: 0 all well; 1 something needs attention; 2 something does not work.
    Doctor(Box<Doctor>),
    /// Say what the agent would change on this node and in the datastore, and change nothing; takes the agent's flags
    ///
    /// Exit status: 0 nothing to do; 1 there is something to do; 2 it cannot be told, for example because
    /// etcd does not answer.
    Plan(Box<Plan>),
    /// Look at the settings
    #[command(subcommand)]
    Config(Box<ConfigTask>),
    /// Take everything of a network off this node: hooks, maps, devices, routes; takes the agent's flags
    ///
    /// Exit status: 0 done, or nothing to do; 1 something could not be removed; 2 a dry run that found
    /// something to remove.
    Cleanup(Box<Cleanup>),
    /// Help others to help
    #[command(subcommand)]
    Debug(Box<DebugTask>),
    /// Turn the subnet file into options for Docker's daemon, as flannel's mk-docker-opts.sh does
    MkDockerOpts(DockerOpts),
    /// Print a completion script, for example: flannel-agent completions bash > /etc/bash_completion.d/flannel-agent
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, for example: flannel-agent man > /usr/share/man/man8/flannel-agent.8
    Man,
}

/// `flannel-agent config …`
#[derive(Debug, Subcommand)]
pub enum ConfigTask {
    /// Print every effective value and where it comes from; fails if one cannot be used
    Show(Show),
}

/// `flannel-agent config show`
#[derive(Debug, Args)]
pub struct Show {
    #[arg(short, long, value_name = "FORMAT", default_value = "toml")]
    pub output: Output,
    #[command(flatten)]
    pub flags: Flags,
}

/// `flannel-agent cleanup`
#[derive(Debug, Args)]
pub struct Cleanup {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub flags: Flags,
}

/// A command line that was understood.
#[derive(Debug)]
struct Invocation {
    cli: Cli,
    matches: ArgMatches,
    origins: Origins,
}

/// Runs what the command line of this process asks for. The exit status is described in `--help`.
pub fn main() -> ExitCode {
    let env = std::env::vars_os().filter_map(|(name, value)| {
        // Only our own variables have to be readable as text.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    let env = env.collect();
    let invocation = match read(std::env::args_os(), &env) {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    let Invocation {
        cli,
        matches,
        origins,
    } = &invocation;
    match &cli.task {
        None => run(&cli.flags, origins),
        Some(Task::Inspect(inspect)) => crate::inspect::run(inspect),
        // A setting that cannot be used is one of the things that do not work.
        Some(Task::Doctor(doctor)) => match configure(&doctor.flags, origins) {
            Ok(config) => crate::inspect::examine(doctor, &config),
            Err(error) => refuse(&error, 2),
        },
        Some(Task::Plan(plan)) => match configure(&plan.flags, origins) {
            Ok(config) => crate::inspect::preview(plan, &config),
            Err(error) => refuse(&error, 2),
        },
        Some(Task::Config(task)) => {
            let ConfigTask::Show(show) = &**task;
            show_config(show, matches, origins)
        }
        Some(Task::Cleanup(cleanup)) => {
            let outcome = configure(&cleanup.flags, origins)
                .and_then(|config| crate::cleanup::main(&config, cleanup.dry_run));
            match outcome {
                Ok(Outcome::WouldRemove) => ExitCode::from(2),
                Ok(Outcome::Removed | Outcome::NothingToDo) => ExitCode::SUCCESS,
                Err(error) => refuse(&error, 1),
            }
        }
        Some(Task::Debug(task)) => {
            let DebugTask::Bundle(bundle) = &**task;
            let config = configure(&bundle.flags, origins);
            let shown = show::show(layers::innermost(matches), origins, Output::Toml);
            crate::inspect::debug(task, config.as_ref(), &shown)
        }
        Some(Task::MkDockerOpts(opts)) => match docker_opts::make(opts, &env) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
        Some(Task::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command(), "flannel-agent", &mut script);
            print(&script)
        }
        Some(Task::Man) => {
            let mut page = Vec::new();
            let man = clap_mangen::Man::new(command()).section("8");
            match man.render(&mut page) {
                Ok(()) => print(&page),
                Err(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Says on stderr why it cannot be done.
fn refuse(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("error: {}", describe(error));
    ExitCode::from(status)
}

fn read(
    argv: impl IntoIterator<Item = OsString>,
    env: &BTreeMap<String, String>,
) -> Result<Invocation, clap::Error> {
    let argv = argv
        .into_iter()
        .map(|token| {
            token.into_string().map_err(|token| {
                let problem = format!("argument {} is not UTF-8", token.display());
                command().error(ErrorKind::InvalidUtf8, problem)
            })
        })
        .collect::<Result<_, _>>()?;
    let (matches, origins) = layers::read(argv, env)?;
    let cli = Cli::from_arg_matches(&matches)?;
    Ok(Invocation {
        cli,
        matches,
        origins,
    })
}

/// The definition of all flags and commands.
pub fn command() -> clap::Command {
    // An empty default means "not given"; help that prints it only confuses.
    fn hide_empty_defaults(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| {
                let unset = arg
                    .get_default_values()
                    .iter()
                    .any(|value| value.is_empty());
                arg.hide_default_value(unset)
            })
            .mut_subcommands(hide_empty_defaults)
    }
    hide_empty_defaults(lookers::take_the_agents_flags(Cli::command()))
}

fn run(flags: &Flags, origins: &Origins) -> ExitCode {
    if flags.version {
        eprintln!("flannel-agent v{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    crate::base::heap::be_thrifty();
    crate::base::logging::init(flags.v, flags.log_format);
    let outcome = configure(flags, origins).and_then(|config| {
        for notice in notices::notices(flags, origins) {
            tracing::warn!("{notice}");
        }
        tracing::debug!(?config, "settings");
        match &config.server {
            Some(server) => crate::server::main(&config, server),
            None => crate::daemon::main(&config),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn configure(flags: &Flags, origins: &Origins) -> anyhow::Result<Config> {
    Config::new(flags).map_err(|error| {
        match origins
            .get(error.flag)
            .filter(|origin| origin.is_elsewhere())
        {
            Some(origin) => anyhow::Error::from(error).context(format!("cannot use the {origin}")),
            None => error.into(),
        }
    })
}

fn show_config(show: &Show, matches: &ArgMatches, origins: &Origins) -> ExitCode {
    let text = show::show(layers::innermost(matches), origins, show.output);
    let printed = print(text.as_bytes());
    let usable =
        configure(&show.flags, origins).and_then(|config| match (&config.kube, &config.remote) {
            (Some(kube), _) => Ok(KubeSource::new(kube).map(drop)?),
            (None, Some(remote)) => Ok(RemoteSource::new(remote).map(drop)?),
            (None, None) => {
                if let Some(ServerOptions { tls: Some(tls), .. }) = &config.server {
                    ServerTls::new(tls)?;
                }
                Ok(EtcdSource::new(&config.etcd).map(drop)?)
            }
        });
    match usable {
        Ok(()) => printed,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout; a reader that closes the pipe early is no failure worth a panic.
fn print(bytes: &[u8]) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests;
