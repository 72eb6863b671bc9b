//! The file for those who only look: what a start without the datastore would make of it.

use std::path::Path;

use ipnet::Ipv4Net;

use super::file::{self, Standing};
use crate::base::wall::Moment;
use crate::flannel::config::NetworkConfig;
use crate::source::place::Place;

/// What a file says.
#[derive(Debug, Clone)]
pub struct Memory {
    pub written: Moment,
    pub config: NetworkConfig,
    pub subnet: Ipv4Net,
    pub peers: usize,
    pub standing: Standing,
}

/// `None` without a file.
///
/// # Errors
/// The agent would leave it out, and why.
pub fn look(file: &Path, here: &Place) -> anyhow::Result<Option<Memory>> {
    let snapshot = file::read(file)?;
    Ok(snapshot.map(|snapshot| Memory {
        written: snapshot.moment(),
        standing: snapshot.standing(here),
        subnet: snapshot.own.subnet,
        peers: snapshot.leases.len(),
        config: snapshot.config,
    }))
}

impl Memory {
    /// What a start does if the datastore does not answer.
    #[must_use]
    pub fn start(&self) -> String {
        let Self {
            written,
            subnet,
            peers,
            ..
        } = self;
        match self.standing {
            Standing::Holds => format!(
                "a start would go by it: the subnet {subnet} and {peers} peers, as of {written}"
            ),
            Standing::Ended => format!(
                "the lease of {subnet} in it, as of {written}, has ended: a start would wait"
            ),
            Standing::Old => format!(
                "the datastore has not confirmed it since {written}, for more than a day, and {subnet} may be another node's: a \
                 start would wait"
            ),
            Standing::Elsewhere(what) => format!("it is {what}: a start would wait"),
            Standing::Unknown => {
                format!(
                    "it was written later than now, at {written}, and the lease of {subnet} in it may have ended: a start would wait"
                )
            }
        }
    }
}
