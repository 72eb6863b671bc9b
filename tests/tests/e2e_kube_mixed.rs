//! The Kubernetes API as datastore: ours beside real flanneld on one API server, both ways.

#![cfg(test)]

use flannel_tests::fast_path::hooked_if_ours;
use flannel_tests::kube_api::KubeApi;
use flannel_tests::network::Backend;
use flannel_tests::pair::{Mix, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::udp;
use rstest::rstest;
use serde_json::Value;

const CIDR: &str = "10.244.0.0/16";
/// With the lab's nodes in it.
const AROUND: &str = "172.16.0.0/12";

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", CIDR)
}

/// Nodes one and two with the second and third subnet of the network.
fn pair(net: Network, mix: Mix) -> (KubeApi, Pair<AnyDaemon>) {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    api.add_node("two", &["10.244.2.0/24"]);
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let pair = Pair::of_daemons_in(lab, net, mix, &flags);
    (api, pair)
}

/// A Node's annotations and condition without what is each node's own.
fn shape(api: &KubeApi, member: &AnyDaemon) -> Value {
    let node = member.node();
    let text = api.node(node.name())["metadata"]["annotations"].to_string();
    let mut shape = text.replace(&node.address().to_string(), "IP");
    let data = api.annotation(node.name(), "backend-data");
    let data: Value = serde_json::from_str(&data.expect("backend-data")).expect("JSON");
    if let Some(mac) = data["VtepMAC"].as_str() {
        shape = shape.replace(mac, "MAC");
    }
    serde_json::from_str(&shape).expect("JSON")
}

/// Names, addresses, MACs and times taken out of what a node wrote.
fn writes(api: &KubeApi, member: &AnyDaemon) -> Vec<(String, String, String)> {
    let name = member.node().name();
    let data = api.annotation(name, "backend-data").expect("backend-data");
    let mac = serde_json::from_str::<Value>(&data).expect("JSON")["VtepMAC"].clone();
    let plain = |text: &str| {
        let text = text.replace(&member.node().address().to_string(), "IP");
        match mac.as_str() {
            Some(mac) => text.replace(mac, "MAC"),
            None => text,
        }
    };
    let path = format!("/api/v1/nodes/{name}/status");
    let writes = api.writes().into_iter();
    writes
        .filter(|(_, uri, _)| *uri == path)
        .map(|(verb, uri, mut body)| {
            if let Some(conditions) = body["status"]["conditions"].as_array_mut() {
                for condition in conditions {
                    for time in ["lastHeartbeatTime", "lastTransitionTime"] {
                        let text = condition[time].as_str().expect("a time");
                        assert!(text.len() == 20 && text.ends_with('Z'), "{text}");
                        condition[time] = Value::from("TIME");
                    }
                }
            }
            (verb, uri.replace(name, "NODE"), plain(&body.to_string()))
        })
        .collect()
}

#[rstest]
#[case::vxlan(vxlan())]
#[case::direct_routing(vxlan().direct_routing())]
#[case::host_gw(Network::host_gw("/coreos.com/network", CIDR))]
fn pods_of_both_kinds_talk(
    #[case] net: Network,
    #[values(Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let backend = net.backend;
    let (api, pair) = pair(net, mix);
    for (member, subnet) in [(&pair.one, "10.244.1.0/24"), (&pair.two, "10.244.2.0/24")] {
        assert_eq!(member.subnet().to_string(), subnet);
        if backend != Backend::HostGw {
            hooked_if_ours(member);
        }
    }
    for Way {
        from,
        client,
        server,
        ..
    } in pair.both_ways()
    {
        let to = server.address();
        let mtu = from.subnet_env().mtu;
        client.ping(to).whole(mtu).succeeds();
        assert_eq!(
            udp::exchange(client, server, to, 8192).ip(),
            client.address()
        );
        from.node().ping(to).succeeds();
    }
    for name in ["one", "two"] {
        let condition = eventually_some("the network is said to be up", SOON, || {
            api.network_unavailable(name)
        });
        let expected = ["False", "FlannelIsUp", "Flannel is running on this node"];
        assert_eq!(condition, expected);
    }
}

/// flannel's own example has a Network of 10.0.0.0/8: nodes are in it, outside of every podCIDR, and only podCIDRs have routes.
#[rstest]
#[case::vxlan(Network::vxlan("/coreos.com/network", AROUND))]
#[case::host_gw(Network::host_gw("/coreos.com/network", AROUND))]
fn nodes_may_be_inside_network(
    #[case] net: Network,
    #[values(Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    api.add_node("one", &["172.20.1.0/24"]);
    api.add_node("two", &["172.20.2.0/24"]);
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let backend = net.backend;
    let around: ipnet::Ipv4Net = AROUND.parse().expect("a range");
    let pair = Pair::of_daemons_in(lab, net, mix, &flags);
    for member in [&pair.one, &pair.two] {
        assert!(around.contains(&member.node().address()), "no test");
        if backend != Backend::HostGw {
            hooked_if_ours(member);
        }
    }
    for Way {
        from,
        client,
        server,
        ..
    } in pair.both_ways()
    {
        let to = server.address();
        assert_eq!(
            udp::exchange(client, server, to, 8192).ip(),
            client.address()
        );
        from.node().ping(to).succeeds();
    }
}

/// What is in the Node, and by which requests it came there.
#[rstest]
#[case::vxlan(vxlan())]
#[case::host_gw(Network::host_gw("/coreos.com/network", CIDR))]
fn both_kinds_write_the_same(#[case] net: Network) {
    let (api, pair) = pair(net, Mix::OursAndFlanneld);
    eventually("both have said that the network is up", SOON, || {
        ["one", "two"]
            .iter()
            .all(|name| api.network_unavailable(name).is_some())
    });
    assert_eq!(shape(&api, &pair.one), shape(&api, &pair.two));
    let [ours, theirs] = [&pair.one, &pair.two].map(|member| writes(&api, member));
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 2, "{ours:?}");
}
