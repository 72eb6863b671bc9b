//! Debian's cloud kernels: found by version, unpacked, and their modules packed for a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::archive;
use crate::process;

/// The package whose versions are the kernels there are.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Modules of a guest that has no hardware: below `kernel/`.
const MODULES: &[&str] = &[
    "net",
    "crypto",
    "lib",
    "arch",
    "drivers/virtio",
    "drivers/block",
    "drivers/net",
];
/// Drivers of cards, which are most of the bytes.
const NO_MODULES: &[&str] = &["drivers/net/ethernet"];

/// A kernel that can be booted.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As on the command line.
    pub(super) name: String,
    pub(super) image: PathBuf,
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// From the cache, else from Debian. `name` is `6.1`, `6.12`, …, or `newest`.
    pub(super) fn get(name: &str, cache: &Path) -> Result<Self> {
        let folder = cache.join(format!("linux-{name}"));
        let kernel = Self {
            name: name.to_owned(),
            image: folder.join("vmlinuz"),
            modules: folder.join("modules.cpio"),
        };
        if !kernel.image.is_file() || !kernel.modules.is_file() {
            println!("kernel {name}: fetching it from Debian");
            kernel.fetch(cache)?;
        }
        Ok(kernel)
    }

    fn fetch(&self, cache: &Path) -> Result<()> {
        let (apt, version) = find(&self.name, cache)?;
        println!("kernel {}: Debian's {version}", self.name);
        let tree = tempfile::tempdir_in(cache).context("a folder for a kernel's packages")?;
        let tree = tree.path();
        let packages = packages(&version, |package| apt.depends(package, &version))?;
        for package in apt.exactly(&packages)? {
            archive::unpack(&package, tree, archive::UNREAD)?;
        }
        apt.forget_downloads()?;
        let release = Release::of(tree)?;
        let image = release.image(tree)?;
        let packed = tempfile::tempdir_in(cache).context("a folder for a kernel's modules")?;
        release.thin_out(packed.path())?;
        let parent = self.image.parent().unwrap_or(cache);
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        archive::pack(packed.path(), &self.modules)?;
        fs::copy(&image, &self.image).with_context(|| format!("copy {}", image.display()))?;
        Ok(())
    }
}

/// The machine's own releases first: their lists are small, and usually enough.
fn find(name: &str, cache: &Path) -> Result<(Apt, String)> {
    if name != "newest" {
        let own = Apt::own(cache)?;
        if let Some(version) = choose(name, &own.versions(PACKAGE)?) {
            return Ok((own, version));
        }
    }
    let others = Apt::others(cache)?;
    let versions = others.versions(PACKAGE)?;
    let Some(version) = choose(name, &versions) else {
        bail!(
            "no release of Debian within reach has kernel {name}: they have {}",
            versions.join(", ")
        )
    };
    Ok((others, version))
}

/// The highest of a series; `versions` are sorted downwards.
fn choose(name: &str, versions: &[String]) -> Option<String> {
    let fits = |version: &&String| {
        name == "newest"
            || version
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['.', '-', '~']))
    };
    versions.iter().find(fits).cloned()
}

/// The packages with the image and the modules: one, or, since 7.3, several that depend on one another.
fn packages(version: &str, depends: impl Fn(&str) -> Result<String>) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    let mut next = vec![PACKAGE.to_owned()];
    while let Some(package) = next.pop() {
        for name in parts(&depends(&package)?, version) {
            if !found.contains(&name) {
                next.push(name.clone());
                found.push(name);
            }
        }
    }
    if found.is_empty() {
        bail!("{PACKAGE} {version} depends on no kernel of its version");
    }
    Ok(found
        .iter()
        .map(|package| format!("{package}={version}"))
        .collect())
}

/// Those of a `Depends:` line that are of exactly this version.
fn parts(depends: &str, version: &str) -> Vec<String> {
    let exactly = format!("(= {version})");
    depends
        .split(',')
        .filter_map(|one| one.trim().strip_suffix(&exactly))
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("linux-"))
        .collect()
}

