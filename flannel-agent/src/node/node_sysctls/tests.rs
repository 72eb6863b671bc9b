use proptest::prelude::*;
use rstest::rstest;

use super::ledger::Ledger;
use super::*;

fn own_file() -> String {
    file(namespace().unwrap())
}

const KEY: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";

fn value(text: &str) -> Wish {
    Wish::Value(text.to_owned())
}

fn ports(text: &str) -> Wish {
    Wish::Ports(text.parse().unwrap())
}

/// A sysctl and its ledger.
struct Kernel {
    ledger: Ledger,
    key: &'static str,
    value: String,
}

impl Kernel {
    fn new(key: &'static str, value: &str) -> Self {
        Self {
            ledger: Ledger::new("boot".to_owned()),
            key,
            value: value.to_owned(),
        }
    }

    fn claim(&mut self, network: &str, wish: &Wish) -> &str {
        self.value = self.ledger.claim(self.key, network, wish, &self.value);
        assert!(self.ledger.holds(self.key, network, wish, &self.value));
        &self.value
    }

    fn release(&mut self, network: &str) -> &str {
        if let Some(value) = self.ledger.release(self.key, network, &self.value) {
            self.value = value;
        }
        &self.value
    }
}

#[test]
fn the_last_one_out_puts_the_value_back() {
    let mut kernel = Kernel::new(KEY, "0");
    assert_eq!(kernel.claim("red", &value("1")), "1");
    assert_eq!(kernel.claim("blue", &value("1")), "1");
    // A new start enters the same wish again.
    assert_eq!(kernel.claim("red", &value("1")), "1");
    assert_eq!(kernel.release("red"), "1", "blue still wants it");
    assert_eq!(kernel.release("red"), "1", "twice is once");
    assert_eq!(kernel.release("blue"), "0");
    assert!(kernel.ledger.is_empty());
}

#[test]
fn a_network_s_wishes_become_another_s() {
    let mut kernel = Kernel::new(KEY, "0");
    kernel.claim("red", &value("1"));
    assert!(kernel.ledger.inherit("red", "blue"));
    assert!(!kernel.ledger.inherit("red", "blue"), "once");
    assert_eq!(kernel.release("red"), "1", "it has none any more");
    assert_eq!(kernel.release("blue"), "0");

    let mut kernel = Kernel::new(RESERVED_PORTS, "");
    kernel.claim("red", &ports("1000-1099"));
    kernel.claim("blue", &ports("2000-2099"));
    assert!(
        !kernel.ledger.inherit("red", "blue"),
        "it has one of its own"
    );
    assert_eq!(kernel.release("red"), "2000-2099");
    assert_eq!(kernel.release("blue"), "");
}

#[test]
fn a_value_that_was_so_before_stays() {
    let mut kernel = Kernel::new(KEY, "1");
    kernel.claim("red", &value("1"));
    assert_eq!(kernel.release("red"), "1");
}

#[test]
fn what_somebody_set_since_is_not_overwritten_at_the_end() {
    let mut kernel = Kernel::new(KEY, "0");
    kernel.claim("red", &value("1"));
    kernel.value = "2".to_owned();
    assert_eq!(kernel.release("red"), "2");
}

#[test]
fn what_somebody_set_meanwhile_is_what_goes_back() {
    let mut kernel = Kernel::new(KEY, "0");
    kernel.claim("red", &value("1"));
    kernel.value = "2".to_owned();
    assert!(!kernel.ledger.holds(KEY, "red", &value("1"), "2"));
    assert_eq!(kernel.claim("red", &value("1")), "1");
    assert_eq!(kernel.release("red"), "2");
}

#[test]
fn what_it_would_be_without_us_is_known() {
    let mut kernel = Kernel::new(KEY, "300");
    let without = |kernel: &Kernel| kernel.ledger.without_ours(KEY, &kernel.value);
    assert_eq!(without(&kernel), "300", "nobody has a wish");
    kernel.claim("red", &value("432000"));
    kernel.claim("blue", &value("432000"));
    assert_eq!(without(&kernel), "300");
    kernel.claim("red", &value("86400"));
    assert_eq!(without(&kernel), "300", "the wish changed");
    kernel.value = "60".to_owned();
    assert_eq!(without(&kernel), "60", "somebody set it since");
    kernel.claim("red", &value("86400"));
    assert_eq!(without(&kernel), "60");
}

#[test]
fn ports_are_merged_and_only_ours_taken_out() {
    let mut kernel = Kernel::new(RESERVED_PORTS, "8080,50000-50010");
    let ours = ports("49152-65535");
    assert_eq!(kernel.claim("red", &ours), "8080,49152-65535");
    // Somebody adds one more; those that were there before us stay.
    kernel.value = "8080,9000,49152-65535".to_owned();
    assert_eq!(kernel.release("red"), "8080,9000,50000-50010");
    assert!(kernel.ledger.is_empty());
}

#[test]
fn two_networks_with_overlapping_ports() {
    let mut kernel = Kernel::new(RESERVED_PORTS, "");
    kernel.claim("red", &ports("50000-50999"));
    assert_eq!(kernel.claim("blue", &ports("50500-51499")), "50000-51499");
    assert_eq!(kernel.release("red"), "50500-51499");
    assert_eq!(kernel.release("blue"), "");
}

#[test]
fn another_range_at_the_next_start_gives_the_old_one_back() {
    let mut kernel = Kernel::new(RESERVED_PORTS, "53");
    kernel.claim("red", &ports("50000-50999"));
    assert_eq!(kernel.claim("red", &ports("60000-60009")), "53,60000-60009");
    assert_eq!(kernel.release("red"), "53");
}

