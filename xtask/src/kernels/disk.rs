//! The guest's disk: test programs, agent and object, at the paths they have here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::plan::Run;
use crate::process;
use crate::workspace::Workspace;

/// Everything but the test programs that a measurement opens by its path.
pub(super) const AGENT: &[&str] = &["target/debug/flannel-agent"];
/// The same of all tests.
pub(super) const PROGRAMS: &[&str] = &[
    "target/debug/flannel-agent",
    "target/debug/flannel-agent-next-layout",
    "target/debug/reflect",
];
/// What is built outside of `target/debug`; real flanneld is the control of scenarios.
const FILES: &[&str] = &["target/bpf/flannel-ebpf", ".cache/tools/bin/flanneld"];
const FOLDERS: &[&str] = &["deploy", "docs"];
/// What tests compile where there is a compiler, and where they look for it first (`tests/src/no_tcx.rs`).
const NO_TCX: (&str, &str) = ("tests/src/no_tcx.c", "target/no_tcx.so");

/// How much longer than on real hardware a test waits for what it waits for.
const PATIENCE: u32 = 20;

/// Keeps the kernel from patching its own code (static keys) whenever a test starts and ends a ping or a hook: these hold the keys for
/// packets' time stamps (`SO_TIMESTAMP`) and for clsact. Of two emulated processors the one may run the half patched instruction once
/// more after the other is done, and the kernel dies of an `int3` that nobody knows.
const HOLD_KEYS: &str = "tc qdisc add dev lo clsact\n\
     ping -q -i 1000 127.0.0.1 > /dev/null 2>&1 &\n";

/// A test program that was built here.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// Builds the programs of `runs`, as `cargo test` builds them.
pub(super) fn build(workspace: &Workspace, runs: &[Run]) -> Result<Vec<Built>> {
    let mut command = workspace.cargo();
    command.args([
        "test",
        "--locked",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    for run in runs {
        command.args(["--test", &run.program]);
    }
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().context("start cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "`{}` failed",
        process::show(&command)
    );
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Of cargo's messages, one JSON object a line, those that name a test program.
fn parse(messages: &str) -> Vec<Built> {
    messages
        .lines()
        .filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let target = &message["target"];
            let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
            Some(Built {
                name: target["name"].as_str().filter(|_| is_test)?.to_owned(),
                path: message["executable"].as_str()?.into(),
            })
        })
        .collect()
}

/// Writes the disk with what is to be run on it.
pub(super) fn write(
    workspace: &Workspace,
    built: &[Built],
    runs: &[Run],
    programs: &[&str],
    disk: &Path,
) -> Result<()> {
    let folder = disk.parent().context("a folder for the disk")?;
    let tree = tempfile::tempdir_in(folder).context("a folder for the disk's files")?;
    let (root, tree) = (workspace.root(), tree.path());
    let made = |path: &Path| -> Result<PathBuf> {
        let inside = path.strip_prefix(root).unwrap_or(path);
        let target = tree.join(inside);
        let parent = target.parent().unwrap_or(tree);
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        Ok(target)
    };
    let programs = programs.iter().map(|path| root.join(path));
    for program in programs.chain(built.iter().map(|built| built.path.clone())) {
        // Without the lines of the source, a tenth of the bytes to read; names of functions stay.
        let target = made(&program)?;
        process::run(
            Command::new("strip")
                .arg("-g")
                .arg("-o")
                .args([&target, &program]),
        )?;
    }
    for file in FILES {
        let file = root.join(file);
        fs::copy(&file, made(&file)?).with_context(|| format!("copy {}", file.display()))?;
    }
    for name in FOLDERS {
        let from = root.join(name);
        let target = made(&from)?;
        process::run(Command::new("cp").arg("-r").args([&from, &target]))?;
    }
    let (source, library) = NO_TCX;
    process::run(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([made(&root.join(library))?, root.join(source)])
            .arg("-ldl"),
    )?;
    fs::create_dir_all(tree.join("tests")).context("create the folder of the tests")?;
    fs::write(tree.join("run.sh"), script(built, runs)?).context("write what is to be run")?;
    let _ = fs::remove_file(disk);
    process::run(
        Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
            .args([tree, disk])
            // Sparse: what is not used takes no room.
            .arg("2G"),
    )
}

/// What the guest's PID 1 runs.
fn script(built: &[Built], runs: &[Run]) -> Result<String> {
    let mut script = format!(
        "{HOLD_KEYS}\
         export FLANNEL_TEST_PATIENCE={PATIENCE}\n\
         run() {{ name=$1; shift; echo \"@@ run $name\"; \"$@\"; echo \"@@ end $name $?\"; }}\n"
    );
    for run in runs {
        let built = built
            .iter()
            .find(|built| built.name == run.program)
            .with_context(|| format!("cargo built no test program {}", run.program))?;
        let words = [run.program.clone(), built.path.display().to_string()]
            .into_iter()
            .chain(run.arguments.iter().cloned())
            .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
            .collect::<Vec<_>>();
        script.push_str(&format!("run {}\n", words.join(" ")));
    }
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"packet_bridge"},"executable":"/t/packet_bridge-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"reflect"},"executable":"/t/reflect"}
not json"#;
        let built = parse(messages);
        assert_eq!(built.len(), 1);
        assert_eq!(built[0].name, "packet_bridge");
        assert_eq!(built[0].path, Path::new("/t/packet_bridge-1"));
    }

    #[test]
    fn arguments_are_quoted() {
        let built = [Built {
            name: "e2e".to_owned(),
            path: "/t/e2e".into(),
        }];
        let run = |program: &str| Run {
            program: program.to_owned(),
            arguments: vec!["it's".to_owned()],
        };
        let script = super::script(&built, &[run("e2e")]).unwrap();
        assert!(
            script.ends_with("run 'e2e' '/t/e2e' 'it'\\''s'\n"),
            "{script}"
        );
        assert!(super::script(&built, &[run("other")]).is_err());
    }
}
