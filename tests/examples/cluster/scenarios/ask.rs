//! Who answers, from inside and from outside.

use std::process::Command;

use flannel_tests::prelude::*;

use crate::kubectl::Kubectl;

/// Who answers, and whom he sees.
pub(super) fn try_ask(
    kubectl: &Kubectl,
    pod: &str,
    address: &str,
    port: u16,
) -> Result<String, String> {
    let said = kubectl.try_exec(pod, &question(address, port))?;
    Ok(said.trim().to_owned())
}

#[track_caller]
pub(super) fn asked(kubectl: &Kubectl, pod: &str, address: &str, port: u16) -> String {
    try_ask(kubectl, pod, address, port)
        .unwrap_or_else(|e| panic!("{pod} asks {address}:{port}: {e}"))
}

pub(super) fn from_outside(outside: &Outside, address: &str, port: u16) -> Result<String, String> {
    let mut command: Command = outside.netns().command("bash");
    let output = command.args(["-c", &question(address, port)]).output();
    let output = output.expect("start bash");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(super) fn question(address: &str, port: u16) -> String {
    let ask = format!("exec 3<> /dev/tcp/{address}/{port} && read -r line <&3 && echo \"$line\"");
    format!("timeout 15 bash -c '{ask}'")
}
