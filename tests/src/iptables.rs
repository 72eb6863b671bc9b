//! The two kinds of iptables that are met on real nodes. They do not see each other's rules, and the
//! packets pass both.

use crate::host::{Host, batch};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iptables {
    Nft,
    Legacy,
}

impl Iptables {
    /// Adds rules in `iptables-restore` syntax to what `host` has.
    #[track_caller]
    pub fn restore(self, host: &(impl Host + ?Sized), lines: &[String]) {
        let program = match self {
            Self::Nft => "iptables-nft-restore",
            Self::Legacy => "iptables-legacy-restore",
        };
        batch(&mut host.command(&format!("{program} --noflush -w")), lines);
    }
}
