//! `image`: the container image that deploy/Dockerfile describes, as an OCI archive, without a container engine.
//!
//! Two layers: Debian's files, and ours. The same files give the same bytes.

mod check;
mod debian;
mod dockerfile;
mod e2e;
mod layer;
mod name;
mod oci;
mod opened;
mod stand_ins;
#[cfg(test)]
mod tests;
mod tree;

use std::env;
use std::fs::{self, Permissions};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use self::dockerfile::Recipe;
use self::layer::Layer;
use self::name::Name;
use self::oci::Image as Oci;
use self::tree::Tree;
use crate::build_cni::BuildCni;
use crate::build_ebpf::BuildEbpf;
use crate::process;
use crate::workspace::Workspace;

pub(crate) use self::e2e::e2e;
pub(crate) use self::stand_ins::{flannel, pod};

const DOCKERFILE: &str = "deploy/Dockerfile";
/// <https://reproducible-builds.org/specs/source-date-epoch/>
const EPOCH: &str = "SOURCE_DATE_EPOCH";

#[derive(Debug, Args)]
pub(crate) struct Image {
    /// Where to write it [default: target/image/flannel-ebpf.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What it is called in a runtime that imports it
    #[arg(
        long,
        value_name = "REPOSITORY[:TAG]",
        default_value = "flannel-ebpf:latest"
    )]
    name: Name,
    /// Take agent and plugin as they are in target/
    #[arg(long)]
    no_build: bool,
    /// Unpack what was written and run what is in it, in namespaces of its own (needs root)
    #[arg(long)]
    check: bool,
}

impl Image {
    /// As `cargo xtask image` without arguments, or with `--no-build`.
    pub(crate) fn plain(no_build: bool) -> Result<Self> {
        Ok(Self {
            output: None,
            name: "flannel-ebpf".parse().map_err(anyhow::Error::msg)?,
            no_build,
            check: false,
        })
    }

    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let recipe = fs::read_to_string(workspace.root().join(DOCKERFILE))
            .map_err(anyhow::Error::from)
            .and_then(|text| Recipe::parse(&text))
            .context(DOCKERFILE)?;
        let os_release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        check_release(&os_release, &recipe.release)?;
        let architecture = architecture(env::consts::ARCH)?;
        let mtime = epoch(env::var(EPOCH).ok().as_deref(), || last_commit(workspace))?;
        if !self.no_build {
            build(workspace)?;
        }

        let output = self.output.clone().unwrap_or_else(|| workspace.image());
        let folder = match output.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let ours = Tree::new_in(folder)?;
        stage_ours(&ours, &recipe, workspace.root())?;
        let debians = Tree::new_in(folder)?;
        let cache = workspace.cache_dir().join("image");
        let packages = debian::stage(&debians, &recipe, &cache)?;
        println!(
            "image: of Debian {}: {}",
            recipe.release,
            packages.join(", ")
        );

        let made_by = format!(
            "Debian {} with {}",
            recipe.release,
            recipe.packages.join(", ")
        );
        let layers = [
            Layer::pack(debians.path(), mtime, made_by)?,
            Layer::pack(ours.path(), mtime, "cargo xtask image".to_owned())?,
        ];
        let image = Oci {
            name: &self.name,
            architecture,
            entrypoint: &recipe.entrypoint,
            command: &[],
            created: &rfc3339(mtime)?,
            mtime,
            layers: &layers.each_ref(),
        };
        let digest = write(&image, &output, folder)?;
        println!("image: wrote {} ({})", output.display(), self.name.full);
        println!("image: {digest}");
        if self.check {
            check::check(&output, folder)?;
        }
        Ok(())
    }
}

/// What the Dockerfile's first lines say to build.
fn build(workspace: &Workspace) -> Result<()> {
    BuildEbpf::default().run(workspace)?;
    BuildCni::default().run(workspace)?;
    let build = [
        "build",
        "--locked",
        "--release",
        "--package",
        "flannel-agent",
    ];
    process::run(workspace.cargo().args(build))
}

/// What the Dockerfile copies.
fn stage_ours(tree: &Tree, recipe: &Recipe, root: &Path) -> Result<()> {
    for (from, to) in &recipe.copies {
        let built = root.join(from);
        ensure!(
            built.is_file(),
            "there is no {from}: build it (leave --no-build out), or mend {DOCKERFILE}"
        );
        tree.copy(&built, to, 0o755)?;
    }
    let entry = recipe.entrypoint.first();
    let entry = entry.with_context(|| format!("{DOCKERFILE}: an empty ENTRYPOINT"))?;
    ensure!(
        tree.at(entry).is_file(),
        "{DOCKERFILE}: no COPY brings {entry}, its ENTRYPOINT"
    );
    Ok(())
}

/// The agent is linked with this machine's C library, and packages come from where this machine's do.
fn check_release(os_release: &str, wanted: &str) -> Result<()> {
    let field = |name: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_matches('"')
    };
    let (id, release) = (field("ID="), field("VERSION_ID="));
    ensure!(
        id == "debian" && release == wanted,
        "this machine is {id} {release}, and the image is Debian {wanted}: run this on Debian {wanted}, or in a container of it"
    );
    Ok(())
}

/// In Go's words.
fn architecture(of_rust: &str) -> Result<&'static str> {
    Ok(match of_rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no image is made for {other}: run this on x86_64 or aarch64"),
    })
}

/// The time that all files have.
fn epoch(given: Option<&str>, commit: impl FnOnce() -> Result<String>) -> Result<u64> {
    let (from, seconds) = match given {
        Some(seconds) => (EPOCH, seconds.to_owned()),
        None => (
            "git",
            commit().with_context(|| format!("no time of a last commit: set {EPOCH}"))?,
        ),
    };
    let parsed = seconds.parse();
    parsed.with_context(|| {
        format!("{from} says {seconds:?}, which is no number of seconds since 1970")
    })
}

fn last_commit(workspace: &Workspace) -> Result<String> {
    let mut git = Command::new("git");
    process::read(
        git.current_dir(workspace.root())
            .args(["log", "-1", "--format=%ct"]),
    )
}

fn rfc3339(seconds: u64) -> Result<String> {
    let mut date = Command::new("date");
    process::read(date.args([
        "--utc",
        &format!("--date=@{seconds}"),
        "+%Y-%m-%dT%H:%M:%SZ",
    ]))
}

/// Whole, or not at all. Returns the digest.
fn write(image: &Oci<'_>, output: &Path, folder: &Path) -> Result<String> {
    let mut digests = write_all(std::slice::from_ref(image), output, folder)?;
    digests.pop().context("one image, one digest")
}

/// The same of several in one archive.
fn write_all(images: &[Oci<'_>], output: &Path, folder: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot write {}", output.display());
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
    let digests = oci::write(images, BufWriter::new(&mut file)).with_context(cannot)?;
    fs::set_permissions(file.path(), Permissions::from_mode(0o644)).with_context(cannot)?;
    file.persist(output).with_context(cannot)?;
    Ok(digests)
}
