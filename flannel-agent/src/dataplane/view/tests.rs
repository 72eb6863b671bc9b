//! Finding what is pinned, with folders for pins; the maps themselves are read in the end-to-end tests.

use bytemuck::Zeroable as _;

use super::*;

fn folders(names: &[&str]) -> tempfile::TempDir {
    let bpffs = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::create_dir_all(bpffs.path().join("flannel").join(name)).unwrap();
    }
    bpffs
}

fn ours(network: &str) -> String {
    format!("{network}/v{LAYOUT_VERSION}/maps")
}

#[test]
fn the_only_network_needs_no_name() {
    let bpffs = folders(&[&ours("coreos_com_network")]);
    let view = View::open(bpffs.path(), None).unwrap();
    assert_eq!(view.network(), "coreos_com_network");
    // By its etcd prefix as well.
    View::open(bpffs.path(), Some("/coreos.com/network")).unwrap();
}

#[test]
fn several_networks_are_listed() {
    let bpffs = folders(&[&ours("a"), &ours("b")]);
    let error = View::open(bpffs.path(), None).unwrap_err().to_string();
    assert!(error.contains("--network one of a, b"), "{error}");
    assert_eq!(View::open(bpffs.path(), Some("b")).unwrap().network(), "b");
    let error = View::open(bpffs.path(), Some("c")).unwrap_err().to_string();
    assert!(
        error.contains("\"c\"") && error.contains("are a, b"),
        "{error}"
    );
}

#[test]
fn an_empty_node_says_so() {
    let bpffs = folders(&[]);
    let error = View::open(bpffs.path(), None).unwrap_err().to_string();
    assert!(error.contains("--bpffs"), "{error}");
}

#[test]
fn another_layout_is_not_misread() {
    let bpffs = folders(&["net/v99999/maps"]);
    let error = View::open(bpffs.path(), None).unwrap_err().to_string();
    assert!(error.contains("v99999"), "{error}");
}

#[test]
fn what_is_not_pinned_is_no_map() {
    let bpffs = folders(&[&ours("net")]);
    let view = View::open(bpffs.path(), None).unwrap();
    assert_eq!(view.facts(PEERS).unwrap(), None);
}

#[test]
fn a_right_that_is_missing_is_named() {
    let denied = io::Error::from_raw_os_error(libc::EPERM);
    let error = error::unreadable_io(Path::new("/sys/fs/bpf/flannel"), denied).to_string();
    assert!(error.contains("/sys/fs/bpf/flannel"), "{error}");
    assert!(error.contains("root"), "{error}");
}

#[test]
fn counters_are_summed_over_cpus() {
    let mut one = Counters::zeroed();
    one.encap = Count {
        packets: 2,
        bytes: 200,
    };
    let mut two = one;
    two.no_peer = Count {
        packets: 1,
        bytes: 60,
    };
    let sums = sum(&[one, two].iter());
    let count = |packets, bytes| Count { packets, bytes };
    let expected = [
        (Reason::Encap, count(4, 400)),
        (Reason::NoPeer, count(1, 60)),
    ];
    assert_eq!(sums, expected.into());
}
