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
        let plugin = Path::new(PLUGINS).join("bridge");
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
            .expect("start the bridge plugin");
        child
            .stdin
            .take()
            .expect("a piped stdin")
            .write_all(self.config.to_string().as_bytes())
            .expect("write the plugin's configuration");
        let output = child.wait_with_output().expect("wait for the plugin");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "CNI {verb} {container} with {}: {text}{}",
            self.config,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }
}
