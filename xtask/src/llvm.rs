//! LLVM versions of compiler and linker. bpf-linker reads bitcode the compiler wrote, and LLVM reads
//! only bitcode of its own or an older version.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// As far as the makers of a tool tell it: Debian's libLLVM carries major and minor in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LlvmVersion {
    pub(crate) major: u32,
    pub(crate) minor: Option<u32>,
}

impl fmt::Display for LlvmVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}.{minor}", self.major),
            None => write!(f, "{}", self.major),
        }
    }
}

/// Reads the line `LLVM version: 22.1.8` of `rustc -vV`.
pub(crate) fn of_rustc(verbose_version: &str) -> Option<LlvmVersion> {
    let version = verbose_version
        .lines()
        .find_map(|line| line.trim().strip_prefix("LLVM version: "))?;
    parse(version)
}

/// Reads the version line of an LLVM tool, such as `  Debian LLVM version 22.1.8`.
pub(crate) fn of_llvm_tool(version_text: &str) -> Option<LlvmVersion> {
    let (_, version) = version_text.split_once("LLVM version ")?;
    parse(version)
}

/// Finds the libLLVM that `linker` is linked to, by the name in its dynamic section. `None` for a
/// statically linked one: bpf-linker has no option that prints it.
pub(crate) fn of_linker(linker: &Path) -> Result<Option<LlvmVersion>> {
    let bytes =
        fs::read(linker).with_context(|| format!("cannot read linker {}", linker.display()))?;
    Ok(of_linked_library(&bytes))
}

fn of_linked_library(elf: &[u8]) -> Option<LlvmVersion> {
    // Both spellings are in use: libLLVM.so.22.1 (since LLVM 18) and libLLVM-17.so.
    ["libLLVM.so.", "libLLVM-"].iter().find_map(|prefix| {
        elf.windows(prefix.len())
            .enumerate()
            .find_map(|(at, window)| {
                if window != prefix.as_bytes() {
                    return None;
                }
                let rest = elf.get(at + prefix.len()..)?;
                let end = rest
                    .iter()
                    .position(|b| !(b.is_ascii_digit() || *b == b'.'))?;
                parse(std::str::from_utf8(rest.get(..end)?).ok()?)
            })
    })
}

fn parse(text: &str) -> Option<LlvmVersion> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next().and_then(|part| part.parse().ok());
    Some(LlvmVersion { major, minor })
}

/// Refuses a linker that cannot read what the compiler writes.
///
/// # Errors
/// Names both versions and how to get a linker that fits.
pub(crate) fn check_match(compiler: LlvmVersion, linker: LlvmVersion) -> Result<()> {
    if compiler.major != linker.major {
        bail!(
            "rustc uses LLVM {compiler}, bpf-linker uses LLVM {linker}: the majors must be equal. \
             Build bpf-linker for LLVM {major}: cargo install --locked --force bpf-linker \
             --no-default-features --features llvm-{major} (with LLVM_PREFIX=/usr/lib/llvm-{major}), \
             or choose another compiler with --rustc",
            major = compiler.major
        );
    }
    if let (Some(writes), Some(reads)) = (compiler.minor, linker.minor)
        && writes > reads
    {
        bail!(
            "rustc uses LLVM {compiler}, bpf-linker the older LLVM {linker}, which cannot read its \
             bitcode. Update the libLLVM that bpf-linker is linked to"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32) -> LlvmVersion {
        LlvmVersion {
            major,
            minor: Some(minor),
        }
    }

    #[test]
    fn reads_the_version_of_rustc() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64\nLLVM version: 22.1.8\n";
        assert_eq!(of_rustc(text), Some(version(22, 1)));
        assert_eq!(of_rustc("rustc 1.96.0"), None);
    }

    #[test]
    fn reads_the_version_of_an_llvm_tool() {
        let text = "llvm-strip, compatible with GNU strip\nDebian LLVM version 22.1.8\n";
        assert_eq!(of_llvm_tool(text), Some(version(22, 1)));
    }

    #[test]
    fn finds_the_library_a_linker_needs() {
        assert_eq!(
            of_linked_library(b"\0\0libLLVM.so.22.1\0libc.so.6\0"),
            Some(version(22, 1))
        );
        let old = LlvmVersion {
            major: 17,
            minor: None,
        };
        assert_eq!(of_linked_library(b"\0libLLVM-17.so.1\0"), Some(old));
        assert_eq!(of_linked_library(b"libc.so.6\0"), None);
    }

    #[test]
    fn equal_majors_and_a_newer_linker_pass() {
        assert!(check_match(version(22, 1), version(22, 1)).is_ok());
        assert!(check_match(version(22, 1), version(22, 2)).is_ok());
    }

    #[test]
    fn another_major_is_refused_with_the_way_out() {
        let error = check_match(version(22, 1), version(23, 1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("LLVM 22.1") && error.contains("llvm-22"),
            "{error}"
        );
    }

    #[test]
    fn an_older_linker_is_refused() {
        assert!(check_match(version(22, 2), version(22, 1)).is_err());
    }
}
