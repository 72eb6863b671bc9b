//! The real CNI plugins, called as a container runtime calls them, with the configuration that flannel's
//! own CNI plugin generates for `bridge` and `host-local`.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::host::Host;
use crate::netns::Netns;
use crate::node::Node;
use crate::subnet_env::SubnetEnv;

/// Where distributions put the plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A network as a container runtime reads it: a list of plugins, each called with what the one before said.
#[derive(Debug, Clone)]
pub struct Conflist {
    plugins: Vec<Value>,
}

impl Conflist {
    /// From a file, with every path of the plugins' own kept inside `node`'s folder.
    ///
    /// # Panics
    /// If it is no network configuration list.
    pub fn read(node: &Node, file: &Path) -> Self {
        let text =
            std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let list: Value = serde_json::from_str(&text).expect("a conflist is JSON");
        let mut plugins = list["plugins"].as_array().expect("plugins").clone();
        for plugin in &mut plugins {
            plugin["name"] = list["name"].clone();
            plugin["cniVersion"] = list["cniVersion"].clone();
            if plugin["ipam"].is_object() {
                plugin["ipam"]["dataDir"] = json!(node.folder().join("var/lib/cni/networks"));
            }
        }
        Self { plugins }
    }

    /// ADD of every plugin in turn, with `ports` (host port, container port) published; the last result.
    pub fn add(&self, node: &Node, container: &str, pod: &Netns, ports: &[(u16, u16)]) -> Value {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(host, inside)| json!({"hostPort": host, "containerPort": inside, "protocol": "tcp"}))
            .collect();
        let mut result = Value::Null;
        for plugin in &self.plugins {
            let mut config = plugin.clone();
            if plugin["capabilities"]["portMappings"] == true {
                config["runtimeConfig"] = json!({ "portMappings": ports });
            }
            if !result.is_null() {
                config["prevResult"] = result;
            }
            let text = call(&config, "ADD", node, container, pod);
            result = serde_json::from_str(&text).expect("a plugin answers in JSON");
        }
        result
    }
}

/// flannel's CNI network on one node.
#[derive(Debug, Clone)]
pub struct Cni {
    pub bridge: String,
    /// The delegate's `ipMasq`. flannel's plugin sets it to the opposite of `FLANNEL_IPMASQ` unless the
    /// configuration says otherwise.
    pub ip_masq: bool,
    config: Value,
}

impl Cni {
    /// From `subnet.env`, with the shipped configuration (`isDefaultGateway`, `hairpinMode`).
    pub fn new(node: &Node, env: &SubnetEnv, bridge: &str, ip_masq: bool) -> Self {
        let config = json!({
            "cniVersion": "0.3.1",
            "name": format!("cbr-{bridge}"),
            "type": "bridge",
            "bridge": bridge,
            "isGateway": true,
            "isDefaultGateway": true,
            "hairpinMode": true,
            "mtu": env.mtu,
            "ipMasq": ip_masq,
            "ipam": {
                "type": "host-local",
                "dataDir": node.folder().join("var/lib/cni/networks"),
                "ranges": [[{"subnet": env.subnet().to_string()}]],
                "routes": [{"dst": env.network}],
            },
        });
        Self {
            bridge: bridge.to_owned(),
            ip_masq,
            config,
        }
    }

    /// ADD: attaches `pod` and returns the plugin's result.
    pub fn add(&self, node: &Node, container: &str, pod: &Netns) -> Value {
        let text = self.call("ADD", node, container, pod);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("the bridge plugin said {text}: {e}"))
    }

    /// DEL: gives address and link back.
    pub fn del(&self, node: &Node, container: &str, pod: &Netns) {
        self.call("DEL", node, container, pod);
    }

    fn call(&self, verb: &str, node: &Node, container: &str, pod: &Netns) -> String {
        call(&self.config, verb, node, container, pod)
    }
}

fn call(config: &Value, verb: &str, node: &Node, container: &str, pod: &Netns) -> String {
    let name = config["type"].as_str().expect("a plugin's type");
    let plugin = Path::new(PLUGINS).join(name);
    assert!(plugin.exists(), "{} is missing", plugin.display());
    let mut child = node
        .netns()
        .command(plugin.to_str().expect("an ASCII path"))
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start the {name} plugin: {e}"));
    child
        .stdin
        .take()
        .expect("a piped stdin")
        .write_all(config.to_string().as_bytes())
        .expect("write the plugin's configuration");
    let output = child.wait_with_output().expect("wait for the plugin");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "CNI {verb} {container} with {config}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
