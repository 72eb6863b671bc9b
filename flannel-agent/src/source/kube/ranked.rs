//! A map for few: what is claimed is mostly claimed by one, and thousands of trees would each take room for eleven.

use std::sync::Arc;

/// When the claim came (0: with the first list), then age and name of the Node: less is older.
pub(super) type Rank = Arc<(u64, String, String)>;

/// By rank, the oldest first.
#[derive(Debug)]
pub(super) struct Ranked<T>(Vec<(Rank, T)>);

impl<T> Default for Ranked<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Ranked<T> {
    fn place(&self, rank: &Rank) -> Result<usize, usize> {
        self.0.binary_search_by(|(held, _)| held.cmp(rank))
    }

    pub(super) fn insert(&mut self, rank: Rank, value: T) {
        match self.place(&rank) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (rank, value));
            }
        }
    }

    pub(super) fn remove(&mut self, rank: &Rank) {
        if let Ok(at) = self.place(rank) {
            self.0.remove(at);
        }
    }

    pub(super) fn get(&self, rank: &Rank) -> Option<&T> {
        Some(&self.0[self.place(rank).ok()?].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Rank, &T)> {
        self.0.iter().map(|(rank, value)| (rank, value))
    }

    pub(super) fn first(&self) -> Option<&Rank> {
        self.0.first().map(|(rank, _)| rank)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(turn: u64) -> Rank {
        Arc::new((turn, String::new(), String::new()))
    }

    #[test]
    fn the_oldest_is_first_whenever_it_came() {
        let mut ranked = Ranked::default();
        for turn in [5, 2, 9, 2] {
            ranked.insert(rank(turn), turn);
        }
        let all: Vec<u64> = ranked.iter().map(|(_, turn)| *turn).collect();
        assert_eq!(all, [2, 5, 9]);
        assert_eq!(ranked.first(), Some(&rank(2)));
        ranked.insert(rank(5), 50);
        assert_eq!(ranked.get(&rank(5)), Some(&50));
        ranked.remove(&rank(2));
        ranked.remove(&rank(2));
        assert_eq!(ranked.first(), Some(&rank(5)));
        for turn in [5, 9] {
            ranked.remove(&rank(turn));
        }
        assert!(ranked.is_empty() && ranked.get(&rank(5)).is_none());
    }
}
