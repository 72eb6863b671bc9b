//! Changes of links, addresses and routes, coalesced.
//!
//! A reader that is busy misses no change and sees no backlog: what happened meanwhile is one set of
//! flags. Messages that the kernel had to throw away (socket buffer full) count as "everything".

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteType;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::AsyncSocket as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::batch;
use super::error::NetError;
use super::route::PROTOCOL;
use super::xfrm;

/// Before the first try to listen again; twice as long before each that follows.
const AGAIN: Duration = Duration::from_secs(1);
/// No longer than the timer's look at everything, which finds what nobody heard. What has lasted for that long was no try.
const LONGEST: Duration = Duration::from_secs(30);

type Announcements = BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// What changed since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    pub links: bool,
    pub addresses: bool,
    /// Routes that are not ours.
    pub routes: bool,
    /// Those of them that lead away from this node, and rules that choose among tables.
    pub ways: bool,
    /// Routes with our mark, changed by us or by somebody.
    pub own_routes: bool,
    /// Policies of IPsec.
    pub policies: bool,
    /// Messages were lost (then all of the above are set too).
    pub lost: bool,
}

impl Changes {
    /// Everything has to be read again.
    pub const ALL: Self = Self {
        links: true,
        addresses: true,
        routes: true,
        ways: true,
        own_routes: true,
        policies: true,
        lost: true,
    };

    #[must_use]
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// Whether the kernel may send packets to peers another way than before, as far as routes and
    /// addresses say. Our own routes lead to pods, not to nodes.
    #[must_use]
    pub fn concern_next_hops(self) -> bool {
        self.routes || self.addresses || self.lost
    }

    /// Whether there may be another address or device to leave by. A device that comes up with its address has a route, too;
    /// those that only pods' ports change have no part in it, and those that only routes change if there are devices which
    /// depend on them (`by_routes`).
    pub(crate) fn may_open_outlets(self, by_routes: bool) -> bool {
        self.addresses || (self.links || by_routes) && self.ways || self.lost
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.links |= other.links;
        self.addresses |= other.addresses;
        self.routes |= other.routes;
        self.ways |= other.ways;
        self.own_routes |= other.own_routes;
        self.policies |= other.policies;
        self.lost |= other.lost;
    }
}

#[derive(Debug, Default)]
struct Shared {
    changes: Mutex<Changes>,
    notify: Notify,
    listens: AtomicBool,
    /// Who makes our own routes: what it does is no news. 0 is the kernel itself.
    passed_over: AtomicU32,
}

impl Shared {
    fn add(&self, changes: Changes) {
        self.changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(changes);
        self.notify.notify_one();
    }

    /// Tells what is heard; never ends. What breaks is opened again.
    async fn listen(
        &self,
        first: Announcements,
        open: impl Fn() -> Result<Announcements, NetError>,
    ) -> Infallible {
        let mut announcements = first;
        let mut pause = AGAIN;
        loop {
            let since = Instant::now();
            while let Some(message) = announcements.next().await {
                let changes = classify(&message);
                let by = message.header.port_number;
                let ours = by != 0 && by == self.passed_over.load(Ordering::Relaxed);
                if changes.any() && !(ours && changes.own_routes) {
                    self.add(changes);
                }
            }
            self.listens.store(false, Ordering::Relaxed);
            if since.elapsed() >= LONGEST {
                pause = AGAIN;
            }
            // One that breaks again and again is said to once: it would be every time that it listens.
            let is_news = pause == AGAIN;
            if is_news {
                tracing::error!(
                    "the netlink monitor broke: changes are found by the timer until it listens again, which is tried ever more seldom"
                );
            }
            announcements = loop {
                sleep(pause).await;
                pause = (2 * pause).min(LONGEST);
                match open() {
                    Ok(again) => break again,
                    Err(error) => tracing::debug!("the netlink monitor: {error}"),
                }
            };
            if is_news {
                tracing::info!("the netlink monitor listens again");
            }
            self.listens.store(true, Ordering::Relaxed);
            // Whatever was announced meanwhile.
            self.add(Changes::ALL);
        }
    }
}

/// A subscription to the kernel's announcements; ends when dropped.
#[derive(Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
    tasks: tokio::task::JoinSet<()>,
}

