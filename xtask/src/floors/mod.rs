//! The house's order: which module may import which. The floors of the agent are the table in ARCHITECTURE.md; the other
//! crates have none, and only no circles.

mod circle;
mod lexer;
mod paths;
mod sources;
mod table;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use circle::Graph;
use sources::{Import, Sources};
use table::Floors;

/// The agent's folders are floors; of the others each module of the root is one room.
const AGENT: &str = "flannel-agent/src";
const OTHERS: [&str; 3] = ["flannel-common/src", "flannel-ebpf/src", "xtask/src"];

/// For `cargo xtask check`.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    println!("check: floors");
    let page = workspace.root().join("ARCHITECTURE.md");
    let text =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let floors = Floors::parse(&text)?;
    let agent = Sources::read(workspace.root(), AGENT)?;
    let mut wrong = floors.unlike(&agent.rooms());
    wrong.extend(upwards(&floors, &agent.imports()));
    wrong.extend(circles_of_siblings(AGENT, &agent.imports()));
    for folder in OTHERS {
        let imports = Sources::read(workspace.root(), folder)?.imports();
        wrong.extend(circles_of_siblings(folder, &imports));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

/// Imports that lead to a higher floor.
fn upwards(floors: &Floors, imports: &[Import]) -> Vec<String> {
    let rise = |import: &&Import| {
        let from = floors.of(import.from.first()?)?;
        let to = floors.of(import.to.first()?)?;
        (to > from).then_some(())
    };
    let say = |import: &Import| {
        format!(
            "{} imports {}, which is above {}: move one of them, or what they share further down",
            import.place,
            import.to.join("::"),
            import.from.join("::"),
        )
    };
    let rising = imports.iter().filter(|import| rise(import).is_some());
    rising.map(say).collect()
}

/// Circles of modules that are in one folder, whatever their depth; the folder's own file is no sibling.
fn circles_of_siblings(folder: &str, imports: &[Import]) -> Vec<String> {
    let mut graphs: BTreeMap<&[String], Graph<'_>> = BTreeMap::new();
    for import in imports {
        let common = import
            .from
            .iter()
            .zip(&import.to)
            .take_while(|(a, b)| a == b)
            .count();
        if let (Some(from), Some(to)) = (import.from.get(common), import.to.get(common)) {
            let graph = graphs.entry(&import.from[..common]).or_default();
            graph.add(from, to, &import.place);
        }
    }
    let say = |(parent, graph): (&[String], Graph<'_>)| {
        let circle = graph.circle()?;
        let inside = [&[folder.to_owned()], parent].concat().join("/");
        let steps: Vec<String> = circle
            .iter()
            .map(|(from, to, place)| format!("  {from} imports {to} in {place}"))
            .collect();
        Some(format!("a circle in {inside}:\n{}", steps.join("\n")))
    };
    graphs.into_iter().filter_map(say).collect()
}

#[cfg(test)]
mod tests;
