//! Puts the compiled BPF programs where the agent embeds them from.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let object = Path::new(&manifest).join("../target/bpf/flannel-ebpf");
    println!("cargo::rerun-if-changed={}", object.display());
    let embedded = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("flannel-ebpf");
    match fs::copy(&object, embedded) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!(
                "cargo::error=the BPF programs are not built ({}: {error}): \
                 run `cargo xtask build-ebpf` first",
                object.display()
            );
            ExitCode::FAILURE
        }
    }
}
