//! The Kubernetes API in the place of etcd: Nodes as large as kubelets make them, and an agent that follows them all.

use std::net::Ipv4Addr;
use std::time::Duration;

use flannel_tests::kube_api::KubeApi;
use flannel_tests::network::Subnet;
use flannel_tests::prelude::*;
use serde_json::{Value, json};

use crate::cluster::mac;
use crate::measure;

/// What a Node is in bytes where the images on it are listed.
const SIZE: usize = 7_000;

/// What it took.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) starts: Vec<Duration>,
    /// The most memory that the last agent ever had resident, in bytes.
    pub(crate) memory: u64,
}

/// Writes `nodes` Nodes and starts so many agents, one after the other.
pub(crate) fn follow(lab: &Lab, nodes: u32, starts: u32) -> Followed {
    let net = Network::vxlan("/coreos.com/network", "10.0.0.0/8");
    let api = KubeApi::start(lab);
    let subnets: Vec<Subnet> = net.subnets().take((nodes + starts) as usize).collect();
    let (others, own) = subnets.split_at(nodes as usize);
    api.add_nodes((0..).zip(others).map(|(n, subnet)| node(n, *subnet)));
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut followed = Followed {
        starts: Vec::new(),
        memory: 0,
    };
    for (n, subnet) in (0..).zip(own) {
        let name = format!("kube{n}");
        api.add_node(&name, &[&subnet.to_string()]);
        let (took, mut agent) = measure::start(lab.node(&name), &net, nodes + n, &flags);
        followed.starts.push(took);
        followed.memory = measure::peak_memory(agent.process());
    }
    followed
}

fn node(n: u32, subnet: Subnet) -> Value {
    let public_ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + n);
    let mac = mac(n, 0).map(|byte| format!("{byte:02x}")).join(":");
    let data = format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#);
    let mut node = KubeApi::peer(
        &format!("n{n}"),
        &subnet.to_string(),
        &public_ip.to_string(),
        &data,
    );
    let image = |i: usize| {
        let digest = format!("{i:064x}");
        json!({"names": [format!("registry.example.org/project/image@sha256:{digest}")], "sizeBytes": 123_456_789})
    };
    let images: Vec<Value> = (0..SIZE / image(0).to_string().len()).map(image).collect();
    node["status"] = json!({ "images": images });
    node
}