impl Monitor {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetError::Open`] if the kernel gives no socket.
    pub fn open() -> Result<Self, NetError> {
        let mut monitor = Self::of(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
        ])?;
        if let Some(mut policies) = xfrm::Events::open()? {
            let sink = Arc::clone(&monitor.shared);
            monitor.tasks.spawn(async move {
                loop {
                    policies.next().await;
                    sink.add(Changes {
                        policies: true,
                        ..Changes::default()
                    });
                }
            });
        }
        Ok(monitor)
    }

    /// The same, of links (ports of bridges among them), and what queues and filters at them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_ports() -> Result<Self, NetError> {
        Self::of(&[MulticastGroup::Link, MulticastGroup::Tc])
    }

    fn of(groups: &'static [MulticastGroup]) -> Result<Self, NetError> {
        let first = announcements(groups)?;
        let shared = Arc::new(Shared::default());
        let mut tasks = tokio::task::JoinSet::new();
        let sink = Arc::clone(&shared);
        sink.listens.store(true, Ordering::Relaxed);
        tasks.spawn(async move {
            sink.listen(first, || announcements(groups)).await;
        });
        Ok(Self { shared, tasks })
    }

    /// Changes of our own routes by this netlink port are not told: whoever makes them knows.
    pub fn pass_over(&self, port: u32) {
        self.shared.passed_over.store(port, Ordering::Relaxed);
    }

    /// Whether it listens now.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.shared.listens.load(Ordering::Relaxed)
    }

    /// Waits until something changed, then returns everything that did since the last call.
    pub async fn changed(&self) -> Changes {
        loop {
            self.shared.notify.notified().await;
            let changes = std::mem::take(
                &mut *self
                    .shared
                    .changes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            if changes.any() {
                return changes;
            }
        }
    }
}

/// What one socket hears; it ends when that breaks.
fn announcements(groups: &[MulticastGroup]) -> Result<Announcements, NetError> {
    let (mut connection, handle, messages) =
        rtnetlink::new_multicast_connection(groups).map_err(NetError::Open)?;
    // Without it, thousands of routes made at once would count as "everything changed".
    if let Err(error) = batch::widen(connection.socket_mut().socket_ref()) {
        tracing::debug!("no larger buffer for announcements: {error}");
    }
    // The connection ends with its last handle.
    let held = (AbortOnDropHandle::new(tokio::spawn(connection)), handle);
    let heard = messages.map(move |(message, _)| {
        let _held = &held;
        message
    });
    Ok(heard.boxed())
}

fn classify(message: &NetlinkMessage<RouteNetlinkMessage>) -> Changes {
    let mut changes = Changes::default();
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewQueueDiscipline(_)
            | RouteNetlinkMessage::DelQueueDiscipline(_)
            | RouteNetlinkMessage::NewTrafficFilter(_)
            | RouteNetlinkMessage::DelTrafficFilter(_),
        ) => changes.links = true,
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
        ) => changes.addresses = true,
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => match u8::from(route.header.protocol) {
            PROTOCOL => changes.own_routes = true,
            _ => {
                changes.routes = true;
                // Of the node's own addresses, which proxies keep by the thousand.
                changes.ways = !matches!(
                    route.header.kind,
                    RouteType::Local | RouteType::Broadcast | RouteType::Multicast
                );
            }
        },
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_),
        ) => {
            changes.routes = true;
            changes.ways = true;
        }
        NetlinkPayload::Overrun(_) => {
            crate::base::counters::netlink_overrun();
            changes = Changes::ALL;
        }
        _ => {}
    }
    changes
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    /// What is lost until it listens again is read again.
    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_broke_listens_again() {
        let shared = Arc::new(Shared::default());
        let tries = AtomicU32::new(0);
        let open = || match tries.fetch_add(1, Ordering::Relaxed) {
            0 => Err(NetError::Open(std::io::ErrorKind::OutOfMemory.into())),
            _ => Ok(futures_util::stream::pending().boxed()),
        };
        let listens = shared.listen(futures_util::stream::empty().boxed(), open);
        tokio::select! {
            _ = listens => unreachable!("it never ends"),
            () = shared.notify.notified() => {}
        }
        assert_eq!(*shared.changes.lock().unwrap(), Changes::ALL);
        assert!(shared.listens.load(Ordering::Relaxed));
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }

    /// Each time, everything is looked at.
    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_breaks_each_time_is_opened_ever_more_seldom() {
        let broken = || futures_util::stream::empty().boxed();
        let opened = AtomicU32::new(0);
        let open = || {
            opened.fetch_add(1, Ordering::Relaxed);
            Ok(broken())
        };
        let shared = Shared::default();
        let minutes = Duration::from_mins(10);
        let ended = tokio::time::timeout(minutes, shared.listen(broken(), open)).await;
        assert!(ended.is_err(), "it never ends");
        // 1, 2, 4, 8, 16 and 30 s.
        let times = opened.load(Ordering::Relaxed);
        assert!((20..=25).contains(&times), "{times}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_listened_for_long_is_opened_at_once() {
        let hours = || {
            let end = sleep(Duration::from_hours(1));
            let nothing = futures_util::stream::once(end).filter_map(async |()| None);
            nothing.boxed()
        };
        let begun = Instant::now();
        let opened = Mutex::new(Vec::new());
        let open = || {
            opened.lock().unwrap().push(begun.elapsed().as_secs());
            Ok(hours())
        };
        let shared = Shared::default();
        let day = Duration::from_hours(4);
        let ended = tokio::time::timeout(day, shared.listen(hours(), open)).await;
        assert!(ended.is_err(), "it never ends");
        assert_eq!(*opened.lock().unwrap(), [3601, 7202, 10803]);
    }

    #[test]
    fn an_overrun_means_everything() {
        let overrun = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::Overrun(Vec::new()),
        );
        assert_eq!(classify(&overrun), Changes::ALL);
    }

    #[test]
    fn our_own_routes_say_nothing_about_next_hops() {
        let announced = |protocol: u8| {
            let mut route = RouteMessage::default();
            route.header.protocol = protocol.into();
            let message = RouteNetlinkMessage::NewRoute(route);
            let payload = NetlinkPayload::InnerMessage(message);
            classify(&NetlinkMessage::new(NetlinkHeader::default(), payload))
        };
        let own = announced(PROTOCOL);
        assert!(own.any() && !own.concern_next_hops());
        assert!(announced(3).concern_next_hops());
        assert!(Changes::ALL.concern_next_hops());
        let links = Changes {
            links: true,
            ..Changes::default()
        };
        assert!(!links.concern_next_hops(), "a pod came or went");
    }

    #[test]
    fn pods_and_routes_by_themselves_open_no_outlet() {
        let links = Changes {
            links: true,
            own_routes: true,
            ..Changes::default()
        };
        let routes = Changes {
            routes: true,
            ways: true,
            ..Changes::default()
        };
        assert!(!links.may_open_outlets(false) && !routes.may_open_outlets(false));
        assert!(!links.may_open_outlets(true) && routes.may_open_outlets(true));
        let mut both = links;
        both.add(routes);
        assert!(
            both.may_open_outlets(false),
            "a device came up with its address"
        );
        let address = Changes {
            addresses: true,
            ..Changes::default()
        };
        assert!(address.may_open_outlets(false));
    }

    #[test]
    fn routes_of_our_own_addresses_lead_nowhere() {
        let announced = |kind| {
            let mut route = RouteMessage::default();
            (route.header.kind, route.header.protocol) = (kind, 2.into());
            let message = RouteNetlinkMessage::DelRoute(route);
            let payload = NetlinkPayload::InnerMessage(message);
            classify(&NetlinkMessage::new(NetlinkHeader::default(), payload))
        };
        assert!(announced(RouteType::Unicast).ways);
        assert!(announced(RouteType::BlackHole).ways);
        let service = announced(RouteType::Local);
        assert!(service.routes && !service.ways);
        let rule = RouteNetlinkMessage::NewRule(Default::default());
        let payload = NetlinkPayload::InnerMessage(rule);
        let rule = classify(&NetlinkMessage::new(NetlinkHeader::default(), payload));
        assert!(rule.ways && rule.concern_next_hops());
    }

    #[tokio::test]
    async fn changes_between_two_looks_are_one() {
        let monitor = Monitor {
            shared: Arc::new(Shared::default()),
            tasks: tokio::task::JoinSet::new(),
        };
        let routes = Changes {
            routes: true,
            ..Changes::default()
        };
        let links = Changes {
            links: true,
            ..Changes::default()
        };
        monitor.shared.add(routes);
        monitor.shared.add(links);
        monitor.shared.add(routes);
        let both = Changes {
            links: true,
            ..routes
        };
        assert_eq!(monitor.changed().await, both);
    }
}
