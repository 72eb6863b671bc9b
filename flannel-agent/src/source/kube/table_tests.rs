//! What the other nodes' leases are, of all that Nodes can say.

use super::super::names::Name;
use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

/// `name` of the day `age`, with `cidr`, at 192.0.2.`host`.
fn node(name: &str, age: u8, cidr: &str, host: u8) -> Node {
    let annotations = [
        (Name::Managed, "true".to_owned()),
        (Name::BackendType, "host-gw".to_owned()),
        (Name::BackendData, "null".to_owned()),
        (Name::PublicIp, format!("192.0.2.{host}")),
    ];
    Node {
        name: name.to_owned(),
        uid: format!("{name}-{age}"),
        version: String::new(),
        created: format!("2026-01-{age:02}T00:00:00Z"),
        pod_cidrs: vec![cidr.to_owned()],
        annotations: annotations.into(),
        network_up: false,
    }
}

fn with(node: Node, name: Name, value: &str) -> Node {
    let mut node = node;
    node.annotations.insert(name, value.to_owned());
    node
}

fn us(subnet: &str) -> Own {
    Own {
        subnet: net(subnet),
        public_ip: Ipv4Addr::new(192, 0, 2, 1),
    }
}

fn empty(backend: &'static str) -> Table {
    let network = net("10.1.0.0/16");
    let scope = Scope { network, backend };
    Table::new("own".to_owned(), us("10.1.1.0/24"), scope)
}

fn table() -> Table {
    let mut table = empty("host-gw");
    table.put(&node("own", 1, "10.1.1.0/24", 1));
    table.put(&node("a", 2, "10.1.2.0/24", 2));
    table
}

/// Subnet → last byte of the address.
fn others(table: &Table) -> Vec<(String, u8)> {
    let others = table.others();
    let pairs = others.iter().map(|(subnet, attrs)| {
        let host = attrs.public_ip.octets()[3];
        (subnet.to_string(), host)
    });
    pairs.collect()
}

fn expect(table: &Table, expected: &[(&str, u8)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(s, h)| ((*s).to_owned(), *h))
        .collect();
    assert_eq!(others(table), expected);
}

#[test]
fn nodes_of_flannel_but_ours_are_leases() {
    let mut table = table();
    expect(&table, &[("10.1.2.0/24", 2)]);
    table.put(&with(
        node("b", 3, "10.1.3.0/24", 3),
        Name::Managed,
        "false",
    ));
    table.put(&Node {
        annotations: BTreeMap::new(),
        ..node("c", 3, "10.1.4.0/24", 4)
    });
    expect(&table, &[("10.1.2.0/24", 2)]);
    assert!(table.blamed.is_empty(), "{:?}", table.blamed);
}

#[test]
fn changes_name_their_subnet_and_heartbeats_nothing() {
    let mut table = table();
    assert!(table.put(&node("a", 2, "10.1.2.0/24", 2)).is_empty());
    let touched = table.put(&node("a", 2, "10.1.2.0/24", 22));
    assert_eq!(touched, [net("10.1.2.0/24")].into());
    expect(&table, &[("10.1.2.0/24", 22)]);
    let touched = table.put(&node("a", 2, "10.1.9.0/24", 22));
    assert_eq!(touched, [net("10.1.2.0/24"), net("10.1.9.0/24")].into());
    assert_eq!(table.delete("a"), [net("10.1.9.0/24")].into());
    expect(&table, &[]);
}

#[test]
fn what_became_unreadable_or_vanished_keeps_its_meaning_until_the_node_goes() {
    let mut table = table();
    for (name, value) in [
        (Name::PublicIp, "nonsense"),
        (Name::BackendData, "{"),
        (Name::Managed, "no"),
    ] {
        table.put(&with(node("a", 2, "10.1.2.0/24", 2), name, value));
        expect(&table, &[("10.1.2.0/24", 2)]);
        assert!(table.blamed["a"].contains("keeping"), "{:?}", table.blamed);
    }
    table.put(&node("a", 2, "10.1.2.0/24", 3));
    assert!(table.blamed.is_empty());
    // Deleted and made again.
    let again = node("a", 9, "10.1.2.0/24", 4);
    table.put(&with(again, Name::PublicIp, "nonsense"));
    expect(&table, &[]);
}

