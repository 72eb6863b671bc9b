//! Who imports whom among the modules of a folder, and the circle in it, if there is one.

use std::collections::{BTreeMap, BTreeSet};

/// From → to → where it is said first.
#[derive(Debug, Default)]
pub(super) struct Graph<'a>(BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>);

/// From, to, where.
pub(super) type Step<'a> = (&'a str, &'a str, &'a str);

impl<'a> Graph<'a> {
    pub(super) fn add(&mut self, from: &'a str, to: &'a str, place: &'a str) {
        self.0.entry(from).or_default().entry(to).or_insert(place);
    }

    /// The shortest way from a module back to itself.
    pub(super) fn circle(&self) -> Option<Vec<Step<'a>>> {
        let circles = self.0.keys().filter_map(|start| self.way_back(start));
        circles.min_by_key(Vec::len)
    }

    fn way_back(&self, start: &'a str) -> Option<Vec<Step<'a>>> {
        let mut seen = BTreeSet::new();
        let mut ways: Vec<Vec<Step<'a>>> = vec![Vec::new()];
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                let at = way.last().map_or(start, |(_, to, _)| *to);
                for (to, place) in self.0.get(at).into_iter().flatten() {
                    let mut way = way.clone();
                    way.push((at, *to, *place));
                    if *to == start {
                        return Some(way);
                    }
                    if seen.insert(*to) {
                        longer.push(way);
                    }
                }
            }
            ways = longer;
        }
        None
    }
}
