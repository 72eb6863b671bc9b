use super::*;

const PAGE: &str = "\
# Architecture

## Floors of the agent

Imports lead down.

| floor | folder | holds |
| ---: | --- | --- |
| 2 | `cli/` | words |
| 1 | `daemon/`, `inspect/` | what is done |
| 0 | `base` | `options` |

| 7 | `other` | table |
";

fn imports(files: &[(&str, &str)]) -> Vec<Import> {
    let mut sources = Sources::default();
    for (path, text) in files {
        let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
        let name = module.pop().unwrap();
        sources.add(&module, &name, format!("{path}.rs"), (*text).to_owned());
    }
    sources.imports()
}

#[test]
fn the_table_is_the_one_in_the_page() {
    let floors = Floors::parse(PAGE).unwrap();
    let of = |folder| floors.of(folder);
    assert_eq!(
        (of("cli"), of("inspect"), of("base")),
        (Some(2), Some(1), Some(0))
    );
    assert_eq!((of("options"), of("other")), (None, None));
    assert!(Floors::parse("no such heading").is_err());
    assert!(Floors::parse("## Floors\n\nnothing").is_err());
    let twice = PAGE.replace("`daemon/`", "`base`");
    assert!(
        Floors::parse(&twice)
            .unwrap_err()
            .to_string()
            .contains("base")
    );
}

#[test]
fn table_and_folders_must_agree() {
    let floors = Floors::parse(PAGE).unwrap();
    let folders = ["base", "cli", "daemon", "node"].map(str::to_owned).into();
    let wrong = floors.unlike(&folders).join("\n");
    assert!(wrong.contains("node is on no floor"), "{wrong}");
    assert!(wrong.contains("inspect does not exist"), "{wrong}");
}

#[test]
fn an_import_that_leads_up_is_named() {
    let floors = Floors::parse(PAGE).unwrap();
    let imports = imports(&[
        ("cli/mod", "use crate::daemon::Run; use crate::base;"),
        ("daemon/mod", "use crate::base::x;"),
        ("inspect/mod", "use crate::daemon::Run;"),
        ("base/mod", ""),
        ("base/x", "\n\nfn f() { crate::cli::main() }"),
    ]);
    let wrong = upwards(&floors, &imports);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(
        wrong[0].starts_with("base/x.rs:3 imports cli, which is above base::x"),
        "{wrong:?}"
    );
}

#[test]
fn a_circle_of_siblings_is_named_on_any_storey() {
    let circle = imports(&[
        ("daemon/mod", "use crate::inspect::y;"),
        ("inspect/mod", "use crate::daemon::Run;"),
    ]);
    let wrong = circles_of_siblings("src", &circle);
    assert_eq!(
        wrong,
        [
            "a circle in src:\n  daemon imports inspect in daemon/mod.rs:1\n  inspect imports daemon in inspect/mod.rs:1"
        ]
    );
    let inside = imports(&[
        ("base/mod", ""),
        ("base/x", "use super::y::Y;"),
        ("base/y", "use super::z::Z;"),
        ("base/z/mod", ""),
        ("base/z/deep", "use crate::base::x;"),
    ]);
    let wrong = circles_of_siblings("src", &inside);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].starts_with("a circle in src/base:"), "{wrong:?}");
    assert!(
        wrong[0].contains("z imports x in base/z/deep.rs:1"),
        "{wrong:?}"
    );
}

#[test]
fn a_parent_and_its_children_know_each_other() {
    let imports = imports(&[
        ("base/mod", "use self::x::X;"),
        ("base/x", "use super::Base; use super::y;"),
        ("base/y", "use super::Base;"),
    ]);
    assert_eq!(circles_of_siblings("src", &imports), [""; 0]);
}
