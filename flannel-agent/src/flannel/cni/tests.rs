use serde_json::Value;

use super::*;
use crate::flannel::subnet_env::tests::env;

#[test]
fn says_what_flannels_plugin_says_to_bridge() {
    let network: Value = serde_json::from_str(&conflist(&env(), "cni0")).unwrap();
    assert_eq!(network["name"], "cbr0");
    let bridge = &network["plugins"][0];
    assert_eq!(
        (&bridge["type"], &bridge["bridge"]),
        (&"bridge".into(), &"cni0".into())
    );
    assert_eq!(bridge["mtu"], 1450);
    assert_eq!(bridge["ipMasq"], false);
    assert_eq!(bridge["ipam"]["ranges"][0][0]["subnet"], "10.244.1.0/24");
    assert_eq!(bridge["ipam"]["routes"][0]["dst"], "10.244.0.0/16");
    assert_eq!(network["plugins"][1]["type"], "portmap");
}

#[test]
fn the_bridge_is_the_one_that_was_named() {
    let network: Value = serde_json::from_str(&conflist(&env(), "br-pods")).unwrap();
    assert_eq!(network["plugins"][0]["bridge"], "br-pods");
}

#[test]
fn the_plugin_masquerades_where_flannel_does_not() {
    let env = SubnetEnv {
        ip_masq: false,
        ..env()
    };
    let network: Value = serde_json::from_str(&conflist(&env, "cni0")).unwrap();
    assert_eq!(network["plugins"][0]["ipMasq"], true);
}

#[test]
fn written_once_and_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("net.d");
    assert!(write(&folder, "cni0", &env()).unwrap());
    assert!(!write(&folder, "cni0", &env()).unwrap());
    let smaller = SubnetEnv { mtu: 1400, ..env() };
    assert!(write(&folder, "cni0", &smaller).unwrap());
    let text = std::fs::read_to_string(folder.join("10-flannel.conflist")).unwrap();
    assert_eq!(text, conflist(&smaller, "cni0"));
    // Runtimes read whatever is in the folder.
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    std::fs::remove_file(folder.join("10-flannel.conflist")).unwrap();
    assert!(write(&folder, "cni0", &smaller).unwrap());
}

#[test]
fn only_what_we_wrote_for_this_subnet_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let (network, subnet) = (Some(env().network), Some(env().subnet));
    assert!(!is_ours(folder, "cni0", network, subnet), "there is none");
    write(folder, "cni0", &env()).unwrap();
    assert!(is_ours(folder, "cni0", network, subnet));
    assert!(is_ours(folder, "cni0", None, None), "without a subnet file");
    let other = Some("10.244.2.0/24".parse().unwrap());
    assert!(!is_ours(folder, "cni0", network, other), "another agent's");
    // As flannel's manifest installs it, and ours with somebody's change.
    let flannels = r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"}]}"#;
    let changed = conflist(&env(), "cni0").replace("cni0", "br7");
    for text in [flannels, &changed, "", "{}"] {
        std::fs::write(path(folder), text).unwrap();
        assert!(!is_ours(folder, "cni0", network, subnet), "{text}");
    }
}

#[test]
fn an_unwritable_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = format!("{:#}", write(&file, "cni0", &env()).unwrap_err());
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    assert!(error.contains("--cni-conf-dir"), "{error}");
}
