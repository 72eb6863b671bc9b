//! What entries of the table are compared with.

use flannel_common::flow::{Setting, Tick, tick};

use crate::base::options::Mode;
use crate::base::{clock, options};
use crate::dataplane::view::{Hook, Told, View};
use crate::inspect::look::asking;
use crate::inspect::routes::told;
use crate::node::net::Netlink;

/// The moment, and by what the programs judge entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) tick: Tick,
    pub(super) epoch: u32,
    pub(super) setting: Setting,
}

/// What is known of the programs that packets meet.
#[derive(Debug, PartialEq)]
enum Programs {
    None,
    Told(Setting),
    /// What it was told cannot be read.
    OfAnotherBuild,
}

impl Now {
    pub(super) fn read(view: &View) -> anyhow::Result<Self> {
        // First, for it says what is missing where there is nothing to see, or no right to look.
        let epoch = view.epoch()?;
        let programs = asking(async || {
            let net = Netlink::open()?;
            let hooks = view.hooks(&net, &net.links().await?).await?;
            Ok(Programs::of(&hooks, told(view, &hooks)?.as_ref()))
        })?;
        if programs == Programs::OfAnotherBuild {
            eprintln!(
                "warning: the programs come from another build, so their settings are not known: entries are \
                 shown as with --fast-path=verified --pod-hook=port"
            );
        }
        Ok(Self {
            tick: tick(clock()),
            epoch,
            setting: programs.setting(),
        })
    }
}

impl Programs {
    fn of(hooks: &[Hook], told: Option<&Told>) -> Self {
        match told {
            Some(told) => Self::Told(told.setting()),
            None if hooks.iter().any(|hook| hook.attached) => Self::OfAnotherBuild,
            None => Self::None,
        }
    }

    const fn setting(&self) -> Setting {
        match self {
            // Nobody acts on an entry.
            Self::None => setting(Mode::Off, options::Hook::Port),
            Self::Told(setting) => *setting,
            Self::OfAnotherBuild => setting(Mode::Verified, options::Hook::Port),
        }
    }
}

pub(super) const fn setting(mode: Mode, hook: options::Hook) -> Setting {
    Setting {
        fast_path: mode.value(),
        pod_hook: hook.value(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::view;
    use crate::node::net::Direction;

    fn hook(attached: bool) -> Hook {
        Hook {
            program: "uplink_rx".to_owned(),
            ifindex: 2,
            device: Some("eth0".to_owned()),
            direction: attached.then_some(Direction::Ingress),
            mode: view::Mode::Tcx,
            program_id: 7,
            attached,
        }
    }

    #[test]
    fn without_an_attached_program_nothing_is_fast() {
        for hooks in [&[][..], &[hook(false)]] {
            let programs = Programs::of(hooks, None);
            assert_eq!(programs, Programs::None);
            assert_eq!(programs.setting().fast_path, Mode::Off.value());
        }
    }

    #[test]
    fn another_build_is_taken_to_have_the_defaults() {
        let programs = Programs::of(&[hook(false), hook(true)], None);
        assert_eq!(programs, Programs::OfAnotherBuild);
        let default = options::FastPath::default();
        assert_eq!(programs.setting(), setting(default.mode, default.hook));
    }
}
