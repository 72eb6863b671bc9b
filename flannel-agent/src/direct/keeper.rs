//! Keeps the kernel's routes equal to what is wanted.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::{Change, Direct, plan};
use crate::net::{NetError, Netlink, Outcome};

/// Remembers what was said, so that the same is not said again.
#[derive(Debug, Default)]
pub struct Keeper {
    said: BTreeSet<String>,
    ignored: BTreeMap<Ipv4Net, String>,
    /// What was wanted when the routes were last made so.
    settled: Option<Direct>,
}

impl Keeper {
    /// Looks at the kernel's routes and repairs what differs. Returns the changes in words. A route
    /// that the kernel refuses (its gateway is not on the link, say) is logged, and tried again with the
    /// next call.
    ///
    /// # Errors
    /// If the kernel does not list its routes.
    pub async fn reconcile(
        &mut self,
        net: &Netlink,
        wanted: &Direct,
    ) -> Result<Vec<String>, NetError> {
        self.name_ignored(wanted);
        let mut said = BTreeSet::new();
        let mut done = Vec::new();
        let routes = net.routes().await?;
        let settled = self.settled.take();
        for change in plan(wanted, &routes) {
            match apply(net, &change).await {
                Ok(()) => {
                    if settled
                        .as_ref()
                        .is_some_and(|before| is_repair(before, &change))
                    {
                        crate::metrics::drift_repaired(change.name());
                        tracing::info!(drift = true, "{change}");
                    } else {
                        tracing::info!("{change}");
                    }
                    done.push(change.to_string());
                }
                Err(problem) => {
                    let text = format!("cannot {change}{problem}");
                    if !self.said.contains(&text) {
                        tracing::warn!("{text}");
                    }
                    said.insert(text);
                }
            }
        }
        self.settled = said.is_empty().then(|| wanted.clone());
        self.said = said;
        Ok(done)
    }

    fn name_ignored(&mut self, wanted: &Direct) {
        for (subnet, why) in &wanted.ignored {
            if self.ignored.get(subnet) != Some(why) {
                tracing::warn!("the lease of {subnet} is ignored: {why}");
            }
        }
        self.ignored.clone_from(&wanted.ignored);
    }
}

/// Whether it puts right what somebody else undid: it was wanted already when the routes were last made so.
pub(super) fn is_repair(settled: &Direct, change: &Change) -> bool {
    match change {
        Change::Set {
            destination, hop, ..
        } => settled.routes.get(destination) == Some(hop),
        Change::Remove { destination, .. } => !settled.routes.contains_key(destination),
        Change::Leave { .. } => false,
    }
}

async fn apply(net: &Netlink, change: &Change) -> Result<(), String> {
    let outcome = match change {
        Change::Set {
            destination,
            hop,
            replace,
        } => {
            net.add_route_via(*destination, hop.via, hop.index, *replace)
                .await
        }
        Change::Remove { destination, hop } => {
            net.remove_route_via(*destination, hop.via, hop.index).await
        }
        Change::Leave { .. } => return Err(String::new()),
    };
    match outcome {
        // Somebody was faster: the next look sees what it is.
        Ok(Outcome::Exists) => Err(": another route came first".to_owned()),
        Ok(Outcome::Done | Outcome::Missing) => Ok(()),
        Err(error) => Err(format!(": {error}")),
    }
}
