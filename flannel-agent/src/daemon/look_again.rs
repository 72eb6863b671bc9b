//! When next hops have to be looked up again.

use std::time::Duration;

use crate::net::Changes;

/// As often as that, even if nothing was announced.
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);

/// Whether next hops have to be looked up anew. `age`: of the last time.
pub(super) fn look_up_again(announced: Changes, age: Option<Duration>) -> bool {
    announced.concern_next_hops() || age.is_none_or(|age| age >= LOOK_UP_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_looked_up_when_routes_change_and_from_time_to_time() {
        let recently = Some(Duration::from_secs(1));
        let pods = Changes {
            links: true,
            own_routes: true,
            ..Changes::default()
        };
        assert!(!look_up_again(pods, recently), "a pod came or went");
        let routes = Changes {
            routes: true,
            ..pods
        };
        assert!(look_up_again(routes, recently));
        assert!(look_up_again(Changes::ALL, recently));
        assert!(look_up_again(pods, Some(LOOK_UP_EVERY)));
        assert!(look_up_again(Changes::default(), None), "the first look");
    }
}