#[test]
fn nobody_takes_what_an_older_node_has() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
        let mut table = table();
        let nodes = [
            node("b", 3, "10.1.2.0/24", 3),
            node("c", 4, "10.1.2.128/25", 4),
            node("d", 5, "10.1.0.0/16", 5),
            node("e", 6, "10.1.1.7/32", 6),
        ];
        for index in order {
            table.put(&nodes[index]);
        }
        expect(&table, &[("10.1.2.0/24", 2)]);
        for name in ["b", "c", "d", "e"] {
            assert!(
                table.blamed[name].contains("overlaps"),
                "{:?}",
                table.blamed
            );
        }
        table.delete("a");
        expect(&table, &[("10.1.2.0/24", 3)]);
        table.delete("b");
        expect(&table, &[("10.1.2.128/25", 4)]);
    }
}

#[test]
fn a_public_ip_of_another_node_is_named() {
    let mut table = table();
    table.put(&node("b", 3, "10.1.3.0/24", 2));
    expect(&table, &[("10.1.2.0/24", 2), ("10.1.3.0/24", 2)]);
    assert!(
        table.blamed["b"].contains("that of Node a"),
        "{:?}",
        table.blamed
    );
}

#[test]
fn who_is_not_listed_is_gone_and_a_lost_subnet_becomes_anothers() {
    let mut table = table();
    table.put(&node("b", 3, "10.1.3.0/24", 3));
    let touched = table.retain(&["b".to_owned()].into());
    assert_eq!(touched, [net("10.1.2.0/24")].into());
    expect(&table, &[("10.1.3.0/24", 3)]);
    let touched = table.set_own(us("10.1.3.0/24"));
    assert_eq!(touched, [net("10.1.3.0/24")].into());
    expect(&table, &[]);
}

#[test]
fn what_does_not_count_hides_nothing() {
    let mut table = empty("host-gw");
    for odd in [
        node("b", 1, "10.0.0.0/8", 3),
        node("c", 1, "10.1.0.0/16", 4),
        node("d", 1, "10.1.2.0/24", 1),
        with(node("e", 1, "10.1.2.0/24", 5), Name::BackendType, "vxlan"),
        with(node("f", 1, "10.1.2.0/24", 6), Name::PublicIp, "10.1.2.9"),
    ] {
        table.put(&odd);
        assert!(table.blamed.contains_key(&odd.name), "{}", odd.name);
    }
    table.put(&node("a", 2, "10.1.2.0/24", 2));
    expect(&table, &[("10.1.2.0/24", 2)]);
    // Ours is another one now: c does count, and is the older one.
    let touched = table.set_own(us("10.2.1.0/24"));
    assert!(touched.contains(&net("10.1.2.0/24")));
    expect(&table, &[("10.1.0.0/16", 4)]);
}

#[test]
fn damaged_backend_data_keeps_what_was_said() {
    let good = r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#;
    let vxlan = with(node("a", 2, "10.1.2.0/24", 2), Name::BackendType, "vxlan");
    let vxlan = with(vxlan, Name::BackendData, good);
    let mut table = empty("vxlan");
    table.put(&vxlan);
    let before = table.others();
    assert_eq!(before.len(), 1);
    let mut removed = vxlan.clone();
    removed.annotations.remove(&Name::BackendData);
    let mut damaged = vec![removed, with(vxlan.clone(), Name::BackendType, "host-gw")];
    for data in [
        "",
        "null",
        "{}",
        r#"{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}"#,
        r#"{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#,
    ] {
        damaged.push(with(vxlan.clone(), Name::BackendData, data));
    }
    for node in damaged {
        assert!(table.put(&node).is_empty());
        assert_eq!(table.others(), before);
        assert!(table.blamed["a"].contains("keeping"), "{:?}", table.blamed);
    }
}

