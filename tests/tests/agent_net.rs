//! The agent's view of links, addresses, routes and offloads, against a real kernel.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use flannel_agent::node::net::{
    Changes, Direction, Features, Kind, Leg, Monitor, Netlink, Outcome, PROTOCOL, RouteChange,
    VethPair, sysctl,
};
use flannel_agent::node::node_sysctls::{Difference, NodeSysctls, Wish, Wishes};
use flannel_tests::netns::Netns;
use flannel_tests::sweep::unique_name;
use flannel_tests::wait::SOON;
use ipnet::Ipv4Net;
use nix::errno::Errno;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn netns() -> Netns {
    Netns::create(&unique_name())
}

fn pair() -> VethPair<'static> {
    VethPair {
        name: "flannel.1",
        mac: MAC,
        mtu: 1450,
        peer_name: "flgro.1",
        peer_mac: PEER_MAC,
        peer_mtu: 65535,
        queues: 2,
    }
}

/// A socket answers `EBUSY` to a dump while another is under way.
#[test]
fn several_may_list_at_once() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        net.create_pair(&pair()).await.unwrap();
        let index = net.link("flannel.1").await.unwrap().unwrap().index;
        for _ in 0..20 {
            let (links, addresses, routes, again) =
                tokio::join!(net.links(), net.addresses(), net.routes(), net.links(),);
            assert_eq!(links.unwrap(), again.unwrap());
            assert!(addresses.unwrap().iter().all(|a| a.ip().is_loopback()));
            assert!(!routes.unwrap().iter().any(|route| route.leads_by(index)));
        }
    });
}

#[test]
fn pair_is_created_complete_found_changed_and_deleted() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        assert_eq!(net.link("flannel.1").await.unwrap(), None);
        assert_eq!(net.create_pair(&pair()).await.unwrap(), Outcome::Done);
        assert_eq!(net.create_pair(&pair()).await.unwrap(), Outcome::Exists);

        let near = net.link("flannel.1").await.unwrap().unwrap();
        let far = net.link("flgro.1").await.unwrap().unwrap();
        assert_eq!(
            (near.kind.clone(), near.mtu, near.mac),
            (Kind::Veth, 1450, Some(MAC))
        );
        assert_eq!(
            (far.kind.clone(), far.mtu, far.mac),
            (Kind::Veth, 65535, Some(PEER_MAC))
        );
        assert_eq!((near.peer, far.peer), (Some(far.index), Some(near.index)));
        assert!(near.noarp && far.noarp && !near.up && !far.up);

        net.set_alias(near.index, "flannel-ebpf:test")
            .await
            .unwrap();
        net.set_mtu(near.index, 1400).await.unwrap();
        net.set_mac(near.index, [2, 0, 0, 0, 0, 3]).await.unwrap();
        for index in [near.index, far.index] {
            net.set_up_noarp(index).await.unwrap();
        }
        let near = net.link_by_index(near.index).await.unwrap().unwrap();
        assert_eq!((near.mtu, near.mac), (1400, Some([2, 0, 0, 0, 0, 3])));
        assert_eq!(near.alias.as_deref(), Some("flannel-ebpf:test"));
        assert!(near.up && near.running && near.noarp);

        assert_eq!(net.delete_link(near.index).await.unwrap(), Outcome::Done);
        assert_eq!(net.delete_link(near.index).await.unwrap(), Outcome::Missing);
        assert_eq!(net.link("flgro.1").await.unwrap(), None);
        assert_eq!(
            net.set_mtu(far.index, 1500).await.unwrap(),
            Outcome::Missing
        );
    });
}

#[test]
fn a_link_that_is_up_can_be_renamed() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        net.create_pair(&pair()).await.unwrap();
        let near = net.link("flannel.1").await.unwrap().unwrap();
        net.set_up_noarp(near.index).await.unwrap();
        assert_eq!(
            net.rename(near.index, "flold.1").await.unwrap(),
            Outcome::Done
        );
        assert_eq!(net.link("flannel.1").await.unwrap(), None);
    });
}

#[test]
fn a_kernel_vxlan_device_is_told_apart() {
    let netns = netns();
    netns.run("ip link add flannel.7 type vxlan id 7 dstport 8472 local 127.0.0.1 nolearning");
    netns.run("ip link add br0 type bridge");
    netns.block_on(async || {
        let net = Netlink::open().unwrap();
        let kind = async |name| net.link(name).await.unwrap().unwrap().kind;
        assert_eq!(
            kind("flannel.7").await,
            Kind::Vxlan {
                vni: Some(7),
                port: Some(8472),
                lower: None,
            }
        );
        assert_eq!(kind("br0").await, Kind::Other("bridge".to_owned()));
        assert_eq!(kind("lo").await, Kind::Plain);
        let lo = net.link("lo").await.unwrap().unwrap();
        assert!(lo.loopback && !lo.ethernet);
    });
}

