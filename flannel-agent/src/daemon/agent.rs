//! After the start: whatever changes – leases, our own subnet, links – ends in one reconcile.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::node::{Change, Done, Node, Wanted};
use super::retry::Retry;
use super::subnet_file::SubnetFile;
use super::systemd::Systemd;
use crate::base::counters;
use crate::daemon::claims::Claim;
use crate::daemon::health::Ready;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use crate::reconcile::ReconcileError;
use crate::reconcile::logbook::Logbook;

/// How often everything is compared with the kernel, even when nothing was announced.
const DRIFT_CHECK: Duration = Duration::from_secs(30);
/// A link that comes up announces itself several times; one look after the last is enough. So it is after the first of what is urgent.
const SETTLE: Duration = Duration::from_millis(100);
/// A look that is overdue by this goes before leases: those may change faster than they can be followed.
const OVERDUE: Duration = Duration::from_secs(1);
/// Pods that come and go announce links all the time. Looking at everything because of that may take
/// this share of the time, no more: with thousands of peers a look is not free.
const LOOK_ONE_PART_IN: u32 = 10;
/// But a change does not wait longer for it, however slow the last look was: programs may have been loaded, on a busy machine.
const REST: Duration = Duration::from_secs(5);

/// A command of the backend `extension` may take a minute.
const LONGEST: Duration = Duration::from_secs(75);

/// What has to be done, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Nothing,
    /// Leases of peers changed.
    Peers,
    /// Compare everything.
    All,
    /// Look for the uplink again, then compare everything.
    Uplink,
}

/// Why there is something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Start,
    OwnLease,
    Leases,
    Kernel,
    Timer,
    Retry,
}

impl Cause {
    const fn words(self) -> &'static str {
        match self {
            Self::Start => "the start",
            Self::OwnLease => "this node's lease changed",
            Self::Leases => "leases of others changed",
            Self::Kernel => "the kernel announced changes",
            Self::Timer => "the look every 30 s",
            Self::Retry => "another try",
        }
    }
}

/// The running agent's state.
#[derive(Debug)]
pub(super) struct Agent<N> {
    pub(super) node: N,
    pub(super) wanted: Wanted,
    pub(super) own: watch::Receiver<OwnLease>,
    pub(super) leases: watch::Receiver<Leases>,
    /// What our lease should say; the keeper of the lease publishes it.
    pub(super) attrs: watch::Sender<LeaseAttrs>,
    /// From where the datastore is talked to, as far as we know.
    pub(super) address: watch::Sender<Ipv4Addr>,
    pub(super) subnet_file: SubnetFile,
    pub(super) ready: Ready,
    pub(super) systemd: Systemd,
    pub(super) logbook: Logbook,
    /// The last time the node could not be brought up to date, be the uplink known or not.
    pub(super) fails: bool,
    /// Held as long as the network is served.
    pub(super) _claim: Option<Claim>,
}

