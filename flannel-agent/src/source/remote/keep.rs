//! Keeping this node's lease: renewed before its end, written again when it is gone or says something else.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Seen;
use super::api::Api;
use super::error::RemoteError;
use crate::flannel::lease::{self, LeaseAttrs, OwnLease};
use crate::source::etcd::patience::Patience;
use crate::source::etcd::told::until;

/// Between tries when the server refuses, and the least time between two corrections of what somebody else writes.
const RETRY: Duration = Duration::from_secs(60);

/// Keeps the lease in `own` equal to what we want it to be.
pub(super) struct Keeper<'a> {
    api: &'a Api,
    renew_margin: Duration,
    own: &'a watch::Sender<OwnLease>,
    attrs: watch::Receiver<LeaseAttrs>,
    seen: watch::Receiver<Seen>,
    /// What was heard last of our lease has had its answer.
    considered: bool,
    /// The next write overwrites what somebody else has written.
    corrects: bool,
    /// When we last did.
    corrected: Option<Instant>,
    /// Whatever end we are told, the lease is not renewed before.
    rests_until: Option<Instant>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        api: &'a Api,
        renew_margin: Duration,
        own: &'a watch::Sender<OwnLease>,
        attrs: watch::Receiver<LeaseAttrs>,
        seen: watch::Receiver<Seen>,
    ) -> Self {
        Self {
            api,
            renew_margin: lease::usable_margin(renew_margin),
            own,
            attrs,
            seen,
            considered: false,
            corrects: false,
            corrected: None,
            rests_until: None,
        }
    }

    /// Never returns; drop it to end it.
    pub(super) async fn run(mut self) {
        let mut patience = Patience::growing_with("the server");
        loop {
            self.wait().await;
            while let Err(error) = self.write().await {
                let wait = patience.lost("keeping our lease", &error);
                match error {
                    RemoteError::Unreachable { .. } => wait.await,
                    // It is there and says no: that takes an operator, not haste.
                    _ => tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.9..1.1))).await,
                }
            }
            patience.over();
        }
    }

    /// Waits until the lease has to be written.
    async fn wait(&mut self) {
        loop {
            // An Instant before the machine's start does not exist.
            let before = |end: Instant| end.checked_sub(self.renew_margin);
            let mut at = self.own.borrow().expires;
            at = at.map(|end| before(end).unwrap_or_else(Instant::now));
            at = at.map(|at| self.rests_until.map_or(at, |rest| at.max(rest)));
            if *self.attrs.borrow() != self.own.borrow().attrs {
                return;
            }
            if !self.considered {
                let seen = self.seen.borrow_and_update().clone();
                if seen == Seen::Missing {
                    tracing::warn!(
                        "our lease was deleted or has expired: taking the same subnet again"
                    );
                    return;
                }
                if self.is_wrong(&seen) {
                    let next = self.corrected.map(|last| last + RETRY);
                    let Some(next) = next.filter(|next| *next > Instant::now()) else {
                        tracing::warn!("somebody else wrote our lease: correcting it");
                        self.corrects = true;
                        return;
                    };
                    at = Some(at.map_or(next, |at| at.min(next)));
                }
            }
            tokio::select! {
                Ok(()) = self.attrs.changed() => {}
                Ok(()) = self.seen.changed() => self.considered = false,
                () = until(at) => return,
            }
        }
    }

    /// Whether somebody has written another thing to our lease.
    fn is_wrong(&self, seen: &Seen) -> bool {
        match seen {
            Seen::Held(attrs) => **attrs != self.own.borrow().attrs,
            Seen::Unreadable => true,
            Seen::Missing | Seen::Nothing => false,
        }
    }

    async fn write(&mut self) -> Result<(), RemoteError> {
        // What was heard up to here is older than what is written.
        self.seen.borrow_and_update();
        self.considered = true;
        let wanted = self.attrs.borrow_and_update().clone();
        let (subnet, published) = {
            let own = self.own.borrow();
            (own.subnet, own.attrs.public_ip)
        };
        let was: Option<Ipv4Addr> = (published != wanted.public_ip).then_some(published);
        let written = match self.api.renew(subnet, &wanted, was).await {
            Err(error) if error.is_conflict() => {
                tracing::error!(
                    "{error}: taking a different subnet; running pods must be recreated"
                );
                self.api.acquire(&wanted, None).await?
            }
            written => written?,
        };
        self.rests_until = Some(Instant::now() + lease::SHORTEST_RENEWAL);
        if std::mem::take(&mut self.corrects) {
            self.corrected = Some(Instant::now());
        }
        self.own.send_if_modified(|own| {
            let modified = *own != written;
            *own = written;
            modified
        });
        Ok(())
    }
}
