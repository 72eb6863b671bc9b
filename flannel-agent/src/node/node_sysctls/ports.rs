//! Sets of port numbers as the kernel writes them: `8080,49152-65535`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A set of ports; one bit each.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortSet(Box<[u64]>);

/// A text that is no list of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a list of ports such as 8080,49152-65535")]
pub struct NotPorts(String);

const WORDS: usize = 65_536 / 64;

impl Default for PortSet {
    fn default() -> Self {
        Self(vec![0; WORDS].into())
    }
}

impl From<RangeInclusive<u16>> for PortSet {
    fn from(range: RangeInclusive<u16>) -> Self {
        let mut set = Self::default();
        set.insert(range);
        set
    }
}

impl PortSet {
    /// What of a text is a list of ports: the kernel prints nothing else.
    pub(super) fn lenient(text: &str) -> Self {
        text.parse().unwrap_or_default()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many ports are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a | b)
    }

    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a & !b)
    }

    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.merge(other, |a, b| a & b)
    }

    fn merge(&self, other: &Self, op: impl Fn(u64, u64) -> u64) -> Self {
        let words = self.0.iter().zip(&other.0);
        Self(words.map(|(a, b)| op(*a, *b)).collect())
    }

    fn insert(&mut self, range: RangeInclusive<u16>) {
        for port in range {
            if let Some(word) = self.0.get_mut(usize::from(port / 64)) {
                *word |= 1 << (port % 64);
            }
        }
    }

    fn has(&self, port: u16) -> bool {
        let word = self.0.get(usize::from(port / 64));
        word.is_some_and(|word| word & (1 << (port % 64)) != 0)
    }

    /// Ascending, none touching the next.
    fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        let words = (0..=u16::MAX).step_by(64).zip(&self.0);
        let ports = words
            .filter(|(_, word)| **word != 0)
            .flat_map(|(first, _)| (0..64).map(move |bit| first + bit));
        for port in ports.filter(|port| self.has(*port)) {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
                _ => ranges.push((port, port)),
            }
        }
        ranges
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges();
        let words = ranges.iter().map(|(low, high)| match low == high {
            true => low.to_string(),
            false => format!("{low}-{high}"),
        });
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

impl FromStr for PortSet {
    type Err = NotPorts;

    fn from_str(text: &str) -> Result<Self, NotPorts> {
        let bad = || NotPorts(text.to_owned());
        let mut set = Self::default();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let low: u16 = low.trim().parse().map_err(|_| bad())?;
            let high: u16 = high.trim().parse().map_err(|_| bad())?;
            if low > high {
                return Err(bad());
            }
            set.insert(low..=high);
        }
        Ok(set)
    }
}

impl TryFrom<String> for PortSet {
    type Error = NotPorts;

    fn try_from(text: String) -> Result<Self, NotPorts> {
        text.parse()
    }
}

impl From<PortSet> for String {
    fn from(set: PortSet) -> Self {
        set.to_string()
    }
}
