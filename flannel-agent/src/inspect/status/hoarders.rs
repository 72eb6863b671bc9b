//! Pods that have more of the SNAT table than they should: from there floods come.

use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::base::clock;
use crate::dataplane::view::{SnatShare, View, ViewError};

/// So many are named, the greatest first.
const NAMED: usize = 3;

/// What one pod has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::inspect) struct Hoarder {
    /// `None`: several, none of them a pod of this node.
    pod: Option<Ipv4Addr>,
    /// Of connections to it, and not of those it makes.
    came_in: bool,
    /// Flows that do not last yet.
    young: u32,
    places: u32,
    /// Its flows that were ended before they lasted, because there was no place.
    ended: u32,
    /// Flows that last.
    lasting: u32,
}

impl Hoarder {
    pub(super) fn read(view: &View) -> Result<Vec<Self>, ViewError> {
        let mut all: Vec<_> = view.large_snat_shares(clock())?;
        all.sort_by_key(|one| std::cmp::Reverse(one.young.max(one.lasting)));
        all.truncate(NAMED);
        Ok(all.into_iter().map(Self::from).collect())
    }
}

impl From<SnatShare> for Hoarder {
    fn from(share: SnatShare) -> Self {
        Self {
            pod: (share.pod != [0; 4]).then(|| share.pod.into()),
            came_in: share.came_in,
            young: share.young,
            places: share.places,
            ended: share.ended,
            lasting: share.lasting,
        }
    }
}

impl fmt::Display for Hoarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            young,
            places,
            ended,
            lasting,
            ..
        } = self;
        write!(f, "the SNAT table is flooded by ")?;
        match (self.pod, self.came_in) {
            (None, _) => write!(f, "addresses that are no pods of this node")?,
            (Some(pod), true) => write!(f, "those who connect to {pod}")?,
            (Some(pod), false) => write!(f, "{pod}")?,
        }
        write!(
            f,
            ": {young} unanswered flows of {places} that there are places for ({ended} ended early), {lasting} that last"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_a_name() {
        let share = |pod, came_in| {
            Hoarder::from(SnatShare {
                pod,
                came_in,
                young: 900,
                places: 1_024,
                ended: 7,
                lasting: 3,
            })
            .to_string()
        };
        let text = share([10, 244, 1, 66], false);
        assert!(text.contains("flooded by 10.244.1.66: "), "{text}");
        assert!(text.contains("900 unanswered flows of 1024"), "{text}");
        assert!(share([10, 244, 1, 66], true).contains("by those who connect to 10.244.1.66"));
        assert!(share([0; 4], true).contains("by addresses that are no pods"));
    }
}
