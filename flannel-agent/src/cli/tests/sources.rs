//! The config file, and what shows or describes the settings.

use rstest::rstest;

use super::{config, read_with};
use crate::cli::layers::{self, Origin};
use crate::cli::show::{self, Output};
use crate::cli::{Task, command};

fn config_file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

#[test]
fn a_config_file_is_the_third_source() {
    let (_folder, path) = config_file(
        r#"
        etcd-endpoints = ["http://a:1", "http://b:2"]
        etcd-prefix = "/file"
        iface = ["eth1", "eth0"]
        iface-regex = "^en"
        healthz-port = 8081
        subnet-file = "/file.env"
        ip-masq = true
        "#,
    );
    let env = [
        ("FLANNELD_CONFIG", path.as_str()),
        ("FLANNELD_SUBNET_FILE", "/env.env"),
        ("FLANNELD_ETCD_PREFIX", "/env"),
    ];
    let read = read_with(&["-etcd-prefix=/typed"], &env).unwrap();
    let flags = &read.cli.flags;
    assert_eq!(flags.etcd_endpoints, "http://a:1,http://b:2");
    assert_eq!(flags.iface, ["eth1", "eth0"]);
    assert_eq!(flags.iface_regex, ["^en"]);
    assert_eq!(flags.healthz_port, 8081);
    assert!(flags.ip_masq);
    assert_eq!(flags.subnet_file, "/env.env");
    assert_eq!(flags.etcd_prefix, "/typed");
    assert_eq!(read.origins["iface"], Origin::File(path.into()));
    assert_eq!(read.origins["etcd-prefix"], Origin::CommandLine);
    assert_eq!(read.origins["bpffs"], Origin::Default);
}

#[test]
fn the_command_line_names_another_file() {
    let (_one, one) = config_file("etcd-prefix = '/one'");
    let (_two, two) = config_file("etcd-prefix = '/two'");
    let read = read_with(&["-config", &two], &[("FLANNELD_CONFIG", &one)]).unwrap();
    assert_eq!(read.cli.flags.etcd_prefix, "/two");
}