/// `lib/modules/<release>` of unpacked packages.
#[derive(Debug)]
struct Release {
    name: String,
    folder: PathBuf,
}

impl Release {
    fn of(tree: &Path) -> Result<Self> {
        for modules in ["usr/lib/modules", "lib/modules"] {
            let Ok(mut entries) = fs::read_dir(tree.join(modules)) else {
                continue;
            };
            if let Some(Ok(entry)) = entries.next() {
                return Ok(Self {
                    name: entry.file_name().to_string_lossy().into_owned(),
                    folder: entry.path(),
                });
            }
        }
        bail!("the kernel's packages have no folder lib/modules")
    }

    fn image(&self, tree: &Path) -> Result<PathBuf> {
        let places = [
            tree.join(format!("boot/vmlinuz-{}", self.name)),
            self.folder.join("vmlinuz"),
        ];
        places
            .into_iter()
            .find(|place| place.is_file())
            .with_context(|| format!("the packages of kernel {} have no vmlinuz", self.name))
    }

    /// The modules a guest may ask for, with the index that `modprobe` reads.
    fn thin_out(&self, root: &Path) -> Result<()> {
        let folder = root.join("usr/lib/modules").join(&self.name);
        let (from, to) = (self.folder.join("kernel"), folder.join("kernel"));
        for part in MODULES {
            let target = to.join(part);
            let parent = target.parent().unwrap_or(&to);
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
            if from.join(part).is_dir() {
                process::run(
                    Command::new("cp")
                        .arg("-a")
                        .args([&from.join(part), &target]),
                )?;
            }
        }
        for part in NO_MODULES {
            let _ = fs::remove_dir_all(to.join(part));
        }
        for index in [
            "modules.builtin",
            "modules.builtin.modinfo",
            "modules.order",
        ] {
            let _ = fs::copy(self.folder.join(index), folder.join(index));
        }
        // depmod looks below `lib`, which is a link to `usr/lib` in the guest.
        let link = root.join("lib");
        std::os::unix::fs::symlink("usr/lib", &link).context("link lib to usr/lib")?;
        process::run(
            Command::new("/usr/sbin/depmod")
                .arg("-b")
                .arg(root)
                .arg(&self.name),
        )?;
        fs::remove_file(&link).context("remove a link")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions() -> Vec<String> {
        [
            "7.3.4-1~bpo13+1",
            "6.12.117-1",
            "6.12.95-1~bpo12+1",
            "6.1.192-2",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn a_series_is_not_the_beginning_of_another() {
        let choose = |name| choose(name, &versions());
        assert_eq!(choose("6.1").as_deref(), Some("6.1.192-2"));
        assert_eq!(choose("6.12").as_deref(), Some("6.12.117-1"));
        assert_eq!(choose("newest").as_deref(), Some("7.3.4-1~bpo13+1"));
        assert_eq!(choose("5.15"), None);
    }

    #[test]
    fn a_kernel_may_be_one_package_or_several() {
        let old = packages("6.1.192-2", |package| {
            Ok(match package {
                PACKAGE => "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)",
                _ => "kmod, linux-base (>= 4.3~), initramfs-tools | linux-initramfs-tool",
            }
            .to_owned())
        });
        assert_eq!(old.unwrap(), ["linux-image-6.1.0-56-cloud-amd64=6.1.192-2"]);
        let new = packages("7.3", |package| {
            Ok(match package {
                PACKAGE => "linux-base-c (= 7.3), linux-image-7.3 (= 7.3)",
                "linux-image-7.3" => "dracut | initramfs-tools, linux-binary-7.3 (= 7.3)",
                "linux-binary-7.3" => "linux-base-7.3 (= 7.3)",
                _ => "",
            }
            .to_owned())
        });
        assert_eq!(
            new.unwrap(),
            [
                "linux-base-c=7.3",
                "linux-image-7.3=7.3",
                "linux-binary-7.3=7.3",
                "linux-base-7.3=7.3"
            ]
        );
    }
}
