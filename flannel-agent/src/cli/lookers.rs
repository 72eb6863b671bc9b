//! Commands that only look at the node take the agent's flags, too: whoever debugs a unit file pastes its command line.

use clap::{Args as _, Command};

use crate::settings::flags::Flags;

/// Read by [`crate::inspect::Look`], and by nobody else without the rest of the agent's flags.
const MARK: &str = "network";

/// Adds to each such command the flags of the agent that it does not have, out of sight: they change nothing there, but
/// for the few that the command reads itself.
pub(super) fn take_the_agents_flags(command: Command) -> Command {
    let agents = Flags::augment_args(Command::new("flags"));
    command.mut_subcommands(|command| {
        let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
        if !has(MARK) {
            return command;
        }
        let missing: Vec<_> = agents
            .get_arguments()
            .filter(|arg| arg.get_id() != "version" && !has(arg.get_id().as_str()))
            .map(|arg| arg.clone().hide(true))
            .collect();
        command.args(missing)
    })
}