#[rstest]
#[case::typo("etcd-endpoint = 'x'", &["\"etcd-endpoint\"", "\"etcd-endpoints\""])]
#[case::unknown("zzz = 'x'", &["\"zzz\"", "--help"])]
#[case::list_for_one("etcd-prefix = ['/a', '/b']", &["etcd-prefix", "a text, a number or a boolean"])]
#[case::table("[iface]\nname = 'x'", &["iface", "or a list of them"])]
#[case::not_toml("etcd-prefix /a", &["not TOML", "line 1"])]
#[case::value("healthz-port = 70000", &["70000", "--healthz-port", "config file"])]
#[case::version("version = true", &["\"version\""])]
#[case::nested("config = '/x'", &["\"config\""])]
fn a_bad_config_file_is_explained(#[case] text: &str, #[case] parts: &[&str]) {
    let (_folder, path) = config_file(text);
    let error = read_with(&["--config", &path], &[]).unwrap_err();
    for part in parts.iter().chain(&[path.as_str()]) {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_missing_config_file_is_an_error() {
    let error = read_with(&["--config=/nowhere/agent.toml"], &[]).unwrap_err();
    assert!(error.contains("/nowhere/agent.toml"), "{error}");
    assert!(error.contains("--config"), "{error}");
}

fn shown(argv: &[&str], env: &[(&str, &str)], output: Output) -> String {
    let read = read_with(&[&["config", "show"], argv].concat(), env).unwrap();
    show::show(layers::innermost(&read.matches), &read.origins, output)
}

#[test]
fn config_show_says_where_each_value_comes_from() {
    let (_folder, path) = config_file("iface = ['eth0']\nhealthz-port = 1");
    let argv = ["--config", &path, "-ip-masq", "--etcd-username=root"];
    let env = [("FLANNELD_ETCD_PASSWORD", "hunter2")];
    let text = shown(&argv, &env, Output::Toml);
    for (setting, origin) in [
        ("iface = [\"eth0\"]", format!("config file {path}")),
        ("healthz-port = 1", format!("config file {path}")),
        ("ip-masq = true", "command line".to_owned()),
        (
            "etcd-prefix = \"/coreos.com/network\"",
            "default".to_owned(),
        ),
        (
            "etcd-password = \"***\"",
            "environment variable FLANNELD_ETCD_PASSWORD".to_owned(),
        ),
    ] {
        let line = text.lines().find(|line| line.starts_with(setting));
        let line = line.unwrap_or_else(|| panic!("{setting} in\n{text}"));
        assert!(line.ends_with(&format!("  # {origin}")), "{line}");
    }
    let json: serde_json::Value = serde_json::from_str(&shown(&argv, &env, Output::Json)).unwrap();
    assert_eq!(json["iface"]["value"], serde_json::json!(["eth0"]));
    assert_eq!(
        json["v"],
        serde_json::json!({ "value": 0, "origin": "default" })
    );
    for secret in [&text, &json.to_string()] {
        assert!(!secret.contains("hunter2"), "{secret}");
    }
}

#[test]
fn what_config_show_prints_is_a_config_file() {
    let argv = [
        "-iface=eth0",
        "-iface=eth1",
        "-ip-masq",
        "-v=3",
        "--iface-regex=^a\\d\"$",
    ];
    let text = shown(&argv, &[], Output::Toml);
    let (_folder, path) = config_file(&text);
    let read = read_with(&["--config", &path], &[]).unwrap();
    assert_eq!(format!("{:?}", read.cli.flags.iface), r#"["eth0", "eth1"]"#);
    assert_eq!(read.cli.flags.iface_regex, ["^a\\d\"$"]);
    assert!(read.cli.flags.ip_masq);
    assert_eq!(read.cli.flags.v, 3);
    for (name, origin) in &read.origins {
        if !["version", "config"].contains(&name.as_str()) {
            assert!(matches!(origin, Origin::File(_)), "{name}: {origin}");
        }
    }
}

#[rstest]
#[case(clap_complete::Shell::Bash)]
#[case(clap_complete::Shell::Zsh)]
#[case(clap_complete::Shell::Fish)]
fn completions_know_the_flags(#[case] shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "flannel-agent", &mut script);
    let script = String::from_utf8(script).unwrap();
    for word in ["etcd-endpoints", "iface-regex", "completions"] {
        assert!(script.contains(word), "{word}");
    }
}

#[test]
fn the_manual_page_has_flags_and_exit_status() {
    let mut page = Vec::new();
    clap_mangen::Man::new(command())
        .section("8")
        .render(&mut page)
        .unwrap();
    let page = String::from_utf8(page).unwrap();
    for word in ["etcd\\-endpoints", "Exit status", "FLANNELD_ETCD_PREFIX"] {
        assert!(page.contains(word), "{word}");
    }
}

#[rstest]
fn commands_that_look_take_the_agents_flags(
    #[values(
        &["status"],
        &["peers"],
        &["routes"],
        &["flows"],
        &["nat"],
        &["maps"],
        &["trace", "10.244.1.2", "10.244.2.2"],
        &["monitor"],
        &["capture"],
        &["stats"],
    )]
    command: &[&str],
) {
    let (_folder, file) = config_file("etcd-prefix = '/file'\nxdp = 'auto'");
    let config = format!("--config={file}");
    let unit = [
        "-etcd-endpoints=http://192.0.2.1:2379",
        "--etcd-password",
        "secret",
        "--iface",
        "eth0",
        "-ip-masq",
        "--bpffs=/bpf",
        "--kubeconfig-file=",
        &config,
        "-v=6",
    ];
    let typed = [command, &unit].concat();
    let prefix = |argv: &[&str], env: &[(&str, &str)]| {
        let read = read_with(argv, env).unwrap();
        let Some(Task::Inspect(inspect)) = read.cli.task else {
            panic!("{argv:?} is another command");
        };
        let look = inspect.look().clone();
        (look.bpffs, look.etcd_prefix)
    };
    let known = |bpffs: &str, prefix: &str| (bpffs.into(), Some(prefix.to_owned()));
    assert_eq!(prefix(&typed, &[]), known("/bpf", "/file"));
    let env = [("FLANNELD_ETCD_PREFIX", "/env")];
    assert_eq!(prefix(&typed, &env), known("/bpf", "/env"));
    assert_eq!(prefix(command, &env), known("/sys/fs/bpf", "/env"));
    let argv = [&typed[..], &["--etcd-prefix=/typed"]].concat();
    assert_eq!(prefix(&argv, &env), known("/bpf", "/typed"));
    assert_eq!(prefix(command, &[]), ("/sys/fs/bpf".into(), None));

    let help = read_with(&[command, &["--help"]].concat(), &[]).unwrap_err();
    assert!(!help.contains("--etcd-endpoints"), "{help}");
    let typo = read_with(&[command, &["--etcd-endpoint=x"]].concat(), &[]).unwrap_err();
    assert!(typo.contains("--etcd-endpoints"), "{typo}");
}

#[test]
fn several_networks_are_named_or_watched() {
    let one = config(&["--subnet-dir=/x"]).unwrap();
    assert_eq!(one.networks, None);
    let several = config(&["--networks=blue, green,", "--pod-bridge=br-{network}"]).unwrap();
    let networks = several.networks.as_ref().unwrap();
    assert_eq!(networks.names, ["blue", "green"]);
    assert!(networks.allow("blue") && !networks.allow("red") && !networks.watch);
    let green = several.of_network(networks, "green").unwrap();
    assert_eq!(green.etcd.prefix, "/coreos.com/network/green");
    let file = std::path::Path::new("/run/flannel/networks/green.env");
    assert_eq!(green.subnet_file, file);
    assert_eq!(green.fast_path.bridge, "br-green");
    let error = several.of_network(networks, "much-too-long").unwrap_err();
    assert!(error.to_string().contains("br-much-too-long"), "{error}");
    let served = config(&["--networks=blue", "--remote=10.0.0.3:8888"]).unwrap();
    let blue = served.of_network(served.networks.as_ref().unwrap(), "blue");
    let remote = blue.unwrap().remote.unwrap();
    assert_eq!(remote.network.as_deref(), Some("blue"));
    let watched = config(&["--watch-networks"]).unwrap().networks.unwrap();
    assert!(watched.watch && watched.allow("red"));
}

#[rstest]
#[case(&["--networks=blue", "--kube-subnet-mgr"], "--networks=blue: a Kubernetes cluster is one network")]
#[case(&["--watch-networks", "--listen=:8888"], "--watch-networks=true: a server (--listen) has all networks")]
#[case(&["--watch-networks", "--kube-subnet-mgr"], "--watch-networks=true: a Kubernetes cluster")]
#[case(&["--networks=blue", "--cni-conf-dir=/etc/cni/net.d"], "writes one CNI network")]
#[case(&["--networks=a.b,a_b"], "a.b and a_b are one name")]
#[case(&["--networks=a/b"], "no name of a network")]
#[case(&["--networks=blue", "--subnet-dir=x"], "--subnet-dir=x: not an absolute path")]
fn several_networks_that_cannot_be(#[case] argv: &[&str], #[case] expected: &str) {
    let error = config(argv).unwrap_err();
    assert!(
        error.contains(expected),
        "{error:?} does not say {expected:?}"
    );
}
