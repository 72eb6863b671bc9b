//! Which Rust compiler makes the BPF object.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::llvm::{self, LlvmVersion};
use crate::process;

/// Little-endian BPF: the one object serves amd64 and arm64.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// Debian's compiler; its package `libstd-rust-web-dev-bpf` adds `core` for BPF.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Where the `core` library for BPF comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Core {
    /// Compiled, beside the compiler.
    Prebuilt,
    /// Compiled by us from `rust-src` (`-Z build-std=core`).
    FromSource,
}

/// Who proposed a compiler; also the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Chosen,
    Debian,
    Nightly,
    Active,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chosen => "chosen by --rustc or FLANNEL_BPF_RUSTC",
            Self::Debian => "Debian's",
            Self::Nightly => "rustup's nightly",
            Self::Active => "the active one, unstable features unlocked by RUSTC_BOOTSTRAP",
        })
    }
}

/// What a look at one compiler found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) origin: Origin,
    pub(crate) rustc: PathBuf,
    /// `None`: no such compiler, or it does not run.
    pub(crate) probe: Option<Probe>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) sysroot: PathBuf,
    pub(crate) release: String,
    pub(crate) llvm: LlvmVersion,
    pub(crate) has_bpf_core: bool,
    pub(crate) has_source: bool,
}

/// The compiler to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) origin: Origin,
    pub(crate) rustc: PathBuf,
    pub(crate) sysroot: PathBuf,
    pub(crate) release: String,
    pub(crate) llvm: LlvmVersion,
    pub(crate) core: Core,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            Core::Prebuilt => "prebuilt core",
            Core::FromSource => "core from rust-src",
        };
        let (rustc, release, llvm) = (self.rustc.display(), &self.release, self.llvm);
        write!(
            f,
            "{rustc} {release} (LLVM {llvm}, {core}; {})",
            self.origin
        )
    }
}

/// Looks at every compiler this machine may have, and takes the first that can make BPF.
///
/// # Errors
/// A `chosen` compiler that cannot do it is an error, not a reason to take another. Without any,
/// says what to install.
pub(crate) fn find(chosen: Option<&Path>) -> Result<Toolchain> {
    if let Some(rustc) = chosen {
        return choose(&[look_at(Origin::Chosen, rustc.to_path_buf())]);
    }
    let mut candidates = vec![look_at(Origin::Debian, PathBuf::from(DEBIAN_RUSTC))];
    let nightly =
        process::read(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]));
    candidates.extend(
        nightly
            .ok()
            .map(|rustc| look_at(Origin::Nightly, PathBuf::from(rustc))),
    );
    candidates.push(look_at(Origin::Active, PathBuf::from("rustc")));
    choose(&candidates)
}

fn choose(candidates: &[Candidate]) -> Result<Toolchain> {
    for candidate in candidates {
        let Some(probe) = &candidate.probe else {
            continue;
        };
        let core = if probe.has_bpf_core {
            Core::Prebuilt
        } else if probe.has_source && candidate.origin != Origin::Debian {
            Core::FromSource
        } else {
            continue;
        };
        return Ok(Toolchain {
            origin: candidate.origin,
            rustc: candidate.rustc.clone(),
            sysroot: probe.sysroot.clone(),
            release: probe.release.clone(),
            llvm: probe.llvm,
            core,
        });
    }
    let tried = candidates
        .iter()
        .map(why_not)
        .collect::<Vec<_>>()
        .join("\n  ");
    bail!(
        "no Rust compiler here can build for {BPF_TARGET}:\n  {tried}\n\
         On Debian 12 run `cargo xtask setup`; elsewhere `rustup component add rust-src` \
         (and `rustup toolchain install nightly --component rust-src` for a nightly)"
    )
}

fn why_not(candidate: &Candidate) -> String {
    let rustc = candidate.rustc.display();
    match &candidate.probe {
        None => format!("{rustc}: not there, or does not run"),
        Some(Probe {
            release, sysroot, ..
        }) => format!(
            "{rustc} {release}: neither core for BPF nor rust-src under {}",
            sysroot.join("lib/rustlib").display()
        ),
    }
}

fn look_at(origin: Origin, rustc: PathBuf) -> Candidate {
    let probe = probe(&rustc).ok();
    Candidate {
        origin,
        rustc,
        probe,
    }
}

fn probe(rustc: &Path) -> Result<Probe> {
    let version = process::read(Command::new(rustc).arg("-vV"))?;
    let sysroot = PathBuf::from(process::read(
        Command::new(rustc).args(["--print", "sysroot"]),
    )?);
    let release = version
        .lines()
        .find_map(|line| line.strip_prefix("release: "))
        .with_context(|| format!("{} -vV prints no release", rustc.display()))?;
    let llvm = llvm::of_rustc(&version)
        .with_context(|| format!("{} -vV prints no LLVM version", rustc.display()))?;
    let rustlib = sysroot.join("lib/rustlib");
    Ok(Probe {
        release: release.to_owned(),
        llvm,
        has_bpf_core: rustlib.join(BPF_TARGET).is_dir(),
        has_source: rustlib.join("src/rust/library/core").is_dir(),
        sysroot,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(origin: Origin, has_bpf_core: bool, has_source: bool) -> Candidate {
        Candidate {
            origin,
            rustc: PathBuf::from("/opt/rustc"),
            probe: Some(Probe {
                sysroot: PathBuf::from("/opt"),
                release: "1.96.0".to_owned(),
                llvm: LlvmVersion {
                    major: 22,
                    minor: Some(1),
                },
                has_bpf_core,
                has_source,
            }),
        }
    }

    #[test]
    fn the_first_that_can_is_taken() {
        let all = [
            candidate(Origin::Debian, true, false),
            candidate(Origin::Nightly, false, true),
            candidate(Origin::Active, false, true),
        ];
        let taken = choose(&all).unwrap();
        assert_eq!((taken.origin, taken.core), (Origin::Debian, Core::Prebuilt));
        let taken = choose(&all[1..]).unwrap();
        assert_eq!(
            (taken.origin, taken.core),
            (Origin::Nightly, Core::FromSource)
        );
        let taken = choose(&all[2..]).unwrap();
        assert_eq!(
            (taken.origin, taken.core),
            (Origin::Active, Core::FromSource)
        );
    }

    #[test]
    fn one_without_core_is_passed_over() {
        let all = [
            candidate(Origin::Debian, false, false),
            candidate(Origin::Nightly, false, false),
            candidate(Origin::Active, false, true),
        ];
        assert_eq!(choose(&all).unwrap().origin, Origin::Active);
    }

    #[test]
    fn a_missing_compiler_is_named_in_the_error() {
        let gone = Candidate {
            origin: Origin::Chosen,
            rustc: PathBuf::from("/nowhere/rustc"),
            probe: None,
        };
        let error = choose(&[gone]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/rustc: not there"), "{error}");
        assert!(error.contains("cargo xtask setup"), "{error}");
    }

    #[test]
    fn the_line_shown_names_compiler_and_reason() {
        let taken = choose(&[candidate(Origin::Debian, true, false)]).unwrap();
        assert_eq!(
            taken.to_string(),
            "/opt/rustc 1.96.0 (LLVM 22.1, prebuilt core; Debian's)"
        );
    }
}
