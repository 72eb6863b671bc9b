//! The networks that clients have asked for, each with one watch of etcd.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::Ipv4Net;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::feed::{Feed, Item, SharedFeed};
use super::stock::Stock;
use super::together::Together;
use crate::base::wall::Moment;
use crate::flannel::remote::{attrs_value, gone_value, lease_value};
use crate::source::etcd::registry::{Held, News, Registry, RegistryError};

/// So many requests at a time may have a body that is not small: 8 MiB.
const LARGE_BODIES: usize = 128;

/// A network of which somebody wants to hear.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) registry: Registry,
    pub(super) leases: SharedFeed<Ipv4Net>,
}

/// All below one prefix.
#[derive(Debug)]
pub(super) struct Networks {
    root: Registry,
    /// What is told of any of them.
    pub(super) stock: Arc<Stock>,
    /// A place for each large body of what is said to any of them.
    pub(super) bodies: Arc<Semaphore>,
    followed: Mutex<Followed>,
    asked: Together<Arc<RegistryError>>,
}

#[derive(Debug, Default)]
struct Followed {
    networks: BTreeMap<Option<String>, Arc<Network>>,
    names: Option<SharedFeed<String>>,
    tasks: Vec<AbortHandle>,
}

impl Networks {
    pub(super) fn new(root: Registry) -> Self {
        Self {
            root,
            stock: Arc::default(),
            bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
            followed: Mutex::default(),
            asked: Together::default(),
        }
    }

    /// What is done once, without hearing of changes.
    pub(super) fn registry(&self, name: Option<&str>) -> Registry {
        match name {
            Some(name) => self.root.network(name),
            None => self.root.this(),
        }
    }

    /// The network of that name; from the first time on its leases are followed.
    ///
    /// # Errors
    /// It has no configuration: nothing is kept for names that anybody makes up.
    pub(super) async fn follow(
        &self,
        name: Option<&str>,
    ) -> Result<Arc<Network>, Arc<RegistryError>> {
        let key = name.map(str::to_owned);
        let known = || self.followed().networks.get(&key).map(Arc::clone);
        let ask = async || {
            let registry = self.registry(name);
            registry.config().await?;
            Ok(self.begin(key.clone(), registry))
        };
        self.asked.ask(&key, known, ask).await
    }

    fn begin(&self, key: Option<String>, registry: Registry) -> Arc<Network> {
        let mut followed = self.followed();
        let network = Arc::new(Network {
            registry,
            leases: Arc::new(Feed::new(
                "lease",
                |subnet: &Ipv4Net| gone_value(*subnet).to_string(),
                &self.stock,
            )),
        });
        followed.networks.insert(key, Arc::clone(&network));
        let task = tokio::spawn({
            let network = Arc::clone(&network);
            async move {
                let feed = &network.leases;
                network.registry.follow(|news| tell(feed, news)).await;
            }
        });
        followed.tasks.push(task.abort_handle());
        network
    }

    /// The names of all networks, followed from the first time on.
    pub(super) fn names(&self) -> SharedFeed<String> {
        let mut followed = self.followed();
        if let Some(names) = &followed.names {
            return Arc::clone(names);
        }
        let names = Arc::new(Feed::new("network", |it: &String| name(it), &self.stock));
        followed.names = Some(Arc::clone(&names));
        let task = tokio::spawn({
            let (registry, names) = (self.root.this(), Arc::clone(&names));
            async move {
                registry
                    .follow_networks(|revision, all, anew| {
                        names.replace(revision, items(all), anew);
                    })
                    .await;
            }
        });
        followed.tasks.push(task.abort_handle());
        names
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for task in &self.followed().tasks {
            task.abort();
        }
    }
}

fn items(names: BTreeSet<String>) -> BTreeMap<String, Item> {
    let item = |name: String| {
        let (json, meaning) = (self::name(&name), String::new());
        (name, Item { json, meaning })
    };
    names.into_iter().map(item).collect()
}

fn name(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

fn tell(feed: &Feed<Ipv4Net>, news: News) {
    match news {
        News::All {
            cluster,
            revision,
            leases,
            anew,
        } => {
            feed.is_of(cluster);
            let leases = leases.into_iter();
            let items = leases.map(|(subnet, held)| (subnet, item(subnet, &held)));
            feed.replace(revision, items.collect(), anew);
        }
        News::Some { revision, leases } => {
            let leases = leases.into_iter();
            let items = leases.map(|(subnet, held)| {
                let item = held.map(|held| item(subnet, &held));
                (subnet, item)
            });
            feed.change(revision, items.collect());
        }
    }
}

fn item(subnet: Ipv4Net, held: &Held) -> Item {
    Item {
        json: lease_value(subnet, &held.attrs, held.expires.map(Moment::of)).to_string(),
        meaning: attrs_value(&held.attrs).to_string(),
    }
}
