//! The wall clock, for people: what a moment is called today.
//!
//! It is set by hand, by NTP and by hypervisors, forwards and backwards. So everything that is decided rests on
//! `CLOCK_MONOTONIC` ([`Instant`] here, `bpf_ktime_get_ns` in the programs), and a [`Moment`] can be shown and
//! nothing else: it has no order. clippy.toml forbids `SystemTime::now` everywhere else.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

/// A date and time of day to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(SystemTime);

impl Moment {
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place; what comes out of it cannot be compared"
    )]
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    /// What `instant`, past or future, is called by the wall clock as it goes now.
    #[must_use]
    pub fn of(instant: Instant) -> Self {
        Self::now().shifted(Instant::now(), instant)
    }

    fn shifted(self, now: Instant, instant: Instant) -> Self {
        match instant.checked_duration_since(now) {
            Some(ahead) => Self(self.0 + ahead),
            None => self.before(now.saturating_duration_since(instant)),
        }
    }

    /// So long after 1970 began.
    #[must_use]
    pub fn at(unix: Duration) -> Self {
        Self(SystemTime::UNIX_EPOCH + unix)
    }

    /// Reads what [`Moment`] prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        httpdate::parse_http_date(text).ok().map(Self)
    }

    /// Earlier by so much.
    #[must_use]
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// Since 1970.
    #[must_use]
    pub fn unix(self) -> Duration {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default()
    }

    /// How far another clock's time is from this one, either way.
    #[must_use]
    pub fn apart(self, other: SystemTime) -> Duration {
        let apart = self.0.duration_since(other);
        apart.unwrap_or_else(|error| error.duration())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        httpdate::HttpDate::from(self.0).fmt(f)
    }
}

/// Seconds since 1970.
impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.unix().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(seconds: u64) -> Moment {
        Moment(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// The clock was set between two looks: the same instant has another name, and is as far away as before.
    #[test]
    fn a_step_of_the_wall_clock_renames_moments_and_moves_none() {
        let now = Instant::now();
        let end = now + HOUR;
        for wall in [at(1_000_000), at(4_600_000), at(10)] {
            let shown = wall.shifted(now, end);
            assert_eq!(shown.unix() - wall.unix(), HOUR);
            assert_eq!(end - now, HOUR, "what is waited for");
        }
    }

    #[test]
    fn what_was_before_1970_is_shown_as_1970() {
        assert_eq!(at(5).before(HOUR).unix(), Duration::ZERO);
        assert_eq!(at(7200).before(HOUR), at(3600));
        assert_eq!(at(0).to_string(), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