#[test]
fn who_has_reserved_what() {
    let mut kernel = Kernel::new(RESERVED_PORTS, "53,50500");
    let seen = |kernel: &Kernel, network| {
        let reserved = kernel.ledger.reserved(KEY, network, "7");
        assert_eq!(
            reserved.by_others.to_string(),
            "7",
            "nothing is known of it"
        );
        let reserved = kernel
            .ledger
            .reserved(RESERVED_PORTS, network, &kernel.value);
        let Reserved {
            held,
            by_networks,
            by_others,
        } = reserved;
        [held, by_networks, by_others].map(|ports| ports.to_string())
    };
    assert_eq!(seen(&kernel, "red"), ["", "", "53,50500"]);
    kernel.claim("red", &ports("50000-50999"));
    kernel.claim("blue", &ports("40000-40009"));
    kernel.value.push_str(",9000");
    let others = "53,9000,40000-40009,50500";
    assert_eq!(seen(&kernel, "red"), ["50000-50999", "40000-40009", others]);
    assert_eq!(
        seen(&kernel, "green")[1..],
        ["40000-40009,50000-50999", "53,9000,40000-40009,50000-50999"]
    );
}

#[test]
fn a_file_of_an_earlier_boot_says_nothing() {
    let mut kernel = Kernel::new(KEY, "0");
    kernel.claim("red", &value("1"));
    let text = kernel.ledger.text();
    let same = Ledger::parse(&text, "boot".to_owned()).unwrap();
    assert_eq!(same, kernel.ledger);
    assert!(Ledger::parse(&text, "later".to_owned()).unwrap().is_empty());
}

#[rstest]
#[case("", "")]
#[case("8080\n", "8080")]
#[case("3-5,4,6,0,65535", "0,3-6,65535")]
fn ports_read_and_print(#[case] text: &str, #[case] printed: &str) {
    assert_eq!(text.parse::<PortSet>().unwrap().to_string(), printed);
}

#[rstest]
#[case("http")]
#[case("5-3")]
#[case("65536")]
fn what_is_no_ports_is_named(#[case] text: &str) {
    let error = text.parse::<PortSet>().unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

/// `/proc` of a test is the machine's: what is read here is never written.
#[test]
fn what_the_kernel_lacks_is_not_missed_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let sysctls = NodeSysctls::new(&folder.path().join("run"), "red");
    let wishes = Wishes::from([("net/no/such/sysctl".to_owned(), value("1"))]);
    assert_eq!(sysctls.difference(&wishes).unwrap(), Difference::default());
    sysctls.claim("net/no/such/sysctl", &value("1")).unwrap();
    assert!(!sysctls.release("net/no/such/sysctl").unwrap());
    assert!(!folder.path().join("run").join(own_file()).exists());
}

#[test]
fn whose_ports_they_are_is_remembered_when_the_file_is_removed() {
    let ports = |text: &str| text.parse::<PortSet>().unwrap();
    let before = Reserved {
        held: ports("200-299"),
        by_others: ports("7,100-199"),
        by_networks: ports("100-199"),
    };
    let forgotten = |current: &str| Ledger::default().reserved(RESERVED_PORTS, "red", current);
    assert_eq!(forgotten("7,100-299").or_still(&before), before);
    // One that has entered its ports again is known from there.
    let now = Reserved {
        by_networks: ports("100-199"),
        ..forgotten("7,100-299")
    };
    assert_eq!(now.or_still(&before), before);
    // Nobody reserves them any more: they were given back.
    assert_eq!(forgotten("7").or_still(&before), forgotten("7"));
    let other = Reserved {
        held: ports("300-399"),
        ..Reserved::default()
    };
    assert_eq!(other.clone().or_still(&before), other);
}

#[test]
fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let sysctls = NodeSysctls::new(folder.path(), "red");
    for text in [&b"{"[..], b"\xff"] {
        std::fs::write(folder.path().join(own_file()), text).unwrap();
        let error = sysctls.difference(&Wishes::new()).unwrap_err().to_string();
        assert!(
            error.contains(&own_file()) && error.contains("delete it"),
            "{error}"
        );
    }
}

fn range() -> impl Strategy<Value = String> {
    (0_u16..100, 0_u16..20).prop_map(|(low, len)| format!("{low}-{}", low + len))
}

proptest! {
    /// Whatever comes and goes in whatever order: when all are gone, the list is what it was.
    #[test]
    fn ports_come_back(before in range(), steps in prop::collection::vec((0_usize..3, prop::option::of(range())), 0..20)) {
        let before = before.parse::<PortSet>().unwrap().to_string();
        let mut kernel = Kernel::new(RESERVED_PORTS, &before);
        let networks = ["red", "green", "blue"];
        for (network, wish) in steps {
            match wish {
                Some(range) => { kernel.claim(networks[network], &ports(&range)); }
                None => { kernel.release(networks[network]); }
            }
        }
        for network in networks {
            kernel.release(network);
        }
        prop_assert_eq!(&kernel.value, &before);
        prop_assert!(kernel.ledger.is_empty());
    }

    #[test]
    fn ports_survive_text(a in range(), b in range()) {
        let set = a.parse::<PortSet>().unwrap().union(&b.parse().unwrap());
        prop_assert_eq!(set.to_string().parse::<PortSet>().unwrap(), set);
    }
}

/// A daemon's networks are no strangers to each other, and none is told to end the others.
#[test]
fn networks_of_one_process_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let [red, blue] = ["red", "blue"].map(|name| NodeSysctls::new(folder.path(), name));
    let held = red.lock().unwrap();
    let other = std::thread::spawn(move || blue.lock().map(drop));
    std::thread::sleep(lock::PATIENCE + lock::PATIENCE / 8);
    drop(held);
    other.join().unwrap().unwrap();
}
