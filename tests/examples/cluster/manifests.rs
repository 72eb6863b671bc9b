//! What is applied of flannel and of ours.

use std::path::Path;

use flannel_tests::manifest::deployed;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// As it is shipped.
pub(crate) fn ours() -> String {
    read(&deployed("kube-flannel-ebpf.yaml"))
}

/// As flannel ships it.
pub(crate) fn flannels() -> String {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/kube-flannel.yml"))
}

/// With the bandwidth plugin in the network's configuration, as an operator adds it: neither ships it.
pub(crate) fn with_bandwidth(manifest: &str) -> String {
    let portmap = "\"portMappings\": true\n          }\n        }\n";
    let bandwidth = "\"portMappings\": true\n          }\n        },\n        {\n          \"type\": \"bandwidth\",\n          \
                     \"capabilities\": {\n            \"bandwidth\": true\n          }\n        }\n";
    assert!(manifest.contains(portmap), "no portmap in the manifest");
    manifest.replace(portmap, bandwidth)
}
