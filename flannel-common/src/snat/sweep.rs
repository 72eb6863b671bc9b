//! Which entries the agent may remove.

use super::Seen;
use super::entry::{Entry, KIND_PAIR, Key};
use super::seen::lifetime;

/// The key of the other half, for an entry that has one.
pub fn other_half(key: &Key, entry: &Entry) -> Option<Key> {
    (entry.kind == KIND_PAIR).then(|| key.other_half(entry.target()))
}

/// Whether a flow is over at `now` (monotonic nanoseconds). `other` is what the map holds under
/// [`other_half`]; asking for it is only worth while when the entry [is expired](Entry::is_expired) by itself.
pub fn is_over(key: &Key, entry: &Entry, other: Option<&Entry>, now: u64) -> bool {
    let (mut seen, mut last_seen) = (Seen(entry.seen), entry.last_seen);
    if let Some(other) = other.filter(|other| other.pairs_with(key.source_of_half())) {
        seen = seen.and(Seen(other.seen));
        last_seen = last_seen.max(other.last_seen);
    }
    now.saturating_sub(last_seen) > lifetime(key.proto, seen)
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, NANOS, WAY_OUT};
    use super::*;

    const OUT: Key = Key {
        src: [10, 244, 1, 5],
        dst: [198, 51, 100, 9],
        src_port: [1, 2],
        dst_port: [0, 80],
        proto: 6,
        way: WAY_OUT,
        pad: [0; 2],
    };
    const US: Endpoint = Endpoint {
        addr: [192, 168, 0, 1],
        port: [200, 1],
    };

    fn halves(out_at: u64, back_at: u64) -> (Entry, Entry) {
        let out = Entry::new(KIND_PAIR, US, Seen::out(Seen::SYN | Seen::ACK), out_at);
        let back = Entry::new(
            KIND_PAIR,
            OUT.source(),
            Seen::back(Seen::SYN | Seen::ACK),
            back_at,
        );
        (out, back)
    }

    #[test]
    fn both_halves_say_the_same() {
        let (out, back) = halves(0, 50_000 * NANOS);
        let back_key = other_half(&OUT, &out).unwrap();
        assert_eq!(other_half(&back_key, &back), Some(OUT));
        for (seconds, over) in [
            (100, false),
            (90_000, false),
            (136_399, false),
            (136_401, true),
        ] {
            let now = seconds * NANOS;
            assert_eq!(is_over(&OUT, &out, Some(&back), now), over, "{seconds}");
            assert_eq!(
                is_over(&back_key, &back, Some(&out), now),
                over,
                "{seconds}"
            );
        }
    }

    #[test]
    fn anothers_half_does_not_count() {
        let (out, mut back) = halves(0, 1000 * NANOS);
        back.addr = [10, 244, 1, 6];
        assert!(is_over(&OUT, &out, Some(&back), 1000 * NANOS));
        assert!(is_over(&OUT, &out, None, 1000 * NANOS));
    }
}
