//! Runs the test programs of the workspace several at a time. Cargo runs them one after the other, and at the end of each the
//! last test waits alone.

use std::collections::VecDeque;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use std::{env, thread};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;
use crate::workspace::Workspace;

/// libtest's.
pub(crate) const THREADS: &str = "RUST_TEST_THREADS";

/// Tests of one program at once.
const OF_A_PROGRAM: usize = 2;

/// What takes longest begins first, or it would be alone at the end.
const LONG: [&str; 6] = [
    "e2e_kill_points",
    "e2e_kube_faults",
    "e2e_kube_node",
    "e2e_host_firewall",
    "etcd_source",
    "e2e_ipsec",
];

/// One executable with tests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    executable: PathBuf,
    /// Its package's, where cargo runs it.
    folder: PathBuf,
    /// `tests/e2e_x.rs` or `unittests src/lib.rs`, as cargo announces it.
    title: String,
    name: String,
}

/// What came of one.
struct Ended {
    program: Program,
    begun: Instant,
    ended: Instant,
    output: Vec<u8>,
    status: ExitStatus,
}

/// What is heard of a program.
enum News {
    /// Its title: who hangs is known by it.
    Begins(String),
    Ended(Ended),
}

/// Runs all of them, then the tests of the docs. What they print goes to our output and, a line at a time, to `read`, as cargo
/// would have printed it and with when it was: a program's lines together, when it has ended. Returns which programs failed.
///
/// # Errors
/// If one of them cannot be run, or the tests of the docs fail.
pub(crate) fn run(
    workspace: &Workspace,
    mut programs: Vec<Program>,
    mut read: impl FnMut(&str, Instant),
) -> Result<Vec<String>> {
    programs.sort_by_key(|program| {
        let long = LONG.iter().position(|long| program.name == *long);
        // The others in cargo's order.
        long.unwrap_or(LONG.len())
    });
    let at_once = at_once();
    let threads = OF_A_PROGRAM.min(at_once);
    let all = programs.len();
    println!("test: {all} programs, {at_once} tests at once ({THREADS} says otherwise)");
    let queue = Mutex::new(VecDeque::from(programs));
    let (mut ended, mut failed) = (0, Vec::new());
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for _ in 0..at_once.div_ceil(OF_A_PROGRAM) {
            let (queue, tell) = (&queue, tell.clone());
            scope.spawn(move || work(queue, threads, &tell));
        }
        drop(tell);
        for news in told {
            match news? {
                News::Begins(title) => println!("test: {title} begins"),
                News::Ended(one) => {
                    ended += 1;
                    failed.extend(report(one, &mut read));
                }
            }
        }
        anyhow::Ok(())
    })?;
    if ended != all {
        bail!("{ended} of {all} programs were run");
    }
    let mut docs = workspace.cargo();
    docs.args(["test", "--locked", "--no-fail-fast", "--doc"]);
    process::run_reading(docs, |line| read(line, Instant::now()))?;
    Ok(failed)
}

/// How many tests run at once: they wait more than they compute, and with one for each core the cores are idle for four
/// fifths of the time.
fn at_once() -> usize {
    let wish = env::var(THREADS).ok().and_then(|wish| wish.parse().ok());
    let wish = wish.filter(|wish| *wish > 0);
    wish.unwrap_or_else(|| 3 * thread::available_parallelism().map_or(1, NonZero::get))
}

/// Builds all of them.
///
/// # Errors
/// If that fails, or there is none.
pub(crate) fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--no-run"]);
    // Shown as it goes; the answer to the second is all there already.
    process::run(&mut command)?;
    let messages = process::read(command.arg("--message-format=json"))?;
    let programs: Vec<_> = messages.lines().filter_map(program).collect();
    if programs.is_empty() {
        bail!("`{}` names no program with tests", process::show(&command));
    }
    Ok(programs)
}

/// The program with tests that a message of cargo's is about
/// (<https://doc.rust-lang.org/cargo/reference/external-tools.html#json-messages>).
fn program(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let executable = message["executable"].as_str()?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    let target = &message["target"];
    let source = Path::new(target["src_path"].as_str()?);
    let source = source.strip_prefix(folder).unwrap_or(source).display();
    let of_its_own = target["kind"][0] == "test";
    Some(Program {
        executable: executable.into(),
        folder: folder.to_owned(),
        title: match of_its_own {
            true => source.to_string(),
            false => format!("unittests {source}"),
        },
        name: target["name"].as_str()?.to_owned(),
    })
}

