//! The outer packet on the wire, compared field by field with what a peer with real flanneld sends.

use std::net::SocketAddrV4;

use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp;
use flannel_tests::vxlan_frame::Frame;

#[test]
fn outer_headers_equal_those_of_the_kernels_vxlan() {
    let pair = Pair::new(Mix::OursAndFlanneld);
    let capture = Capture::start(pair.one.node(), Node::UPLINK, "udp port 8472");
    let server = udp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    server.exchange(&pair.pod1, to, 300);
    // ECT(0): the outer header must carry it, too.
    let marked = format!("ping -n -c 1 -W 15 -Q 0x02 {}", to.ip());
    pair.pod1.exec(&marked);

    let frames: Vec<Frame> = capture.packets(4).iter().map(|f| Frame::new(f)).collect();
    let from = |member: &dyn Member| {
        let address = member.node().address();
        frames.iter().filter(move |f| f.source() == address)
    };
    let ours: Vec<&Frame> = from(&pair.one).collect();
    let kernels: Vec<&Frame> = from(&pair.two).collect();
    assert_eq!(ours.len(), kernels.len());
    for (ours, kernels) in ours.iter().zip(&kernels) {
        assert_eq!(ours.inner.len(), kernels.inner.len());
        assert_eq!(ours.comparable_ip(), kernels.comparable_ip());
        assert_eq!(ours.udp[2..6], kernels.udp[2..6], "port and length");
        assert_eq!(ours.vxlan, kernels.vxlan);
        // Each sends to the MAC that the other sends from.
        assert_eq!(ours.inner_eth[..6], kernels.inner_eth[6..12]);
        assert_eq!(ours.inner_eth[6..12], kernels.inner_eth[..6]);
        assert_eq!(ours.inner_eth[12..], kernels.inner_eth[12..]);
        assert!((32_768..61_000).contains(&ours.source_port()));
    }
}

#[test]
fn the_source_port_is_constant_within_a_flow_and_spreads_flows() {
    let pair = Pair::new(Mix::OursAndFlanneld);
    let filter = format!("udp port 8472 and src host {}", pair.one.node().address());
    let capture = Capture::start(pair.one.node(), Node::UPLINK, &filter);
    let server = udp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    for _ in 0..16 {
        server.exchange(&pair.pod1, to, 100);
    }
    let ping = 8;
    pair.pod1.ping(*to.ip()).count(ping).succeeds();
    let ping = usize::try_from(ping).expect("fits");
    let frames = capture.packets(16 + ping);
    let mut ports: Vec<u16> = frames.iter().map(|f| Frame::new(f).source_port()).collect();
    let mut of_ping = ports.split_off(16);
    of_ping.dedup();
    assert_eq!(of_ping.len(), 1, "one flow, one port");
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() > 8, "16 flows share {} ports", ports.len());
}
