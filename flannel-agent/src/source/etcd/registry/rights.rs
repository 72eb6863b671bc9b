//! What a caller may write, and how much of it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::{Mutex, MutexGuard};

use super::RegistryError;
use crate::source::etcd::store::Entry;

/// So many callers look and write at a time that are bound to a number of subnets.
const AT_ONCE: usize = 64;

/// What a caller may write.
#[derive(Clone, Copy)]
pub struct Rights<'a> {
    /// Whether what names this PublicIP.
    pub may: &'a (dyn Fn(Ipv4Addr) -> bool + Sync),
    /// How many subnets one PublicIP may have; `None`: all.
    pub most: Option<usize>,
}

impl std::fmt::Debug for Rights<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rights")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl Rights<'_> {
    pub(super) fn require(&self, subnet: Ipv4Net, holder: Ipv4Addr) -> Result<(), RegistryError> {
        match (self.may)(holder) {
            true => Ok(()),
            false => Err(RegistryError::Forbidden { subnet, holder }),
        }
    }

    /// Whether `holder` may have one more than these.
    pub(super) fn require_few(
        &self,
        entries: &[Entry],
        holder: Ipv4Addr,
    ) -> Result<(), RegistryError> {
        let held = entries.iter().filter(|entry| entry.names(holder)).count();
        match self.most.is_some_and(|most| held >= most) {
            true => Err(RegistryError::Enough { holder, held }),
            false => Ok(()),
        }
    }
}

/// One after the other for each PublicIP: two who look at the same time would both find room.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<[Mutex<()>; AT_ONCE]>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Mutex::new(()))))
    }
}

impl Turns {
    /// Kept until all is written. Whoever may have everything waits for nobody.
    pub(super) async fn of(
        &self,
        holder: Ipv4Addr,
        rights: Rights<'_>,
    ) -> Option<MutexGuard<'_, ()>> {
        rights.most?;
        let turn = usize::from(holder.octets()[3]) % AT_ONCE;
        Some(self.0[turn].lock().await)
    }
}
