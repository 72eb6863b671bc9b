//! What the service manager is told (sd_notify(3)). Without one, nothing is said.

use std::time::Duration;

use sd_notify::{NotifyState, notify};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};

/// Who speaks to the service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spokesman {
    /// The only network of this process.
    Network,
    /// Whoever starts several networks: each of them keeps silent.
    Supervisor,
}

/// Readiness, state and signs of life.
#[derive(Debug)]
pub(crate) struct Systemd {
    silent: bool,
    ready: bool,
    status: String,
    /// Half the time after which the manager takes us for dead.
    alive: Option<Interval>,
}

impl Systemd {
    /// Reads what the manager asked for in the environment.
    pub(crate) fn from_env() -> Self {
        let alive = sd_notify::watchdog_enabled().map(|patience| {
            let period = (patience / 2).max(Duration::from_millis(1));
            let mut alive = interval_at(Instant::now() + period, period);
            alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
            alive
        });
        Self {
            silent: false,
            ready: false,
            status: String::new(),
            alive,
        }
    }

    /// What a network has to say.
    pub(super) fn of_network(spokesman: Spokesman) -> Self {
        match spokesman {
            Spokesman::Network => Self::from_env(),
            Spokesman::Supervisor => Self {
                silent: true,
                ready: false,
                status: String::new(),
                alive: None,
            },
        }
    }

    /// The first time: what depends on us may start.
    pub(crate) fn ready(&mut self) {
        if !self.ready {
            self.ready = true;
            self.tell(NotifyState::Ready);
        }
    }

    /// One line for `systemctl status`.
    pub(crate) fn status(&mut self, status: String) {
        if self.status != status {
            self.tell(NotifyState::Status(&status));
            self.status = status;
        }
    }

    /// Whatever the reason for the end.
    pub(crate) fn stopping(&self) {
        self.tell(NotifyState::Stopping);
    }

    /// Waits until the manager wants to hear from us.
    pub(crate) async fn due(&mut self) {
        match &mut self.alive {
            Some(alive) => drop(alive.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Called from the run loop: a loop that hangs falls silent, and is started anew.
    pub(crate) fn alive(&self) {
        self.tell(NotifyState::Watchdog);
    }

    /// Does `work`, of which it is known that it may take as long as `patience`: until then it is no sign of death.
    pub(crate) async fn meanwhile<T>(
        &mut self,
        patience: Duration,
        work: impl Future<Output = T>,
    ) -> T {
        let over = sleep(patience);
        tokio::pin!(work, over);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = &mut over => return work.await,
                () = self.due() => self.alive(),
            }
        }
    }

    fn tell(&self, state: NotifyState<'_>) {
        if self.silent {
            return;
        }
        if let Err(error) = notify(&[state]) {
            tracing::debug!("the service manager does not listen: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One to whom somebody listens every ten seconds.
    fn listened_to() -> Systemd {
        let period = Duration::from_secs(10);
        Systemd {
            silent: true,
            ready: true,
            status: String::new(),
            alive: Some(interval_at(Instant::now() + period, period)),
        }
    }

    async fn next_due(systemd: &mut Systemd, begun: Instant) -> u64 {
        systemd.due().await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_no_sign_of_death_but_what_takes_longer_is() {
        let (begun, long) = (Instant::now(), Duration::from_secs(45));
        let mut systemd = listened_to();
        let work = async {
            sleep(long).await;
            7
        };
        assert_eq!(systemd.meanwhile(2 * long, work).await, 7);
        // Those at 10, 20, 30 and 40 s were not missed.
        assert_eq!(next_due(&mut systemd, begun).await, 50);
        let begun = Instant::now();
        systemd.meanwhile(long, sleep(3 * long)).await;
        assert_eq!(next_due(&mut systemd, begun).await, 135, "at once");
    }
}
