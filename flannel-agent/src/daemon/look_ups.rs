//! When the ways to the peers are looked up anew.

use std::time::Duration;

use crate::node::net::Changes;

/// As often as that, even if nothing was announced.
const EVERY: Duration = Duration::from_secs(30);

/// Whether next hops have to be looked up anew. `age`: of the last time.
pub(super) fn are_due(announced: Changes, age: Option<Duration>) -> bool {
    announced.concern_next_hops() || age.is_none_or(|age| age >= EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_routes_change_and_from_time_to_time() {
        let recently = Some(Duration::from_secs(1));
        let pods = Changes {
            links: true,
            own_routes: true,
            ..Changes::default()
        };
        assert!(!are_due(pods, recently), "a pod came or went");
        let routes = Changes {
            routes: true,
            ..pods
        };
        assert!(are_due(routes, recently));
        assert!(are_due(Changes::ALL, recently));
        assert!(are_due(pods, Some(EVERY)));
        assert!(are_due(Changes::default(), None), "the first look");
    }
}
