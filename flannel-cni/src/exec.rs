//! Another plugin, started as the runtime started us.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::error::{CniError, Code};

/// Somebody is just writing the plugin: an update.
const BUSY_TRIES: u32 = 5;
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// What `plugin` answers on stdout to `command` with `config`. All other variables are ours.
///
/// # Errors
/// What it says itself on stdout, and else why it did not run.
pub(crate) fn run(
    plugin: &str,
    path: &str,
    command: &str,
    config: &str,
) -> Result<Vec<u8>, CniError> {
    let file = find(plugin, path).map_err(CniError::internal)?;
    let mut tries = 0;
    let output = loop {
        match start(&file, command, config) {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES =>
            {
                tries += 1;
                thread::sleep(BUSY_WAIT);
            }
            outcome => break outcome,
        }
    };
    let output = output.map_err(|error| {
        let file = file.display();
        unknown(format!(
            "netplugin failed with no error message: {file}: {error}"
        ))
    })?;
    if output.status.success() {
        // For the runtime's log; nobody minds if there is none.
        let _ = io::stderr().lock().write_all(&output.stderr);
        return Ok(output.stdout);
    }
    Err(failure(&output))
}

fn start(file: &Path, command: &str, config: &str) -> io::Result<Output> {
    let mut child = Command::new(file)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // One that does not read its configuration may still be right.
            let _ = stdin.map(|mut stdin| stdin.write_all(config.as_bytes()));
        });
        child.wait_with_output()
    })
}

fn failure(output: &Output) -> CniError {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match (output.stdout.as_slice(), output.stderr.as_slice()) {
        ([], []) => unknown(format!(
            "netplugin failed with no error message: {}",
            output.status
        )),
        ([], stderr) => unknown(format!("netplugin failed: {:?}", text(stderr))),
        (stdout, _) => CniError::of_delegate(stdout).unwrap_or_else(|| {
            let said = text(stdout);
            unknown(format!(
                "netplugin failed but error parsing its diagnostic message {said:?}: it is no JSON object"
            ))
        }),
    }
}

fn unknown(msg: String) -> CniError {
    CniError::new(Code::Unknown, msg)
}

/// The first regular file of this name in the folders of `path`.
fn find(plugin: &str, path: &str) -> Result<PathBuf, String> {
    if plugin.is_empty() {
        return Err("no plugin name provided".to_owned());
    }
    if plugin.contains('/') {
        return Err(format!("invalid plugin name: {plugin}"));
    }
    let folders: Vec<&str> = path.split(':').collect();
    folders
        .iter()
        .map(|folder| Path::new(folder).join(plugin))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            format!(
                "failed to find plugin {plugin:?} in path [{}]",
                folders.join(" ")
            )
        })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    /// A folder with a plugin `p` of this script.
    fn plugin(script: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn run_p(folder: &TempDir, config: &str) -> Result<Vec<u8>, CniError> {
        run("p", folder.path().to_str().unwrap(), "ADD", config)
    }

    #[test]
    fn a_plugin_gets_command_and_configuration() {
        let folder = plugin("echo $CNI_COMMAND; cat");
        assert_eq!(run_p(&folder, "{}").unwrap(), b"ADD\n{}");
    }

    #[test]
    fn much_goes_both_ways_at_once() {
        let folder = plugin("cat; cat >&2 </dev/null");
        let config = "x".repeat(1 << 20);
        assert_eq!(run_p(&folder, &config).unwrap().len(), 1 << 20);
    }

    #[test]
    fn one_that_reads_nothing_is_heard() {
        let folder = plugin("echo done");
        assert_eq!(run_p(&folder, &"x".repeat(1 << 20)).unwrap(), b"done\n");
    }

    #[rstest]
    #[case("echo '{\"code\":7,\"msg\":\"no range\"}'; exit 1", 7, "no range")]
    #[case("echo oops >&2; exit 2", 0, "netplugin failed: \"oops\\n\"")]
    #[case("exit 3", 0, "netplugin failed with no error message: exit status: 3")]
    #[case(
        "echo panic; exit 1",
        0,
        "netplugin failed but error parsing its diagnostic message \"panic\\n\": it is no JSON object"
    )]
    fn what_goes_wrong_is_handed_on(#[case] script: &str, #[case] code: u64, #[case] says: &str) {
        let error = run_p(&plugin(script), "{}").unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, says));
    }

    #[rstest]
    #[case("", "no plugin name provided")]
    #[case("../p", "invalid plugin name: ../p")]
    #[case("q", "failed to find plugin \"q\" in path [/nope /nope2]")]
    fn one_that_is_not_there_is_said(#[case] name: &str, #[case] says: &str) {
        let error = run(name, "/nope:/nope2", "ADD", "{}").unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (999, says));
    }

    #[test]
    fn one_that_may_not_be_run_is_said() {
        let folder = plugin("");
        let file = folder.path().join("p");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let error = run_p(&folder, "{}").unwrap_err().to_string();
        assert!(error.contains("Permission denied"), "{error}");
    }
}
