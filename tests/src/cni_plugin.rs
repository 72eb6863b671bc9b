//! The CNI plugin `flannel`, ours, called as a container runtime calls it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::host::Host;
use crate::member::Member;
use crate::netns::Netns;
use crate::node::Node;

/// Where distributions put the plugins that ours has work for it.
const DELEGATES: &str = "/usr/lib/cni";

/// The plugin on one node, with flannel's shipped configuration.
#[derive(Debug)]
pub struct Plugin<'a> {
    node: &'a Node,
    config: Value,
    /// CNI_PATH.
    path: String,
    /// What it is started by, as words.
    wrapper: &'static str,
}

/// What a call made of it.
#[derive(Debug)]
pub struct Said {
    pub succeeded: bool,
    pub stdout: String,
}

impl<'a> Plugin<'a> {
    /// Reads `member`'s `subnet.env`; all else it keeps in the node's own folder.
    pub fn on(member: &'a (impl Member + ?Sized), cni_version: &str) -> Self {
        let node = member.node();
        let config = json!({
            "name": "cbr0",
            "cniVersion": cni_version,
            "type": "flannel",
            "subnetFile": member.subnet_file(),
            "dataDir": node.folder().join("var/lib/cni/flannel"),
            "delegate": { "hairpinMode": true, "isDefaultGateway": true },
            "ipam": { "dataDir": node.folder().join("var/lib/cni/networks") },
        });
        Self {
            node,
            config,
            path: DELEGATES.to_owned(),
            wrapper: "",
        }
    }

    /// The same, started by another command, such as one that takes rights away.
    #[must_use]
    pub fn under(mut self, wrapper: &'static str) -> Self {
        self.wrapper = wrapper;
        self
    }

    /// The same with another value of one key.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    /// With the plugins of `folder` before the distribution's.
    #[must_use]
    pub fn with_delegates(mut self, folder: &Path) -> Self {
        self.path = format!("{}:{DELEGATES}", folder.display());
        self
    }

    /// What a delegate was given, from ADD to DEL.
    pub fn saved(&self, container: &str) -> PathBuf {
        self.data_dir().join(container)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.node.folder().join("var/lib/cni/flannel")
    }

    /// Addresses that host-local holds for this network.
    pub fn addresses(&self) -> Vec<String> {
        let folder = self.node.folder().join("var/lib/cni/networks/cbr0");
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.into_string().expect("ASCII"));
        names
            .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
            .collect()
    }

    /// Calls the plugin about `container` in `pod`, which gets eth0.
    pub fn call(&self, command: &str, container: &str, pod: &Netns) -> Said {
        self.call_at(command, container, pod.path())
    }

    /// The same; `netns` need not be one.
    pub fn call_at(&self, command: &str, container: &str, netns: &Path) -> Said {
        let plugin = shipped();
        let plugin = plugin.to_str().expect("UTF-8");
        let words = self.wrapper.split_whitespace().chain([plugin]);
        let words: Vec<&str> = words.collect();
        let mut child = self
            .node
            .netns()
            .command(words[0])
            .args(&words[1..])
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("start {plugin}: {e}"));
        let stdin = child.stdin.take();
        let config = self.config.to_string();
        // One that refuses the command does not read it.
        let _ = stdin.expect("a pipe").write_all(config.as_bytes());
        let output = child.wait_with_output().expect("wait for the plugin");
        Said {
            succeeded: output.status.success(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        }
    }

    /// ADD, which has to succeed: the result.
    #[track_caller]
    pub fn add(&self, container: &str, pod: &Netns) -> Value {
        let said = self.call("ADD", container, pod);
        assert!(said.succeeded, "ADD {container}: {}", said.stdout);
        serde_json::from_str(&said.stdout).expect("a result is JSON")
    }

    /// DEL, which has to succeed and says nothing.
    #[track_caller]
    pub fn del(&self, container: &str, pod: &Netns) {
        let said = self.call("DEL", container, pod);
        assert!(said.succeeded, "DEL {container}: {}", said.stdout);
        assert_eq!(said.stdout, "");
    }
}

impl Said {
    /// Code and message of a call that has to fail.
    #[track_caller]
    pub fn error(&self) -> (u64, String) {
        assert!(!self.succeeded, "it succeeded: {}", self.stdout);
        let error: Value = serde_json::from_str(&self.stdout).expect("an error is JSON");
        let code = error["code"].as_u64().expect("a code");
        (code, error["msg"].as_str().expect("a message").to_owned())
    }
}

/// The binary that is shipped, `target/cni/flannel`.
fn shipped() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let target = test
        .ancestors()
        .nth(3)
        .expect("target/<profile>/deps/<test>");
    let plugin = target.join("cni/flannel");
    assert!(
        plugin.exists(),
        "{} is missing: run `cargo xtask test` with the name of this test, which builds it",
        plugin.display()
    );
    plugin
}
