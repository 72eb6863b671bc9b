//! Small damages to a seed, the same in every run: what a test can try without an engine.

/// Marsaglia's xorshift64: repeatable, and random enough to pick a byte.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that always fall the same way for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or_default() % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.below(256).to_le_bytes()[0]
    }
}

/// `seed` with one to four of its bytes changed, doubled, lost or new.
pub fn mutated(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(out.len());
        match dice.below(6) {
            _ if out.is_empty() => out.push(dice.byte()),
            0 => out[at] = dice.byte(),
            1 => out[at] ^= 1 << dice.below(8),
            2 => out.truncate(at),
            3 => out.insert(at, dice.byte()),
            4 => drop(out.remove(at)),
            _ => {
                let piece = out[at..].to_vec();
                out.extend(piece);
            }
        }
    }
    out
}
