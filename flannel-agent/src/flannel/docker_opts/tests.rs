use rstest::rstest;

use super::*;

const SAMPLE: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";

#[derive(Debug, clap::Parser)]
struct Typed {
    #[command(flatten)]
    opts: DockerOpts,
}

fn opts(typed: &[&str]) -> DockerOpts {
    let argv = ["mk-docker-opts"].iter().chain(typed);
    <Typed as clap::Parser>::try_parse_from(argv).unwrap().opts
}

fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn made(typed: &[&str], variables: &[(&str, &str)]) -> String {
    docker_env(&opts(typed), SAMPLE, &env(variables)).unwrap()
}

const INDIVIDUAL: &str = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=true\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n";
const COMBINED: &str = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";

#[rstest]
#[case::default(&[])]
#[case::both_asked_for(&["-i", "-c"])]
#[case::in_one_word(&["-ic"])]
fn dk1_both_kinds(#[case] typed: &[&str]) {
    assert_eq!(made(typed, &[]), format!("{INDIVIDUAL}{COMBINED}"));
}

#[test]
fn dk1_individual_only() {
    assert_eq!(made(&["-i"], &[]), INDIVIDUAL);
}

#[test]
fn dk1_combined_only() {
    assert_eq!(made(&["-c"], &[]), COMBINED);
}

#[test]
fn dk1_another_key() {
    let expected = COMBINED.replace("DOCKER_OPTS", "CUSTOM_KEY");
    assert_eq!(
        made(&["-k", "CUSTOM_KEY"], &[]),
        format!("{INDIVIDUAL}{expected}")
    );
}

#[test]
fn dk1_without_ip_masq() {
    assert_eq!(
        made(&["-m"], &[]),
        "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\nDOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n"
    );
}

#[test]
fn dk1_docker_does_not_masquerade_what_flannel_does() {
    let text = docker_env(&opts(&["-c"]), "FLANNEL_IPMASQ=true\n", &env(&[])).unwrap();
    assert_eq!(text, "DOCKER_OPTS=\" --ip-masq=false\"\n");
}

#[test]
fn dk1_no_subnet_file_is_no_option() {
    let text = docker_env(&opts(&[]), "", &env(&[])).unwrap();
    assert_eq!(text, "DOCKER_OPTS=\"\"\n");
}

#[test]
fn dk1_options_of_the_environment_are_kept() {
    let variables = [
        ("DOCKER_OPTS", "--debug"),
        ("DOCKER_OPT_ICC", "--icc=false"),
        ("DOCKER_OPT_MTU", "--mtu=9000"),
    ];
    assert_eq!(
        made(&["-c"], &variables),
        "DOCKER_OPTS=\"--debug  --bip=10.1.74.1/24 --icc=false --ip-masq=true --mtu=1472\"\n"
    );
}

#[test]
fn dk1_a_damaged_ipmasq_is_named() {
    let wrong = docker_env(&opts(&[]), "FLANNEL_IPMASQ=maybe\n", &env(&[]));
    let error = format!("{:#}", wrong.unwrap_err());
    assert!(error.contains("FLANNEL_IPMASQ=maybe"), "{error}");
    assert!(docker_env(&opts(&["-m"]), "FLANNEL_IPMASQ=maybe\n", &env(&[])).is_ok());
}

#[test]
fn dk1_files_are_read_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("subnet.env"), SAMPLE).unwrap();
    std::fs::write(path("docker.env"), "old\n".repeat(99)).unwrap();
    let opts = opts(&["-c", "-f", &path("subnet.env"), "-d", &path("docker.env")]);
    make(&opts, &env(&[])).unwrap();
    assert_eq!(
        std::fs::read_to_string(path("docker.env")).unwrap(),
        COMBINED
    );
}

#[test]
fn dk1_errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing/docker.env");
    let opts = opts(&["-f", "/nonexistent", "-d", path.to_str().unwrap()]);
    let error = format!("{:#}", make(&opts, &env(&[])).unwrap_err());
    assert!(error.contains("missing/docker.env"), "{error}");
}

/// As a little-endian machine prints it.
#[cfg(target_endian = "little")]
const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t004A010A\t020200C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
cni0\t004B010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

#[cfg(target_endian = "little")]
#[rstest]
#[case::by_way_of_a_gateway("10.1.74.0/24", Some("192.0.2.2"))]
#[case::on_link("10.1.75.0/24", None)]
#[case::only_the_default_route("10.1.76.0/24", None)]
#[case::another_length("10.1.74.0/25", None)]
fn dk1_a_foreign_route_is_found(#[case] subnet: &str, #[case] gateway: Option<&str>) {
    let gateway = gateway.map(|g| g.parse().unwrap());
    assert_eq!(routes::gateway(ROUTES, subnet.parse().unwrap()), gateway);
}
