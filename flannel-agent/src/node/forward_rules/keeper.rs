//! Keeps the rules while the agent runs: dockerd, ufw and people change the firewall at any time.

use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{CHAIN, TABLE, dropping, ensure};
use crate::base::counters;
use crate::node::iptables::Kind;
use crate::node::net::nftables::{self, Family, Touched};
use crate::node::net::xtables_lock::LockWatch;

/// A change comes as several messages; one look after the last of them is enough.
const SETTLE: Duration = Duration::from_millis(10);

/// How long the first look may hold up others. What it finds does as well a little later.
const FIRST: Duration = Duration::from_secs(5);

const UNKNOWN: &str =
    "whether the firewall drops what is forwarded is not known yet: iptables has not answered";

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Packets are not lost.
    Passes,
    /// Why they are lost.
    Hindrance(String),
}

/// Looks after the rules until it is dropped.
#[derive(Debug)]
pub struct Keeper {
    found: watch::Receiver<Found>,
    _task: AbortOnDropHandle<()>,
}

impl Keeper {
    /// Adds what is missing before it returns, unless iptables takes its time. From then on it looks when there are news, and `every`
    /// so often.
    pub async fn start(network: Ipv4Net, every: Duration) -> Self {
        // Before the first look, or a change right after it would go unnoticed.
        let news = News::listen();
        let (sender, mut found) = watch::channel(Found::Nothing);
        let guard = Guard {
            network,
            found: sender,
            settled: None,
            looked: false,
        };
        let task = tokio::spawn(guard.run(news, every));
        let first = found.wait_for(|found| *found != Found::Nothing);
        if timeout(FIRST, first).await.is_err() {
            tracing::info!("{UNKNOWN}");
        }
        Self {
            found,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Why packets are lost at the firewall, if they are.
    #[must_use]
    pub fn hindrance(&self) -> Option<String> {
        match &*self.found.borrow() {
            Found::Nothing => Some(UNKNOWN.to_owned()),
            Found::Passes => None,
            Found::Hindrance(why) => Some(why.clone()),
        }
    }

    /// Waits until that is another reason, or none.
    pub async fn changed(&mut self) {
        if self.found.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug)]
struct Guard {
    network: Ipv4Net,
    found: watch::Sender<Found>,
    /// nftables' generation with which all was well.
    settled: Option<u32>,
    looked: bool,
}

impl Guard {
    async fn run(mut self, mut news: News, every: Duration) {
        self.look().await;
        let mut due = interval_at(Instant::now() + every, every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = due.tick() => news.listen_again(),
                () = news.come() => sleep(SETTLE).await,
            }
            self.look().await;
            news.were_ours();
        }
    }

    async fn look(&mut self) {
        let generation = nftables::generation().ok().flatten();
        let kinds = dropping();
        // The older kind has no number that says whether anything changed.
        let only_nft = matches!(kinds.as_deref(), Ok([] | [Kind::Nft]));
        if only_nft && generation.is_some() && self.settled == generation {
            return;
        }
        self.settled = None;
        let now = match ensure(self.network).await {
            Ok(added) => {
                if added {
                    self.tell_added();
                } else {
                    self.settled = generation;
                }
                Found::Passes
            }
            Err(error) => Found::Hindrance(crate::base::logging::describe(&error.into())),
        };
        self.looked = true;
        self.found.send_if_modified(|known| {
            let news = *known != now;
            if news {
                match (&now, &known) {
                    (Found::Hindrance(why), _) => tracing::error!("{why}"),
                    (_, Found::Hindrance(_)) => {
                        tracing::info!("the firewall lets {} pass again", self.network);
                    }
                    _ => {}
                }
                *known = now;
            }
            news
        });
    }

    fn tell_added(&self) {
        let network = self.network;
        tracing::info!("iptables drops what is forwarded: rules added that accept {network}");
        if self.looked {
            counters::drift_repaired("add_forward_rules");
        }
    }
}

/// Who tells that something may have changed.
#[derive(Debug)]
struct News {
    nftables: Option<nftables::Watch>,
    /// Of calls of the older kind of iptables.
    calls: Option<LockWatch>,
}

impl News {
    fn listen() -> Self {
        let nftables = nftables::Watch::open().inspect_err(|error| tracing::info!("{error}"));
        Self {
            nftables: nftables.ok(),
            calls: LockWatch::open().ok(),
        }
    }

    /// The lock is made with the first call.
    fn listen_again(&mut self) {
        if self.calls.is_none() {
            self.calls = LockWatch::open().ok();
        }
    }

    async fn come(&mut self) {
        let nftables = async {
            match &self.nftables {
                Some(watch) => watch.changed(concerns).await,
                None => std::future::pending().await,
            }
        };
        let calls = async {
            match &self.calls {
                Some(watch) => watch.called().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = nftables => if let Err(error) = heard {
                tracing::warn!("cannot listen to nftables any more: {error}");
                self.nftables = None;
            },
            heard = calls => if heard.is_err() {
                self.listen_to_the_next_lock();
            },
        }
    }

    /// Our own calls take the lock, too. A change that others made meanwhile waits for the next look.
    fn were_ours(&mut self) {
        if self
            .calls
            .as_ref()
            .is_some_and(|calls| calls.forget().is_err())
        {
            self.listen_to_the_next_lock();
        }
    }

    /// If it is made already; else [`Self::listen_again`] finds it.
    fn listen_to_the_next_lock(&mut self) {
        self.calls = LockWatch::open().ok();
    }
}

/// kube-proxy rewrites its own chains all the time.
fn concerns(touched: &Touched) -> bool {
    [None, Some("FORWARD"), Some(CHAIN)]
        .into_iter()
        .any(|chain| touched.is(Family::Ipv4, TABLE, chain))
}