/// It knows the device that it is bound to, and goes with that.
#[test]
fn a_vxlan_device_in_metadata_mode_goes_with_the_device_below() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        net.create_pair(&pair()).await.unwrap();
        let near = net.link("flannel.1").await.unwrap().unwrap();
        let create = || net.create_metadata_vxlan("flanchor.8472", 8472, near.index);
        assert_eq!(create().await.unwrap(), Outcome::Done);
        assert_eq!(create().await.unwrap(), Outcome::Exists);
        let anchor = net.link("flanchor.8472").await.unwrap().unwrap();
        assert!(!anchor.up);
        let Kind::Vxlan { port, lower, .. } = anchor.kind else {
            panic!("{anchor:?}");
        };
        assert_eq!((port, lower), (Some(8472), Some(near.index)));
        net.set_up_noarp(anchor.index).await.unwrap();
        net.delete_link(near.index).await.unwrap();
        assert_eq!(net.link("flanchor.8472").await.unwrap(), None);
    });
}

#[test]
fn addresses_are_added_listed_and_removed() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        net.create_pair(&pair()).await.unwrap();
        let index = net.link("flannel.1").await.unwrap().unwrap().index;
        let address = "10.244.1.0/32".parse().unwrap();
        assert_eq!(
            net.add_address(index, address).await.unwrap(),
            Outcome::Done
        );
        assert_eq!(
            net.add_address(index, address).await.unwrap(),
            Outcome::Exists
        );
        let found = net.addresses().await.unwrap();
        let found: Vec<_> = found.iter().filter(|a| a.index == index).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].net == address && found[0].global && found[0].permanent);
        assert_eq!(
            net.remove_address(index, address).await.unwrap(),
            Outcome::Done
        );
        assert_eq!(
            net.remove_address(index, address).await.unwrap(),
            Outcome::Missing
        );
    });
}

#[test]
fn our_route_is_added_marked_replaced_and_removed() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        net.create_pair(&pair()).await.unwrap();
        let index = net.link("flannel.1").await.unwrap().unwrap().index;
        let far = net.link("flgro.1").await.unwrap().unwrap().index;
        let sources = [Ipv4Addr::new(10, 244, 1, 0), Ipv4Addr::new(10, 244, 2, 0)];
        for source in sources {
            net.add_address(index, source.into()).await.unwrap();
        }
        net.set_up_noarp(index).await.unwrap();
        net.set_up_noarp(far).await.unwrap();
        let network = "10.244.0.0/16".parse().unwrap();
        let gateway = Ipv4Addr::new(169, 254, 0, 1);
        let leg = |source| Leg {
            index,
            gateway,
            source: Some(source),
            onlink: true,
            mtu: None,
        };
        let change = async |change| net.change_routes(&[change]).await.unwrap();
        let refused = |errno| BTreeMap::from([(0, errno)]);
        let add = |source| RouteChange::Add(network, leg(source));
        assert_eq!(change(add(sources[0])).await, BTreeMap::new());
        assert_eq!(change(add(sources[1])).await, refused(Errno::EEXIST));
        let replace = RouteChange::Replace(network, leg(sources[1]));
        assert_eq!(change(replace).await, BTreeMap::new());

        let ours = net.our_routes().await.unwrap();
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert_eq!(
            (ours[0].destination, ours[0].source),
            (network, Some(sources[1]))
        );
        assert_eq!(
            (ours[0].protocol, ours[0].paths[0].index),
            (PROTOCOL, index)
        );

        let hop = net
            .next_hop(Ipv4Addr::new(10, 244, 9, 9), None)
            .await
            .unwrap();
        assert_eq!(
            (hop.index, hop.source, hop.local),
            (index, Some(sources[1]), false)
        );
        assert_eq!(hop.via, gateway);

        assert_eq!(change(RouteChange::Remove(network)).await, BTreeMap::new());
        assert_eq!(net.our_routes().await.unwrap(), []);
        let gone = change(RouteChange::Remove(network)).await;
        assert_eq!(gone, BTreeMap::new(), "gone is gone");
    });
}

