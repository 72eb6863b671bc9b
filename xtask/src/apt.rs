//! Debian packages by name, with lists and downloads of our own: the machine's apt learns nothing of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// Debian releases that may have a kernel which the machine's own does not.
const OTHERS: &[&str] = &["bullseye", "trixie", "trixie-backports", "sid"];
/// Those with updates of their own, on the security mirror.
const OTHERS_SECURITY: &[&str] = &["bullseye-security", "trixie-security"];

/// A place that packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    mirror: String,
    suite: String,
}

/// One private set of package lists.
#[derive(Debug)]
pub(crate) struct Apt {
    config: PathBuf,
    downloads: PathBuf,
}

impl Apt {
    /// The releases that the machine itself installs from.
    pub(crate) fn own(folder: &Path) -> Result<Self> {
        Self::open(&folder.join("apt-own"), &own_sources()?)
    }

    /// Releases before and after it, at the same mirror.
    pub(crate) fn others(folder: &Path) -> Result<Self> {
        Self::open(&folder.join("apt-others"), &others(&own_sources()?))
    }

    fn open(folder: &Path, sources: &[Source]) -> Result<Self> {
        let lists = folder.join("state/lists/partial");
        let downloads = folder.join("cache/archives");
        for path in [lists, downloads.join("partial")] {
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let status = folder.join("state/status");
        let (list, config) = (folder.join("sources.list"), folder.join("apt.conf"));
        write(&status, "")?;
        let lines: String = sources.iter().map(Source::line).collect();
        write(&list, &lines)?;
        let path = |path: &Path| path.display().to_string();
        let settings = [
            ("Dir::State", path(&folder.join("state"))),
            // Nothing is installed, as far as this apt knows: it fetches all that is depended on.
            ("Dir::State::status", path(&status)),
            ("Dir::Cache", path(&folder.join("cache"))),
            ("Dir::Etc::sourcelist", path(&list)),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::Etc::preferences", "/dev/null".to_owned()),
            ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            (
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                "false".to_owned(),
            ),
            // The user _apt may not write below our folders.
            ("APT::Sandbox::User", "root".to_owned()),
            ("APT::Install-Recommends", "false".to_owned()),
        ];
        let settings: String = settings
            .iter()
            .map(|(name, value)| format!("{name} \"{value}\";\n"))
            .collect();
        write(&config, &settings)?;
        let apt = Self { config, downloads };
        process::read(apt.command("apt-get").args(["--quiet", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }

    /// `packages` and everything they depend on, as files.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        process::read(
            self.command("apt-get")
                .args(["--quiet", "--yes", "--download-only", "install"])
                .args(packages),
        )?;
        self.downloaded()
    }

    /// `packages` (`name=version`) and nothing else.
    pub(crate) fn exactly(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        process::read(
            self.command("apt-get")
                .current_dir(&self.downloads)
                .args(["--quiet", "download"])
                .args(packages),
        )?;
        self.downloaded()
    }

    fn downloaded(&self) -> Result<Vec<PathBuf>> {
        let mut files: Vec<_> = fs::read_dir(&self.downloads)
            .with_context(|| format!("read {}", self.downloads.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ext| ext == "deb"))
            .collect();
        files.sort();
        Ok(files)
    }

    /// What has been downloaded is used up.
    pub(crate) fn forget_downloads(&self) -> Result<()> {
        self.downloaded()?
            .iter()
            .try_for_each(|file| fs::remove_file(file).context("remove a package"))
    }

    /// Every version of `package`, the highest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let printed = process::read(self.command("apt-cache").args(["madison", package]))?;
        Ok(parse_madison(&printed))
    }

    /// What `package` of this version depends on, as apt writes it.
    pub(crate) fn depends(&self, package: &str, version: &str) -> Result<String> {
        let printed = process::read(
            self.command("apt-cache")
                .args(["show", &format!("{package}={version}")]),
        )?;
        let line = |line: &str| Some(line.strip_prefix("Depends: ")?.to_owned());
        Ok(printed.lines().find_map(line).unwrap_or_default())
    }
}

impl Source {
    fn line(&self) -> String {
        format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {} main\n",
            self.mirror, self.suite
        )
    }
}

/// Debian's releases among the machine's sources, whatever else it installs from.
fn own_sources() -> Result<Vec<Source>> {
    let printed = process::read(Command::new("apt-get").args(["update", "--print-uris"]))?;
    let os_release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release has no VERSION_CODENAME")?;
    let sources = parse_uris(&printed, codename);
    anyhow::ensure!(
        !sources.is_empty(),
        "apt knows no mirror of Debian's {codename}: `apt-get update --print-uris` names none"
    );
    Ok(sources)
}

fn parse_uris(printed: &str, codename: &str) -> Vec<Source> {
    let release = |line: &str| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        let (mirror, suite) = uri.strip_suffix("/InRelease")?.split_once("/dists/")?;
        let ours = suite == codename || suite.strip_prefix(codename)?.starts_with('-');
        ours.then(|| Source {
            mirror: mirror.to_owned(),
            suite: suite.to_owned(),
        })
    };
    printed.lines().filter_map(release).collect()
}

/// The other releases, at the mirrors of our own.
fn others(own: &[Source]) -> Vec<Source> {
    let at = |security: bool, suites: &[&str]| -> Vec<Source> {
        let mirror = own
            .iter()
            .find(|source| source.suite.ends_with("-security") == security);
        let source = |suite: &&str| {
            Some(Source {
                mirror: mirror?.mirror.clone(),
                suite: (*suite).to_owned(),
            })
        };
        suites.iter().filter_map(source).collect()
    };
    [at(false, OTHERS), at(true, OTHERS_SECURITY)].concat()
}

fn parse_madison(printed: &str) -> Vec<String> {
    printed
        .lines()
        .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
        .collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(mirror: &str, suite: &str) -> Source {
        Source {
            mirror: mirror.to_owned(),
            suite: suite.to_owned(),
        }
    }

    #[test]
    fn only_debians_own_releases_are_used() {
        let printed = "\
'http://mirror/debian/dists/bookworm/InRelease' mirror_debian_dists_bookworm_InRelease 0 \n\
'http://mirror/debian/dists/bookworm/main/binary-amd64/Packages.xz' x 0 \n\
'http://secure/debian-security/dists/bookworm-security/InRelease' y 0 \n\
'http://else/dists/nodistro/InRelease' z 0 \n";
        let own = parse_uris(printed, "bookworm");
        assert_eq!(
            own,
            [
                source("http://mirror/debian", "bookworm"),
                source("http://secure/debian-security", "bookworm-security"),
            ]
        );
        let others = others(&own);
        assert!(others.contains(&source("http://mirror/debian", "trixie")));
        assert!(others.contains(&source(
            "http://secure/debian-security",
            "bullseye-security"
        )));
    }

    #[test]
    fn without_a_security_mirror_there_are_no_such_releases() {
        let others = others(&[source("http://mirror/debian", "bookworm")]);
        assert_eq!(others.len(), OTHERS.len());
    }

    #[test]
    fn versions_keep_their_order() {
        let printed = " linux-image-cloud-amd64 | 7.3.4-1~bpo13+1 | http://m/debian trixie-backports/main amd64 Packages\n\
                       linux-image-cloud-amd64 |   7.2.13-1 | http://m/debian sid/main amd64 Packages\n";
        assert_eq!(parse_madison(printed), ["7.3.4-1~bpo13+1", "7.2.13-1"]);
    }
}
