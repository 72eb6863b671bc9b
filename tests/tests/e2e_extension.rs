//! The backend `extension`: the same commands get the same words, variables and input from us as from real flanneld.

#![cfg(test)]

use std::path::{Path, PathBuf};

use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::stage::seen;
use flannel_tests::with_daemon::start;
use rstest::rstest;
use serde_json::json;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

/// A network whose configuration names these commands. For the rest it is as `alloc`.
fn network(lab: &Lab, commands: &serde_json::Value) -> Network {
    let mut backend = json!({ "Type": "extension" });
    let backend = backend.as_object_mut().unwrap();
    backend.extend(commands.as_object().unwrap().clone());
    let config = json!({ "Network": CIDR, "Backend": backend });
    lab.etcd()
        .put(&format!("{PREFIX}/config"), &config.to_string());
    Network::alloc(PREFIX, CIDR)
}

/// A script that writes down all that it is given.
fn script(folder: &Path) -> (PathBuf, PathBuf) {
    let (script, file) = (folder.join("script"), folder.join("file"));
    let text = format!(
        "{{ echo \"[$@] $NETWORK $SUBNET $IPV6SUBNET $PUBLIC_IP $PUBLIC_IPV6\"; cat; echo .; }} >> {}\n\
         echo \" printed <$1>\"; echo '& more' >&2\n",
        file.display()
    );
    std::fs::write(&script, text).unwrap();
    (script, file)
}

#[rstest]
fn commands_get_the_same_as_from_flanneld(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let (script, file) = script(lab.folder());
    let run = |rest: &str| format!("sh {} {rest}", script.display());
    let net = network(
        &lab,
        &json!({
            "PreStartupCommand": run("pre $SUBNET"),
            "PostStartupCommand": run("post $NETWORK '${SUBNET}' $PUBLIC_IP"),
            "SubnetAddCommand": run("add x$SUBNET/y via ${PUBLIC_IP}"),
            "SubnetRemoveCommand": run("remove $SUBNET $IPV6SUBNET $NOBODY"),
        }),
    );
    let put = |subnet: &str, n: u8, rest: &str| {
        let value = format!(r#"{{"PublicIP":"172.30.0.{n}","PublicIPv6":null{rest}}}"#);
        lab.etcd()
            .put(&format!("{PREFIX}/subnets/{subnet}"), &value);
    };
    let of_extension = r#","BackendType":"extension""#;
    let with_data = format!(r#"{of_extension},"BackendData":"02:00 x\nmore""#);
    put("10.244.99.0-24", 99, &with_data);
    put("10.244.98.0-24", 98, r#","BackendType":"host-gw""#);
    let one = start(kind, lab.node("one"), &net, &[]);

    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    let says = |what: &str, calls: usize| {
        eventually(what.to_owned(), SOON, || {
            text().matches("\n.\n").count() == calls
        });
    };
    says("three commands have run", 3);
    put("10.244.97.0-24", 97, of_extension);
    says("another peer is there", 4);
    lab.etcd()
        .delete(&format!("{PREFIX}/subnets/10.244.99.0-24"));
    says("the first peer is gone", 5);

    let (subnet, address) = (one.subnet(), one.node().address());
    let expected = format!(
        "[pre ]     \n\n.\n\
         [post {CIDR} '{subnet}' {address}] {CIDR} {subnet} ::/0 {address} <nil>\n\n.\n\
         [add x10.244.99.0/24/y via 172.30.0.99]  10.244.99.0/24  172.30.0.99 \n02:00 x\nmore\n.\n\
         [add x10.244.97.0/24/y via 172.30.0.97]  10.244.97.0/24  172.30.0.97 \n\n.\n\
         [remove 10.244.99.0/24  ]  10.244.99.0/24  172.30.0.99 \n02:00 x\nmore\n.\n"
    );
    assert_eq!(text(), expected);
    let value = lab.etcd().get(&net.lease_key(subnet)).unwrap();
    assert_eq!(
        value,
        format!(
            "{{\"PublicIP\":\"{address}\",\"PublicIPv6\":null,\"BackendType\":\"extension\",\
             \"BackendData\":\"printed \\u003cpre\\u003e\\n\\u0026 more\"}}"
        )
    );
    assert_eq!(one.subnet_env().mtu, 1500);

    // A lease that says something else: flanneld adds it anew, and we remove the old one before.
    let before = text();
    put("10.244.97.0-24", 96, of_extension);
    says(
        "the peer has another address",
        match kind {
            Kind::Ours => 7,
            _ => 6,
        },
    );
    let removed = match kind {
        Kind::Ours => "[remove 10.244.97.0/24  ]  10.244.97.0/24  172.30.0.97 \n\n.\n",
        _ => "",
    };
    let added = "[add x10.244.97.0/24/y via 172.30.0.96]  10.244.97.0/24  172.30.0.96 \n\n.\n";
    assert_eq!(text(), format!("{before}{removed}{added}"));
}

/// host-gw by commands, as in flannel's own documentation.
#[rstest]
fn routes_by_commands_forward(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let lab = Lab::new();
    let net = network(
        &lab,
        &json!({
            "SubnetAddCommand": "ip route replace $SUBNET via $PUBLIC_IP",
            "SubnetRemoveCommand": "ip route del $SUBNET via $PUBLIC_IP",
        }),
    );
    let outside = lab.outside();
    let pair = Pair::of_daemons_in(lab, net, mix, &["--ip-masq"]);
    for way in pair.both_ways() {
        let (client, server) = (way.client, way.server);
        assert_eq!(
            seen(client, server, server.address()),
            client.address(),
            "nothing is translated on the way to a pod"
        );
        assert_eq!(
            seen(client, &outside, outside.address()),
            way.from.node().address()
        );
    }
}

/// What fails is named with what it printed. A first command that fails is the end of the start, as with flanneld; one about a peer is not.
#[test]
fn a_command_that_fails_is_named() {
    let lab = Lab::new();
    let net = network(&lab, &json!({ "PreStartupCommand": "ls /no/such/device" }));
    let node = lab.node("one");
    let mut daemon = flannel_tests::agent::Daemon::spawn(&node, &net, &[]);
    assert!(!daemon.process().wait(SOON).success());
    let log = daemon.log();
    assert!(
        log.contains(
            "PreStartupCommand: ls /no/such/device ended with exit status: 2, having printed: ls: "
        ),
        "{log}"
    );
    assert_eq!(lab.etcd().leases(&net), [], "no lease without it");

    let net = network(
        &lab,
        &json!({ "SubnetAddCommand": "ip route add $SUBNET via 203.0.113.1" }),
    );
    let lease = r#"{"PublicIP":"172.30.0.99","PublicIPv6":null,"BackendType":"extension"}"#;
    let key = format!("{PREFIX}/subnets/10.244.99.0-24");
    lab.etcd().put(&key, lease);
    let agent = Agent::start(node, &net);
    eventually("the failure is in the log", SOON, || {
        agent.log().contains(
            "ip route add $SUBNET via 203.0.113.1 ended with exit status: 2, having printed: ",
        )
    });
}
