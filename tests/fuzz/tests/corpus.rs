//! Every seed, and thousands of damaged ones, through its target.

use flannel_fuzz::mutate::{Dice, mutated};
use flannel_fuzz::{TARGETS, Target};

/// Per seed.
const MUTATIONS: u64 = 2_000;

#[test]
fn every_target_has_seeds_and_bears_them() {
    for target in TARGETS {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (path, seed) in seeds {
            println!("{}", path.display());
            (target.check)(&seed);
        }
    }
}

#[test]
fn every_target_bears_damaged_seeds() {
    for target in TARGETS {
        for (at, (_, seed)) in target.seeds().into_iter().enumerate() {
            for n in 0..MUTATIONS {
                // A failure names the roll: the same dice give the same bytes again.
                let roll = n << 8 | at as u64;
                let input = mutated(&seed, &mut Dice::new(roll));
                let outcome = std::panic::catch_unwind(|| (target.check)(&input));
                assert!(outcome.is_ok(), "{} roll {roll}: {input:?}", target.name);
            }
        }
    }
}

#[test]
fn names_find_their_targets() {
    for target in TARGETS {
        assert_eq!(
            Target::named(target.name).map(|found| found.name),
            Some(target.name)
        );
    }
    assert!(Target::named("no_such_target").is_none());
}
