//! The engine around one target, which `FLANNEL_FUZZ_TARGET` names; `cargo xtask fuzz` starts it.

#![no_main]

use std::sync::LazyLock;

use flannel_fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FLANNEL_FUZZ_TARGET").unwrap_or_default();
    match Target::named(&name) {
        Some(target) => target,
        None => {
            eprintln!("FLANNEL_FUZZ_TARGET={name:?} is no fuzz target: use cargo xtask fuzz");
            std::process::exit(2)
        }
    }
});

fuzz_target!(|data: &[u8]| (TARGET.check)(data));
