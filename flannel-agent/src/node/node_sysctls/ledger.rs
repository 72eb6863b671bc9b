//! Who wants what of which sysctl, and what it was before: pure, from current value to next value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::PortSet;

/// What a network wants of a sysctl.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Exactly this value.
    Value(String),
    /// A list of ports that has these among others.
    Ports(PortSet),
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => f.write_str(value),
            Self::Ports(ports) => write!(f, "what it is and {ports}"),
        }
    }
}

/// Who has reserved which ports ([`RESERVED_PORTS`](super::RESERVED_PORTS)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// For this network.
    pub held: PortSet,
    /// By anybody else.
    pub by_others: PortSet,
    /// Of these, for other networks of ours on this node.
    pub by_networks: PortSet,
}

impl Reserved {
    /// The same with what was known `before` of ports that are reserved still, if nobody says for whom: the file was removed, and each
    /// network enters its ports anew at its next look.
    #[must_use]
    pub fn or_still(self, before: &Self) -> Self {
        let forgotten = self.held.is_empty() && !before.held.is_empty();
        if !forgotten || !before.held.minus(&self.by_others).is_empty() {
            return self;
        }
        let by_networks = before.by_networks.and(&self.by_others);
        Self {
            held: before.held.clone(),
            by_others: self.by_others.minus(&before.held),
            by_networks: self.by_networks.union(&by_networks),
        }
    }
}

/// The file's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// `kernel.random.boot_id`
    boot: String,
    sysctls: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Of a value: what it was. Of ports: those that nobody had reserved.
    before: Wish,
    /// By network.
    users: BTreeMap<String, Wish>,
}

impl Ledger {
    pub(super) fn new(boot: String) -> Self {
        Self {
            boot,
            sysctls: BTreeMap::new(),
        }
    }

    pub(super) fn parse(text: &str, boot: String) -> Result<Self, serde_json::Error> {
        let read: Self = serde_json::from_str(text)?;
        Ok(if read.boot == boot {
            read
        } else {
            Self::new(boot)
        })
    }

    pub(super) fn text(&self) -> String {
        // Strings and maps of strings always serialize.
        let json = serde_json::to_value(self).unwrap_or_default();
        format!("{json:#}\n")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sysctls.is_empty()
    }

    /// The sysctls that `network` has a wish for.
    pub(super) fn entered(&self, network: &str) -> BTreeSet<String> {
        let entered = self.sysctls.iter();
        let entered = entered.filter(|(_, entry)| entry.users.contains_key(network));
        entered.map(|(key, _)| key.clone()).collect()
    }

    /// Makes the wishes of `from` those of `to`, but where that has one: what was done for both is taken back for each. Returns whether
    /// there were any.
    pub(super) fn inherit(&mut self, from: &str, to: &str) -> bool {
        let mut any = false;
        for entry in self.sysctls.values_mut() {
            if entry.users.contains_key(to) {
                continue;
            }
            if let Some(wish) = entry.users.remove(from) {
                entry.users.insert(to.to_owned(), wish);
                any = true;
            }
        }
        any
    }

    /// Whether the wish is entered and true.
    pub(super) fn holds(&self, key: &str, network: &str, wish: &Wish, current: &str) -> bool {
        let entry = self.sysctls.get(key);
        let entered = entry.and_then(|entry| entry.users.get(network));
        entered == Some(wish)
            && match wish {
                Wish::Value(value) => value == current,
                Wish::Ports(ports) => ports.minus(&PortSet::lenient(current)).is_empty(),
            }
    }

    /// Of a value: what it would be without us.
    pub(super) fn without_ours(&self, key: &str, current: &str) -> String {
        let entry = self.sysctls.get(key);
        let set_by_us = |wish: &Wish| matches!(wish, Wish::Value(value) if value == current);
        match entry.map(|entry| (&entry.before, &entry.users)) {
            Some((Wish::Value(before), users)) if users.values().any(set_by_us) => before.clone(),
            _ => current.to_owned(),
        }
    }

    /// What of a list of ports is reserved for whom, as `network` sees it.
    pub(super) fn reserved(&self, key: &str, network: &str, current: &str) -> Reserved {
        let current = PortSet::lenient(current);
        let Some(entry) = self.sysctls.get(key) else {
            return Reserved {
                by_others: current,
                ..Reserved::default()
            };
        };
        let mut reserved = Reserved::default();
        for (user, wish) in &entry.users {
            if let Wish::Ports(ports) = wish {
                let of = match user == network {
                    true => &mut reserved.held,
                    false => &mut reserved.by_networks,
                };
                *of = of.union(ports);
            }
        }
        reserved.by_others = current.minus(&entry.added()).union(&reserved.by_networks);
        reserved
    }

    /// Enters a wish; returns the value that the sysctl has to have.
    pub(super) fn claim(&mut self, key: &str, network: &str, wish: &Wish, current: &str) -> String {
        let entry = self.sysctls.entry(key.to_owned()).or_insert_with(|| Entry {
            before: match wish {
                Wish::Value(_) => Wish::Value(current.to_owned()),
                Wish::Ports(_) => Wish::Ports(PortSet::default()),
            },
            users: BTreeMap::new(),
        });
        // Somebody else set it meanwhile: that is what goes back.
        let set_by_us = |user: &Wish| matches!(user, Wish::Value(value) if value == current);
        if matches!(wish, Wish::Value(_)) && !entry.users.values().any(set_by_us) {
            entry.before = Wish::Value(current.to_owned());
        }
        entry.users.insert(network.to_owned(), wish.clone());
        match wish {
            Wish::Value(value) => value.clone(),
            Wish::Ports(_) => entry.settle_ports(current),
        }
    }

    /// Takes a wish out; returns the value that the sysctl has to have, `None` if there was no wish.
    pub(super) fn release(&mut self, key: &str, network: &str, current: &str) -> Option<String> {
        let entry = self.sysctls.get_mut(key)?;
        let wish = entry.users.remove(network)?;
        let last = entry.users.is_empty();
        let value = match (&wish, &entry.before) {
            (Wish::Value(ours), Wish::Value(before)) if last && ours == current => before.clone(),
            // Still wanted by others, or changed by somebody since.
            (Wish::Value(_), _) => current.to_owned(),
            (Wish::Ports(_), _) => entry.settle_ports(current),
        };
        if last {
            self.sysctls.remove(key);
        }
        Some(value)
    }
}

impl Entry {
    /// Of a list of ports: those that nobody had reserved before us.
    fn added(&self) -> PortSet {
        match &self.before {
            Wish::Ports(added) => added.clone(),
            Wish::Value(_) => PortSet::default(),
        }
    }

    /// The list of ports: without those that we added and nobody wants any more, with those that are wanted.
    fn settle_ports(&mut self, current: &str) -> String {
        let current = PortSet::lenient(current);
        let mut wanted = PortSet::default();
        for wish in self.users.values() {
            if let Wish::Ports(ports) = wish {
                wanted = wanted.union(ports);
            }
        }
        let added = self.added();
        let next = current.minus(&added.minus(&wanted)).union(&wanted);
        let added = added.union(&wanted.minus(&current)).and(&wanted);
        self.before = Wish::Ports(added);
        next.to_string()
    }
}
