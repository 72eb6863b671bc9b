//! `cargo xtask bench virtio`: what a byte costs between two cards with rings, in a virtual machine.
//!
//! The machine has one processor whose clock counts instructions (`-icount`): time is instructions, and idle time is left out.

#![cfg(test)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use flannel_tests::netns::run;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::tcp;
use flannel_tests::ways::vxlan;
use flannel_tests::with_daemon::start;

/// The cards, in qemu's words (`xtask/src/kernels/machine.rs`).
const MACS: [&str; 2] = ["52:54:00:f1:00:01", "52:54:00:f1:00:02"];
const CARD: &str = "up0";

/// Bytes of one sample, and of the connection before it counts.
const STREAM: usize = 64 << 20;
const WARM_UP: usize = 8 << 20;
const CHUNK: usize = 128 << 10;
/// Samples; they differ little where time is instructions.
const SAMPLES: usize = 3;

/// A column of the table: its name, whose dataplane it is, and the flags of ours.
const MODES: [(&str, Kind, &[&str]); 4] = [
    ("kernel", Kind::Flanneld, &[]),
    ("default", Kind::Ours, &[]),
    ("xdp", Kind::Ours, &["--xdp=on"]),
    ("anchor", Kind::Ours, &["--gro=anchor"]),
];

#[test]
#[ignore = "a measurement, by instructions: cargo xtask bench virtio"]
fn between_two_cards() {
    run(Command::new("modprobe").arg("virtio_net"));
    {
        let lab = Lab::new();
        let nodes = nodes(&lab);
        measure("bare", &nodes[0], &nodes[1], address(2));
    }
    for (name, kind, flags) in MODES {
        let lab = Lab::new();
        let net = lab.network(vxlan());
        let [one, two] = nodes(&lab).map(|node| {
            let flags = [&["--iface=up0", "--ip-masq"], flags].concat();
            start(kind, node, &net, &flags)
        });
        let pair = Pair::of(lab, net, one, two);
        if flags.contains(&"--xdp=on") {
            let link = pair.one.exec(&format!("ip link show {CARD}"));
            assert!(link.contains(" xdp "), "not in the driver: {link}");
        }
        if flags.contains(&"--gro=anchor") {
            // Nothing merges before it is up.
            for member in [&pair.one, &pair.two] {
                eventually("the anchor is up", Duration::from_secs(60), || {
                    let link = member.try_exec("ip link show up type vxlan");
                    String::from_utf8_lossy(&link.stdout).contains("flanchor")
                });
            }
        }
        measure(name, &pair.pod1, &pair.pod2, pair.pod2.address());
    }
}

const fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, n)
}

/// Two nodes with a card each, which one cable joins.
fn nodes(lab: &Lab) -> [Node; 2] {
    let nodes = ["one", "two"].map(|name| lab.node(name));
    for (n, (node, mac)) in (1..).zip(nodes.iter().zip(MACS)) {
        let card = card(mac);
        let to = node.netns().name();
        run(Command::new("ip").args(["link", "set", &card, "name", CARD, "netns", to]));
        node.ip_batch(&[
            format!("addr add {}/24 dev {CARD}", address(n)),
            format!("link set {CARD} up"),
        ]);
        node.sysctl(&format!("net.ipv4.conf.{CARD}.rp_filter"), 0);
    }
    nodes
}

/// The card's name. It comes back once the node that had it is gone, which takes the kernel a moment.
fn card(mac: &str) -> String {
    let find = || {
        let cards = fs::read_dir("/sys/class/net").expect("/sys/class/net");
        cards.filter_map(Result::ok).find_map(|entry| {
            let own = fs::read_to_string(entry.path().join("address")).ok()?;
            (own.trim() == mac).then(|| entry.file_name().to_string_lossy().into_owned())
        })
    };
    eventually(
        format!("the card {mac} is here"),
        Duration::from_secs(60),
        || find().is_some(),
    );
    find().expect("a card")
}

/// Prints what one byte costs, in nanoseconds: `xtask` reads these lines.
///
/// Of a request most of the time is idle, whose account is too coarse for the rest of it.
fn measure(mode: &str, client: &impl Host, server: &impl Host, to: Ipv4Addr) {
    for _ in 0..SAMPLES {
        let (all, busy) = stream(client, server, to);
        print(mode, all, busy);
    }
}

fn print(mode: &str, all: Duration, busy: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let per_byte = |time: Duration| time.as_secs_f64() * 1e9 / STREAM as f64;
    println!(
        "\n@@ sample {mode} stream {:.4} {:.4}",
        per_byte(busy),
        per_byte(all)
    );
}

/// Time of [`STREAM`] bytes from the first to the last, and without idling.
fn stream(client: &impl Host, server: &impl Host, to: Ipv4Addr) -> (Duration, Duration) {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let listener = server
        .netns()
        .enter(|| TcpListener::bind(any))
        .expect("listen");
    let port = listener.local_addr().expect("bound").port();
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = vec![0; CHUNK];
        let mut read = |bytes: usize| {
            let mut got = 0;
            while got < bytes {
                let n = uninterrupted(|| stream.read(&mut buffer)).expect("receive");
                assert!(n > 0, "the stream ended early");
                got += n;
            }
        };
        read(WARM_UP);
        let clock = Clock::start();
        read(STREAM);
        clock.stop()
    });
    let mut stream =
        tcp::connect(client, SocketAddrV4::new(to, port)).unwrap_or_else(|e| panic!("{to}: {e}"));
    let chunk = vec![0x5a; CHUNK];
    for _ in 0..(WARM_UP + STREAM) / CHUNK + 2 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    reader.join().expect("the reader")
}

struct Clock {
    since: Instant,
    idle: Duration,
}

impl Clock {
    fn start() -> Self {
        Self {
            since: Instant::now(),
            idle: idle(),
        }
    }

    /// All time, and the time without idling.
    fn stop(self) -> (Duration, Duration) {
        let all = self.since.elapsed();
        let idled = idle().saturating_sub(self.idle);
        (all, all.saturating_sub(idled))
    }
}

/// The processor's idle time so far, to 10 ms: the fourth number of `/proc/stat`, in hundredths of a second.
fn idle() -> Duration {
    let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let idle = text.split_whitespace().nth(4).expect("the idle time");
    Duration::from_millis(10 * idle.parse::<u64>().expect("a number"))
}
