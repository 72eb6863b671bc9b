//! `docs`: the pages of docs/ that are made from the code, and whether they still agree with it.

mod layout;
mod reasons;

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::process;
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub(crate) struct Docs {
    /// Write nothing; fail if a page is not what the code says
    #[arg(long)]
    check: bool,
}

/// A generated page: file name below docs/, and its text.
#[derive(Debug, PartialEq)]
struct Page {
    name: &'static str,
    text: String,
}

impl Docs {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let pages = pages_of_shared_types()
            .into_iter()
            .chain([command_reference(workspace)?]);
        if self.check {
            check(workspace, pages)
        } else {
            write(workspace, pages)
        }
    }
}

/// For `cargo xtask check`.
pub(crate) fn check_all(workspace: &Workspace) -> Result<()> {
    println!("check: generated pages");
    Docs { check: true }.run(workspace)
}

/// Pages that need nothing but `flannel-common`.
fn pages_of_shared_types() -> [Page; 2] {
    [reasons::page(), layout::page()]
}

/// The agent knows its own flags; it is asked as an example, since the page is no task for operators.
fn command_reference(workspace: &Workspace) -> Result<Page> {
    let mut command = workspace.cargo();
    command.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "flannel-agent",
        "--example",
        "reference",
    ]);
    Ok(Page {
        name: "reference.md",
        text: process::read(&mut command)? + "\n",
    })
}

fn write(workspace: &Workspace, pages: impl Iterator<Item = Page>) -> Result<()> {
    let folder = workspace.root().join("docs");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make folder {}", folder.display()))?;
    for page in pages {
        let path = folder.join(page.name);
        if fs::read_to_string(&path).is_ok_and(|text| text == page.text) {
            println!("docs: {} (unchanged)", path.display());
            continue;
        }
        fs::write(&path, page.text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("docs: {} (changed)", path.display());
    }
    Ok(())
}

fn check(workspace: &Workspace, pages: impl Iterator<Item = Page>) -> Result<()> {
    let stale: Vec<_> = pages
        .filter(|page| !is_current(workspace, page))
        .map(|page| format!("docs/{}", page.name))
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    bail!(
        "{} not what the code says: run `cargo xtask docs` and commit",
        stale.join(", ")
    )
}

fn is_current(workspace: &Workspace, page: &Page) -> bool {
    fs::read_to_string(workspace.root().join("docs").join(page.name))
        .is_ok_and(|text| text == page.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_pages_are_what_the_code_says() {
        let workspace = Workspace::locate().unwrap();
        check(&workspace, pages_of_shared_types().into_iter()).unwrap();
    }

    #[test]
    fn a_page_that_drifted_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let page = |text: &str| Page {
            name: "page.md",
            text: text.to_owned(),
        };
        let missing = check(&workspace, [page("new")].into_iter()).unwrap_err();
        assert!(missing.to_string().contains("docs/page.md"), "{missing}");
        write(&workspace, [page("new")].into_iter()).unwrap();
        check(&workspace, [page("new")].into_iter()).unwrap();
        let drifted = check(&workspace, [page("newer")].into_iter()).unwrap_err();
        assert!(
            drifted.to_string().contains("cargo xtask docs"),
            "{drifted}"
        );
    }
}