impl<N: Node> Agent<N> {
    /// Follows changes until cancelled. What fails is logged and tried again; it takes nothing down.
    pub(super) async fn follow(&mut self, cancel: &CancellationToken) {
        let mut work = Work::Nothing;
        let mut causes = BTreeSet::new();
        let mut retry = Retry::default();
        let mut settle = None;
        let mut rested = Instant::now();
        let mut calm = rested;
        let mut hurried = false;
        let mut drift = rested + DRIFT_CHECK;
        let mut followed = rested;
        loop {
            let looks = [
                (settle, Work::Uplink, Cause::Kernel),
                (retry.at(), work, Cause::Retry),
                (Some(drift), Work::Uplink, Cause::Timer),
            ];
            let looks = looks.into_iter();
            let looks = looks.filter_map(|(due, work, cause)| Some((due?, work, cause)));
            let next = looks.min_by_key(|(due, _, _)| *due);
            let now = Instant::now();
            let is_overdue = next.is_some_and(|(due, _, _)| due + OVERDUE <= now);
            let rests = followed > now;
            let look = async {
                match next {
                    Some((due, _, _)) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
                next
            };
            let (new, cause) = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.systemd.due() => {
                    self.systemd.alive();
                    continue;
                }
                Ok(()) = self.own.changed() => (self.take_own_lease(), Cause::OwnLease),
                Ok(()) = self.leases.changed(), if !is_overdue && !rests => {
                    (self.take_leases(), Cause::Leases)
                }
                Some((_, work, cause)) = look => {
                    match cause {
                        Cause::Kernel => settle = None,
                        Cause::Timer => drift = Instant::now() + DRIFT_CHECK,
                        _ => {}
                    }
                    (work, cause)
                }
                change = self.node.changed() => {
                    let now = Instant::now();
                    let due = match change {
                        Change::Any => rested.max(now + SETTLE),
                        Change::Urgent => calm.max(now),
                    };
                    hurried |= change == Change::Urgent;
                    settle = Some(settle.map_or(due, |settle: Instant| settle.min(due)));
                    continue;
                }
                () = sleep_until(followed), if rests => continue,
            };
            if new > Work::Nothing {
                causes.insert(cause);
            }
            work = work.max(new);
            let is_to_wait = retry.at().is_some_and(|at| at > Instant::now());
            if cause == Cause::Leases && is_to_wait {
                // What fails costs as much with each lease that changes.
                if self.fails {
                    continue;
                }
                let begun = Instant::now();
                if let Err(error) = self.follow_leases().await {
                    retry.failed(&error);
                }
                followed = Instant::now() + begun.elapsed().min(OVERDUE);
                continue;
            }
            if work == Work::Nothing {
                continue;
            }
            let begun = Instant::now();
            let outcome = self.attempt(work, &causes).await;
            let (now, took) = (Instant::now(), begun.elapsed());
            if work == Work::Peers {
                // Leases take half of the time, no more, or nobody would hear of anything else.
                followed = now + took.min(OVERDUE);
            } else {
                let hurried = std::mem::take(&mut hurried);
                // Urgent looks in a row take half of the time, no more.
                calm = now + if hurried { SETTLE.max(took) } else { SETTLE };
                // What follows something urgent, a route behind an address, waits no longer than without it.
                if !hurried || outcome.is_err() {
                    let share = took * (LOOK_ONE_PART_IN - 1);
                    rested = now + share.min(REST);
                }
            }
            match outcome {
                Ok(()) => {
                    work = Work::Nothing;
                    causes.clear();
                    retry.succeeded();
                }
                Err(error) => {
                    self.systemd.status(format!("{error:#}"));
                    // A failed update of the maps may have done half its work: look at everything.
                    work = work.max(Work::All);
                    retry.failed(&error);
                }
            }
        }
    }

    /// The first reconcile.
    ///
    /// # Errors
    /// The node cannot forward; what it forwarded before, it still does.
    pub(super) async fn bring_up(&mut self) -> anyhow::Result<()> {
        self.note_lease();
        let causes = BTreeSet::from([Cause::Start]);
        self.attempt(Work::All, &causes).await
    }

    /// Does the work, and writes down how it went.
    async fn attempt(&mut self, work: Work, causes: &BTreeSet<Cause>) -> anyhow::Result<()> {
        let begun = Instant::now();
        let outcome = self.perform(work).await;
        counters::reconciled(begun.elapsed(), outcome.is_ok());
        match outcome {
            Ok(done) => {
                let causes = causes.iter().map(|cause| cause.words().to_owned());
                let complaint = self.complaint();
                self.logbook.ignores(&self.node.ignored());
                self.logbook
                    .reconciled(causes.collect(), begun.elapsed(), &done, complaint);
                Ok(())
            }
            Err(error) => {
                self.logbook.failed(crate::base::logging::describe(&error));
                Err(error)
            }
        }
    }

    /// Only the uplink is missing: what forwards by what is known of it still takes new leases. That is no success, of which the looks
    /// at everything tell.
    async fn follow_leases(&mut self) -> anyhow::Result<()> {
        let outcome = self.node.update_peers(&self.wanted).await;
        self.fails = outcome.is_err();
        outcome.map(|done| self.say(&done))
    }

    fn say(&self, done: &Done) {
        if !done.is_empty() {
            tracing::info!(
                actions = done.len(),
                peers = self.wanted.leases.len(),
                "node brought up to date"
            );
        }
    }

    fn note_lease(&mut self) {
        counters::lease_expires(self.wanted.own.expires);
        self.logbook.lease(&self.wanted.own);
    }