/// Runs one after the other until none is left.
fn work(queue: &Mutex<VecDeque<Program>>, threads: usize, tell: &Sender<Result<News>>) {
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    while let Some(program) = next() {
        let begins = News::Begins(program.title.clone());
        let said = tell.send(Ok(begins));
        // Nobody listens any more: another one could not be run.
        if said.is_err()
            || tell
                .send(run_one(program, threads).map(News::Ended))
                .is_err()
        {
            return;
        }
    }
}

fn run_one(program: Program, threads: usize) -> Result<Ended> {
    let begun = Instant::now();
    let mut command = Command::new(&program.executable);
    command
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env(THREADS, threads.to_string());
    let (output, status) = process::capture(command)
        .with_context(|| format!("cannot run {}", program.executable.display()))?;
    Ok(Ended {
        program,
        begun,
        ended: Instant::now(),
        output,
        status,
    })
}

/// Prints it. Returns its title if it failed.
fn report(ended: Ended, read: &mut impl FnMut(&str, Instant)) -> Option<String> {
    let Ended { program, .. } = ended;
    let Program { title, name, .. } = program;
    let file = program.executable.display();
    let announced = format!("     Running {title} ({file})");
    println!("{announced}");
    read(&announced, ended.begun);
    let mut passed = false;
    for line in String::from_utf8_lossy(&ended.output).lines() {
        println!("{line}");
        read(line, ended.ended);
        passed |= line.starts_with("test result: ok.");
    }
    // One that leaves half-way may do so with 0.
    if ended.status.success() && passed {
        return None;
    }
    let failure = format!("error: test failed: {name}, {}", ended.status);
    println!("{failure}");
    read(&failure, ended.ended);
    Some(title)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = r#"{"reason":"compiler-artifact","manifest_path":"/r/tests/Cargo.toml","target":{"kind":["test"],"name":"e2e_x",
        "src_path":"/r/tests/tests/e2e_x/main.rs"},"profile":{"test":true},"executable":"/r/target/debug/deps/e2e_x-66"}"#;

    #[test]
    fn a_program_is_announced_as_cargo_does() {
        let found = program(MESSAGE).unwrap();
        let expected = Program {
            executable: "/r/target/debug/deps/e2e_x-66".into(),
            folder: "/r/tests".into(),
            title: "tests/e2e_x/main.rs".to_owned(),
            name: "e2e_x".to_owned(),
        };
        assert_eq!(found, expected);
        let library = MESSAGE.replace(r#"["test"]"#, r#"["lib"]"#);
        let found = program(&library).unwrap();
        assert_eq!(found.title, "unittests tests/e2e_x/main.rs");
    }

    #[test]
    fn what_has_no_tests_is_no_test_program() {
        assert_eq!(program(&MESSAGE.replace("true", "false")), None);
        assert_eq!(
            program(&MESSAGE.replace(r#""executable":"/"#, r#""executable":null,"x":"/"#)),
            None
        );
        assert_eq!(
            program("{\"reason\":\"build-finished\",\"success\":true}"),
            None
        );
        assert_eq!(program("warning: not JSON"), None);
    }

    #[test]
    fn a_program_that_leaves_half_way_has_failed() {
        let now = Instant::now();
        let end = |output: &str| {
            let ended = Ended {
                program: program(MESSAGE).unwrap(),
                begun: now,
                ended: now,
                output: output.into(),
                status: Command::new("true").status().unwrap(),
            };
            report(ended, &mut |_, _| {})
        };
        assert_eq!(end("running 1 test\ntest result: ok. 1 passed;"), None);
        assert!(end("running 1 test\n").is_some());
    }

    #[test]
    fn what_is_printed_is_read_with_when_it_was() {
        let begun = Instant::now();
        let ended = Instant::now();
        let status = Command::new("false").status().unwrap();
        let mut heard = Vec::new();
        let failed = report(
            Ended {
                program: program(MESSAGE).unwrap(),
                begun,
                ended,
                output: b"running 1 test\ntest a ... FAILED\n".to_vec(),
                status,
            },
            &mut |line, when| heard.push((line.to_owned(), when)),
        );
        assert_eq!(failed.as_deref(), Some("tests/e2e_x/main.rs"));
        let lines: Vec<_> = heard.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(
            lines,
            [
                "     Running tests/e2e_x/main.rs (/r/target/debug/deps/e2e_x-66)",
                "running 1 test",
                "test a ... FAILED",
                "error: test failed: e2e_x, exit status: 1",
            ]
        );
        assert_eq!((heard[0].1, heard[1].1), (begun, ended));
    }
}
