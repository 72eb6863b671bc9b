//! Waiting for etcd: ever longer, not in step with the other nodes, and without filling the log.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use super::error::EtcdError;
use crate::base::counters;
use crate::source::Cancelled;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(5);
/// The same trouble is logged again after this long.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// One stretch of trouble after the other.
#[derive(Debug)]
pub(in crate::source) struct Patience {
    /// Whom it is about.
    who: &'static str,
    delays: Delays,
    since: Option<Instant>,
    said: Option<(Instant, String)>,
    /// What `status` is told of.
    noted: Option<String>,
}

#[derive(Debug)]
enum Delays {
    Fixed(Duration),
    Growing(ExponentialBackoff),
}

impl Patience {
    /// From 100 ms up to 5 s, doubling, each with up to as much again by chance.
    pub(super) fn growing() -> Self {
        Self::growing_with("etcd")
    }

    /// The same with `who`.
    pub(in crate::source) fn growing_with(who: &'static str) -> Self {
        Self::new(who, Delays::Growing(backoff()))
    }

    pub(super) fn every(delay: Duration) -> Self {
        Self::every_with("etcd", delay)
    }

    pub(in crate::source) fn every_with(who: &'static str, delay: Duration) -> Self {
        Self::new(who, Delays::Fixed(delay))
    }

    fn new(who: &'static str, delays: Delays) -> Self {
        Self {
            who,
            delays,
            since: None,
            said: None,
            noted: None,
        }
    }

    /// It failed: says so, unless it lately said the same, and gives the wait before the next try.
    pub(in crate::source) fn lost(
        &mut self,
        what: &str,
        error: &dyn Display,
    ) -> impl Future<Output = ()> + Send + use<> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let text = format!("{error:#}");
        let silence = counters::Silence {
            since,
            error: text.clone(),
        };
        counters::datastore_is_silent(what, silence);
        self.noted = Some(what.to_owned());
        let news = self
            .said
            .as_ref()
            .is_none_or(|(when, said)| *said != text || when.elapsed() >= SAY_AGAIN);
        if news {
            tracing::warn!("{what}: {text}");
            self.said = Some((Instant::now(), text));
        }
        let delay = match &mut self.delays {
            Delays::Fixed(delay) => *delay,
            Delays::Growing(delays) => delays.next().unwrap_or(LAST_DELAY),
        };
        tokio::time::sleep(delay)
    }

    /// It works; the next trouble starts with short waits again.
    pub(in crate::source) fn over(&mut self) {
        self.forget();
        if let Some(since) = self.since.take() {
            let (who, lost) = (self.who, since.elapsed().as_secs());
            tracing::info!("{who} is usable again after {lost} s");
            self.said = None;
            if let Delays::Growing(delays) = &mut self.delays {
                *delays = backoff();
            }
        }
    }
}

impl Patience {
    fn forget(&mut self) {
        if let Some(what) = self.noted.take() {
            counters::datastore_answers(&what);
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.forget();
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LAST_DELAY)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Repeats `attempt` until it succeeds, as long as etcd just does not answer, or has no room for an answer: that is put right there,
/// and ends by itself here.
pub(super) async fn patiently<T, F>(
    what: &str,
    cancel: &CancellationToken,
    attempt: impl Fn() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, EtcdError>>,
{
    let mut patience = Patience::growing();
    loop {
        match cancel
            .run_until_cancelled(attempt())
            .await
            .ok_or(Cancelled)?
        {
            Ok(value) => {
                patience.over();
                return Ok(value);
            }
            Err(error) if error.is_worth_waiting() => {
                let wait = patience.lost(what, &error);
                cancel.run_until_cancelled(wait).await.ok_or(Cancelled)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All clients of a server that was restarted are cut at the same time.
    #[tokio::test(start_paused = true)]
    async fn a_thousand_do_not_come_back_at_once() {
        let mut all: Vec<Patience> = (0..1000).map(|_| Patience::growing()).collect();
        let mut longest = Duration::ZERO;
        for round in 0..8 {
            let mut waits = Vec::new();
            for patience in &mut all {
                let before = tokio::time::Instant::now();
                patience.lost("asking", &"nobody answers").await;
                waits.push(before.elapsed());
            }
            waits.sort();
            let (first, last) = (waits[0], waits[waits.len() - 1]);
            // Spread over as much again as the shortest: a tenth of that time has a tenth of them, or twice that by chance.
            assert!(last > first.mul_f64(1.5), "{round}: {first:?} to {last:?}");
            for tenth in 0..10 {
                let part = |n: u32| first + (last - first) * n / 10;
                let (from, to) = (part(tenth), part(tenth + 1));
                let here = waits.iter().filter(|wait| (from..to).contains(*wait));
                let here = here.count();
                assert!(here < 200, "{round}: {here} from {from:?} to {to:?}");
            }
            longest = last;
        }
        assert!(
            longest > LAST_DELAY && longest <= 2 * LAST_DELAY,
            "{longest:?}"
        );
    }
}