    async fn perform(&mut self, work: Work) -> anyhow::Result<Done> {
        // Without an uplink, what we know of it still forwards as soon as it is back.
        let uplink = match work {
            Work::Uplink => self.look_for_uplink().await,
            _ => Ok(()),
        };
        let done = match work {
            Work::Nothing => Ok(Done::new()),
            Work::Peers => self.node.update_peers(&self.wanted).await,
            Work::All | Work::Uplink => {
                // Large: what moves it around has it on the stack.
                let work = Box::pin(self.node.reconcile(&self.wanted));
                self.systemd.meanwhile(LONGEST, work).await
            }
        };
        self.fails = done.is_err();
        let done = match done {
            Err(error) if is_taken_over(&error) => {
                self.stand_back(&error).await;
                return Err(error);
            }
            Err(error) if is_replaced(&error) => {
                self.ready.hinder(error.to_string());
                return Err(error);
            }
            done => done?,
        };
        self.say(&done);
        let mtu = self.node.mtu(&self.wanted);
        self.subnet_file.update(&self.wanted, mtu);
        let unwritten = self.subnet_file.complaint().map(str::to_owned);
        match both(self.node.hindrance(), unwritten) {
            None => self.ready.set(true),
            Some(why) => self.ready.hinder(why),
        }
        // Others wait for it who may be what is missing; flanneld says it without its files, too.
        self.systemd.ready();
        if uplink.is_ok() {
            self.systemd.status(self.status());
        }
        uplink.map(|()| done)
    }

    /// The node is flanneld's. Our lease is, too: it says the MAC of the device that is there, or peers would send to the one
    /// that is gone.
    async fn stand_back(&mut self, why: &anyhow::Error) {
        self.ready.hinder(why.to_string());
        let published = self.attrs.borrow().clone();
        let Wanted {
            network, uplink, ..
        } = &self.wanted;
        match self.node.attrs(network, uplink, Some(&published)).await {
            Ok(attrs) => self.publish(attrs),
            Err(error) => tracing::debug!("the lease stays as it is: {error:#}"),
        }
    }

    fn publish(&self, attrs: LeaseAttrs) {
        self.attrs.send_if_modified(|published| {
            let changed = *published != attrs;
            *published = attrs;
            changed
        });
    }

    /// What an operator has to put right.
    fn complaint(&self) -> Option<String> {
        let unwritten = self.subnet_file.complaint().map(str::to_owned);
        both(self.node.complaint(), unwritten)
    }

    fn status(&self) -> String {
        if let Some(complaint) = self.complaint() {
            return complaint;
        }
        let Wanted {
            own,
            leases,
            uplink,
            ..
        } = &self.wanted;
        let (subnet, peers) = (own.subnet, leases.len());
        format!("{subnet}, {peers} peers over {}", uplink.name)
    }

    fn take_own_lease(&mut self) -> Work {
        let own = self.own.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.wanted.own, own).subnet;
        self.note_lease();
        let now = self.wanted.own.subnet;
        if before == now {
            // A renewal or new attributes; those of the node were decided here.
            return Work::Nothing;
        }
        tracing::warn!(
            "this node's subnet changed from {before} to {now}: \
             pods with addresses of the old one lose their connections, restart them"
        );
        Work::All
    }

    fn take_leases(&mut self) -> Work {
        let leases = self.leases.borrow_and_update().clone();
        if leases == self.wanted.leases {
            return Work::Nothing;
        }
        self.wanted.leases = leases;
        Work::Peers
    }

    /// Publishes a changed uplink in our lease; the subnet stays.
    async fn look_for_uplink(&mut self) -> anyhow::Result<()> {
        let uplink = self.node.uplink().await?;
        if uplink.is_same(&self.wanted.uplink) {
            if uplink != self.wanted.uplink {
                // The cable was pulled or the route went, or is back.
                tracing::info!("the uplink is still {uplink}");
                self.wanted.uplink = uplink;
            }
            return Ok(());
        }
        let published = self.attrs.borrow().clone();
        let attrs = self
            .node
            .attrs(&self.wanted.network, &uplink, Some(&published))
            .await?;
        tracing::warn!("uplink changed from {} to {uplink}", self.wanted.uplink);
        self.address.send_if_modified(|address| {
            std::mem::replace(address, uplink.address) != uplink.address
        });
        self.wanted.uplink = uplink;
        self.publish(attrs);
        Ok(())
    }
}

/// In one sentence.
fn both(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    }
}

fn is_taken_over(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ReconcileError::TakenOver { .. }))
}

fn is_replaced(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ReconcileError::Replaced))
}