/// More than fit into one message, and among them some that the kernel refuses.
#[test]
fn routes_change_by_the_thousand_and_what_is_refused_is_named() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        net.create_pair(&pair()).await.unwrap();
        let index = net.link("flannel.1").await.unwrap().unwrap().index;
        let far = net.link("flgro.1").await.unwrap().unwrap().index;
        net.set_up_noarp(index).await.unwrap();
        net.set_up_noarp(far).await.unwrap();
        let leg = Leg {
            index,
            gateway: Ipv4Addr::new(169, 254, 0, 1),
            source: None,
            onlink: true,
            mtu: None,
        };
        let unreachable = Leg {
            onlink: false,
            ..leg
        };
        let monitor = Monitor::open().unwrap();
        monitor.pass_over(net.port_of_route_changes());
        let to = |n: u16| {
            let [high, low] = n.to_be_bytes();
            Ipv4Net::new(Ipv4Addr::new(10, high, low, 0), 24).unwrap()
        };
        const ALL: u16 = 5_000;
        let bad = [0, 127, 128, 3_000, ALL - 1];
        let changes: Vec<_> = (0..ALL)
            .map(|n| match bad.contains(&n) {
                true => RouteChange::Add(to(n), unreachable),
                false => RouteChange::Add(to(n), leg),
            })
            .collect();
        let refused = net.change_routes(&changes).await.unwrap();
        let refused: Vec<_> = refused.into_iter().collect();
        let expected = bad.map(|n| (usize::from(n), Errno::ENETUNREACH));
        assert_eq!(refused, expected);
        let made = net.our_routes().await.unwrap().len();
        assert_eq!(made, usize::from(ALL) - bad.len());
        let remove: Vec<_> = (0..ALL).map(|n| RouteChange::Remove(to(n))).collect();
        assert_eq!(net.change_routes(&remove).await.unwrap(), BTreeMap::new());
        assert_eq!(net.our_routes().await.unwrap(), []);
        // All of it was announced, and is no news to whoever did it.
        net.add_address(index, "10.244.1.0/32".parse().unwrap())
            .await
            .unwrap();
        let told = tokio::time::timeout(SOON, monitor.changed()).await.unwrap();
        assert!(told.addresses && !told.own_routes && !told.lost, "{told:?}");
    });
}

#[test]
fn next_hops_are_gateways_neighbours_or_this_node() {
    let netns = netns();
    netns.run("ip link add eth0 type veth peer name other");
    netns.run("ip addr add 192.168.0.2/24 dev eth0");
    netns.run("ip link set eth0 up");
    netns.run("ip link set other up");
    netns.run("ip route add default via 192.168.0.1");
    netns.block_on(async || {
        let net = Netlink::open().unwrap();
        let ip = |last| Ipv4Addr::new(192, 168, 0, last);
        let far = Ipv4Addr::new(203, 0, 113, 9);
        let far = net.next_hop(far, None).await.unwrap();
        assert_eq!(far.via, ip(1), "by the gateway");
        let near = net.next_hop(ip(7), None).await.unwrap();
        assert_eq!(near.via, ip(7), "on-link");
        let own = net.next_hop(ip(2), None).await.unwrap();
        assert!(own.local && !far.local);

        let default = &net.routes().await.unwrap()[0];
        assert_eq!(default.destination.prefix_len(), 0);
        assert_eq!(default.paths[0].gateway, Some(ip(1)));
        assert!(!default.paths[0].dead);
    });
}

#[test]
fn a_destination_without_route_is_an_error_that_names_it() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        let error = net.next_hop(Ipv4Addr::new(203, 0, 113, 9), None).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("203.0.113.9") && error.contains("ENETUNREACH"),
            "{error}"
        );
    });
}

#[test]
fn offloads_are_switched_and_read_back() {
    let netns = netns();
    netns.run("ip link add flannel.1 type veth peer name flgro.1");
    netns.enter(|| {
        let wanted: BTreeMap<_, _> = [
            ("rx-gro", true),
            ("tx-tcp-segmentation", false),
            ("tx-tcp6-segmentation", false),
            ("an-offload-of-tomorrow", false),
        ]
        .map(|(name, on)| (name.to_owned(), on))
        .into();
        assert_eq!(
            Features::read("flannel.1").unwrap().missing(&wanted).len(),
            3
        );
        Features::set("flannel.1", &wanted).unwrap();
        let after = Features::read("flannel.1").unwrap();
        assert_eq!(after.missing(&wanted), BTreeMap::new());
        assert_eq!(after.is_on("rx-gro"), Some(true));
        Features::set("flannel.1", &wanted).unwrap();
    });
    let said = netns.run("ethtool -k flannel.1");
    assert!(said.contains("generic-receive-offload: on"), "{said}");
    assert!(said.contains("tx-tcp-segmentation: off"), "{said}");
}

