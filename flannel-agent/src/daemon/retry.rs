//! When to try again what failed, and how often to speak of it.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(500);
/// No longer than the timer's full reconcile, which tries anyway.
const LONGEST: Duration = Duration::from_secs(30);
/// An error that stays the same is worth a line this often.
const REMIND: Duration = Duration::from_mins(5);

/// Exponential back-off that never gives up.
#[derive(Debug, Default)]
pub(super) struct Retry {
    delays: Option<ExponentialBackoff>,
    at: Option<Instant>,
    said: Option<(String, Instant)>,
}

impl Retry {
    /// When to try again, if something failed.
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Plans the next attempt.
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        let delays = self.delays.get_or_insert_with(|| {
            ExponentialBuilder::default()
                .with_min_delay(FIRST)
                .with_max_delay(LONGEST)
                .with_jitter()
                .without_max_times()
                .build()
        });
        // Jitter comes on top of the longest delay.
        let delay = delays.next().unwrap_or(LONGEST).min(LONGEST);
        let now = Instant::now();
        self.at = Some(now + delay);
        let text = crate::base::logging::describe(error);
        let repeated = self
            .said
            .as_ref()
            .is_some_and(|(said, at)| *said == text && now - *at < REMIND);
        if repeated {
            tracing::debug!("still: {text}");
        } else {
            tracing::error!("cannot bring the node up to date, trying until it works: {text}");
            self.said = Some((text, now));
        }
    }

    pub(super) fn succeeded(&mut self) {
        if self.said.is_some() {
            tracing::info!("the node is up to date again");
        }
        *self = Self::default();
    }
}