#[test]
fn a_claim_that_comes_later_takes_nothing_however_old_its_node_is() {
    let mut table = table();
    let mut bare = node("old", 1, "10.1.0.0/16", 7);
    bare.annotations.clear();
    table.put(&bare);
    table.retain(&["own".to_owned(), "a".to_owned(), "old".to_owned()].into());
    table.set_own(us("10.1.255.0/24"));
    table.put(&node("old", 1, "10.1.2.0/23", 7));
    table.put(&node("older", 1, "10.1.2.0/24", 8));
    expect(&table, &[("10.1.2.0/24", 2)]);
    // Its own news still count, and who moves begins at the end.
    table.put(&node("a", 2, "10.1.2.0/24", 22));
    expect(&table, &[("10.1.2.0/24", 22)]);
    assert!(table.blamed["old"].contains("overlaps"));
    table.retain(&["a".to_owned()].into());
    assert!(table.blamed.is_empty(), "{:?}", table.blamed);
}

#[test]
fn a_backend_type_that_is_long_is_cut() {
    let mut table = table();
    let long = "x".repeat(1 << 18);
    table.put(&with(
        node("b", 3, "10.1.3.0/24", 3),
        Name::BackendType,
        &long,
    ));
    let said = &table.blamed["b"];
    assert!(said.contains("xxx…") && said.len() < 400, "{}", said.len());
}

/// Network may be as large as 10.0.0.0/8, with the nodes in it: flannel routes podCIDRs alone.
#[test]
fn an_address_in_network_and_in_no_pod_cidr_is_a_nodes() {
    let mut table = table();
    let inside =
        |name: &str, cidr: &str, ip: &str| with(node(name, 3, cidr, 3), Name::PublicIp, ip);
    table.put(&inside("b", "10.1.3.0/24", "10.1.200.3"));
    expect(&table, &[("10.1.2.0/24", 2), ("10.1.3.0/24", 3)]);
    assert!(table.blamed.is_empty(), "{:?}", table.blamed);
    // flannel serves these as well; somebody's address is out of reach then, and that is said.
    for (name, cidr, ip, said) in [
        (
            "c",
            "10.1.4.0/24",
            "10.1.3.9",
            "inside the podCIDR 10.1.3.0/24 of Node b",
        ),
        (
            "d",
            "10.1.200.0/24",
            "10.1.201.1",
            "covers the public-ip 10.1.200.3 of Node b",
        ),
        (
            "e",
            "10.1.5.0/24",
            "10.1.1.9",
            "inside this node's podCIDR 10.1.1.0/24",
        ),
    ] {
        table.put(&inside(name, cidr, ip));
        assert!(table.other(net(cidr)).is_some(), "{name}");
        assert!(table.blamed[name].contains(said), "{:?}", table.blamed);
    }
}

/// Two Nodes may change their addresses: whoever comes first has the other's for a moment.
#[test]
fn a_node_with_the_address_that_was_ours_is_known_once_we_have_another() {
    let mut table = table();
    table.put(&node("b", 3, "10.1.3.0/24", 1));
    expect(&table, &[("10.1.2.0/24", 2)]);
    assert!(
        table.blamed["b"].contains("this node's own"),
        "{:?}",
        table.blamed
    );
    let moved = Own {
        public_ip: Ipv4Addr::new(192, 0, 2, 9),
        ..us("10.1.1.0/24")
    };
    assert!(table.set_own(moved).contains(&net("10.1.3.0/24")));
    expect(&table, &[("10.1.2.0/24", 2), ("10.1.3.0/24", 1)]);
}
