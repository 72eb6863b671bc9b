//! The kernel's network configuration: links, addresses, routes, offloads, sysctls, and their changes.
//!
//! Thin wrappers that speak in our words and our errors. A netlink socket belongs to the network
//! namespace of the thread that opened it, and so does every answer; nothing here reads
//! `/sys/class/net`, which belongs to whoever mounted it.

mod address;
mod batch;
mod blackhole;
mod bound;
mod connection;
pub mod connections;
mod discipline;
mod error;
mod features;
mod filter;
#[cfg(test)]
pub(crate) mod fixtures;
mod ioctl;
pub mod ip_tables;
mod link;
mod lookup;
mod message;
mod metrics;
mod monitor;
mod namespace;
mod neighbour;
mod neighbour_events;
pub mod nftables;
mod qdisc;
mod route;
mod rules;
pub(crate) mod sockopt;
pub mod sysctl;
mod way;
mod ways;
pub mod wireguard;
mod xfrm;
pub mod xtables_lock;

pub use address::Address;
pub use batch::{Leg, Refusals, RouteChange};
pub use discipline::Discipline;
pub use error::{NetError, Outcome};
pub use features::Features;
pub(crate) use filter::PRIORITIES;
pub use filter::{Direction, Filter};
pub(crate) use ioctl::mtu;
pub use link::{KIND_IPIP, Kind, Link, VethPair};
pub use lookup::NextHop;
pub use monitor::{Changes, Monitor};
pub use namespace::namespace;
pub(crate) use neighbour_events::{NeighbourEvents, News};
pub use route::{Leads, PROTOCOL, Path, Route};
pub use way::{Branch, RouteTo, Sender, Towards};
pub use xfrm::{Policies, Policy};

/// Who makes changes of devices and routes has one lock for all, which the end of a namespace keeps for seconds (`rtnl_mutex`).
const LONGEST: std::time::Duration = std::time::Duration::from_secs(30);

/// A connection to the kernel's routing tables. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Netlink {
    connection: std::sync::Arc<connection::Connection>,
    routes: std::sync::Arc<batch::Routes>,
    dumps: std::sync::Arc<tokio::sync::Mutex<()>>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace and serves it from the current
    /// tokio runtime.
    ///
    /// # Errors
    /// [`NetError::Open`] if the kernel gives no socket, or is older than 4.20 and cannot filter dumps.
    pub fn open() -> Result<Self, NetError> {
        let connection = connection::Connection::open()?.into();
        let routes = batch::Routes::open().map_err(NetError::Open)?.into();
        Ok(Self {
            connection,
            routes,
            dumps: std::sync::Arc::default(),
        })
    }

    /// For one request.
    fn handle(&self) -> rtnetlink::Handle {
        self.connection.handle()
    }

    /// The kernel's answer. One that does not come is no reason to wait for ever: whoever dumps has the turn, and the whole agent waits.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, rtnetlink::Error> {
        let answered = tokio::time::timeout(LONGEST, answer).await;
        answered.unwrap_or_else(|_| {
            tracing::error!("the kernel does not answer in {} s", LONGEST.as_secs());
            self.connection.give_up();
            Err(rtnetlink::Error::RequestFailed)
        })
    }

    /// Waits until no other dump is under way, and keeps others waiting until it is dropped: to a socket that has one running
    /// the kernel answers `EBUSY` (`__netlink_dump_start`). A request is sent when it is executed, so take the turn before.
    async fn turn_to_dump(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.dumps.lock().await
    }
}