#[test]
fn sysctls_are_those_of_the_threads_namespace() {
    let netns = netns();
    netns.run("ip link add flgro.1 type veth peer name flannel.1");
    netns.enter(|| {
        let key = "net/ipv6/conf/flgro.1/disable_ipv6";
        let changed = sysctl::set(key, "1").unwrap().expect("it was 0");
        assert_eq!((changed.old.as_str(), changed.new.as_str()), ("0", "1"));
        assert_eq!(sysctl::set(key, "1").unwrap(), None, "nothing to change");
        assert_eq!(sysctl::read(key).unwrap().as_deref(), Some("1"));
        sysctl::local_port_range().unwrap();
    });
}

#[test]
fn a_hook_without_qdisc_has_no_filters() {
    let netns = netns();
    netns.run("ip link add eth0 type veth peer name other");
    netns.block_on(async || {
        let net = Netlink::open().unwrap();
        let eth0 = net.link("eth0").await.unwrap().unwrap().index;
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(net.filters(eth0, direction).await.unwrap(), []);
        }
        assert_eq!(net.filters(9999, Direction::Ingress).await.unwrap(), []);
    });
}

#[test]
fn the_monitor_tells_links_addresses_and_routes_apart() {
    netns().block_on(async || {
        let net = Netlink::open().unwrap();
        let monitor = Monitor::open().unwrap();
        // Announcements of one request may come in several packets: gather until the last is there.
        let until = async |what: &str, wanted: fn(&Changes) -> bool| {
            let gather = async {
                loop {
                    let changes = monitor.changed().await;
                    assert!(!changes.lost);
                    if wanted(&changes) {
                        return;
                    }
                }
            };
            let told = tokio::time::timeout(SOON, gather).await;
            told.unwrap_or_else(|_| panic!("nothing was announced of {what}"));
        };
        net.create_pair(&pair()).await.unwrap();
        until("links", |c| c.links).await;
        let index = net.link("flannel.1").await.unwrap().unwrap().index;
        net.add_address(index, "10.244.1.0/32".parse().unwrap())
            .await
            .unwrap();
        until("addresses", |c| c.addresses).await;
        net.set_up_noarp(index).await.unwrap();
        let leg = Leg {
            index,
            gateway: Ipv4Addr::new(169, 254, 0, 1),
            source: None,
            onlink: true,
            mtu: None,
        };
        let add = RouteChange::Add("10.244.2.0/24".parse().unwrap(), leg);
        assert_eq!(net.change_routes(&[add]).await.unwrap(), BTreeMap::new());
        until("our own routes", |c| c.own_routes).await;
        let foreign = ["route", "add", "10.99.0.0/16", "dev", "flannel.1"];
        flannel_tests::netns::run(std::process::Command::new("ip").args(foreign));
        until("other routes", |c| c.routes).await;
        assert!(monitor.is_alive());
    });
}

/// Two agents of one folder and one network name, as in two containers with networks of their own.
#[test]
fn each_network_namespace_remembers_its_own_sysctls() {
    let folder = tempfile::tempdir().unwrap();
    let sysctls = NodeSysctls::new(folder.path(), "net");
    let key = "net/ipv4/ip_forward";
    let wish = |value: &str| Wish::Value(value.to_owned());
    let [one, two] = [netns(), netns()];
    one.enter(|| sysctl::set(key, "0").unwrap());
    two.enter(|| sysctl::set(key, "1").unwrap());
    one.enter(|| sysctls.claim(key, &wish("1")).unwrap());
    two.enter(|| {
        assert_eq!(
            sysctls.difference(&Wishes::new()).unwrap(),
            Difference::default(),
            "the other's wish is not ours"
        );
        sysctls.claim(key, &wish("0")).unwrap();
    });
    // Each has what it remembers, and a lock.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    let given_back = |netns: &Netns| {
        netns.enter(|| {
            assert!(sysctls.release(key).unwrap());
            sysctl::read(key).unwrap().unwrap()
        })
    };
    assert_eq!(given_back(&one), "0");
    assert_eq!(given_back(&two), "1");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
