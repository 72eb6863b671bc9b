//! As flannel 0.7 wrote it, and what nobody should have written.

use super::*;

/// As flannel 0.7 wrote it; the one that is removed has no attributes.
const EVENTS: &str = r#"{"events":[{"type":"added","lease":{"Subnet":"10.3.1.0/24","Attrs":{"PublicIP":"1.1.1.1"},"Expiration":"2016-02-04T10:11:12.5Z"}},{"type":"removed","lease":{"Subnet":"10.3.2.0/24","Attrs":{"PublicIP":"0.0.0.0"},"Expiration":"0001-01-01T00:00:00Z"}}],"snapshot":null,"cursor":"12"}"#;
const SNAPSHOT: &str = r#"{"events":null,"snapshot":[{"Subnet":"10.3.1.0/24","Attrs":{"PublicIP":"1.1.1.1"},"Expiration":"2016-02-04T10:11:12Z"}],"cursor":"7"}"#;

#[test]
fn events_as_the_old_server_wrote_them() {
    let watched = Watched::from_json(EVENTS.as_bytes()).unwrap();
    assert_eq!(watched.cursor, "12");
    assert!(watched.snapshot.is_empty());
    let [Event::Added(added), Event::Removed(removed)] = &watched.events[..] else {
        panic!("{watched:?}");
    };
    assert_eq!(added.subnet.to_string(), "10.3.1.0/24");
    assert!(added.attrs.is_ok());
    assert_eq!(removed.to_string(), "10.3.2.0/24");
}

#[test]
fn a_snapshot_as_the_old_server_wrote_it() {
    let watched = Watched::from_json(SNAPSHOT.as_bytes()).unwrap();
    assert!(watched.events.is_empty());
    assert_eq!((watched.snapshot.len(), &*watched.cursor), (1, "7"));
    let empty = r#"{"events":[],"snapshot":[],"cursor":"7"}"#;
    assert!(
        Watched::from_json(empty.as_bytes())
            .unwrap()
            .snapshot
            .is_empty()
    );
}

#[test]
fn what_we_write_is_the_same_to_the_byte() {
    let lease = &SNAPSHOT[SNAPSHOT.find("[{").unwrap() + 1..SNAPSHOT.find("],").unwrap()];
    assert_eq!(snapshot([lease], 7), SNAPSHOT);
    let start = r#"{"events":["#.len();
    let two = &EVENTS[start..EVENTS.find("],").unwrap()];
    let (one, other) = two.split_once("},{\"type").unwrap();
    let (one, other) = (format!("{one}}}"), format!("{{\"type{other}"));
    assert_eq!(events([&*one, &*other], 12), EVENTS);
    assert_eq!(
        snapshot([], 1),
        r#"{"events":null,"snapshot":[],"cursor":"1"}"#
    );
}

#[test]
fn blanks_in_front_are_no_part_of_it() {
    assert!(Watched::from_json(format!("   {SNAPSHOT}\n").as_bytes()).is_ok());
}

/// An old server tells a lease as it was written, and Go reads ten thousand levels.
#[test]
fn a_lease_of_which_nobody_can_see_the_bottom_takes_no_other_along() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let attrs = format!(r#"{{"PublicIP":"1.1.1.1","BackendData":{deep}}}"#);
    let deep = format!(r#"{{"Subnet":"10.3.2.0/24","Attrs":{attrs}}}"#);
    let well = r#"{"Subnet":"10.3.1.0/24","Attrs":{"PublicIP":"1.1.1.1"}}"#;
    let told = snapshot([&*deep, well], 7);
    let watched = Watched::from_json(told.as_bytes()).unwrap();
    let readable = |lease: &Lease| (lease.subnet.to_string(), lease.attrs.is_ok());
    let expected = [
        ("10.3.2.0/24".to_owned(), false),
        ("10.3.1.0/24".to_owned(), true),
    ];
    let all: Vec<_> = watched.snapshot.iter().map(readable).collect();
    assert_eq!(all, expected);
    let told = [("added", &*deep), ("added", well), ("removed", &*deep)]
        .map(|(kind, lease)| format!(r#"{{"type":"{kind}","lease":{lease}}}"#));
    let told = events(told.iter().map(|it| &**it), 7);
    let watched = Watched::from_json(told.as_bytes()).unwrap();
    let [Event::Added(one), Event::Added(other), Event::Removed(gone)] = &watched.events[..] else {
        panic!("{watched:?}");
    };
    assert_eq!([readable(one), readable(other)], expected);
    assert_eq!(*gone, one.subnet);
}

#[test]
fn a_lease_without_a_subnet_takes_no_other_along() {
    let without = r#"{"Attrs":{"PublicIP":"1.1.1.2"}}"#;
    let well = r#"{"Subnet":"10.3.1.0/24","Attrs":{"PublicIP":"1.1.1.1"}}"#;
    let read = |json: String| Watched::from_json(json.as_bytes()).unwrap();
    let all = read(snapshot([without, well], 7));
    assert!(all.of_all && all.snapshot.len() == 1);
    assert!(
        all.unread[0].contains("1.1.1.2") && all.unread[0].contains("Subnet is missing"),
        "{:?}",
        all.unread
    );
    let told = |leases: &[(&str, &str)]| {
        let events_of = leases
            .iter()
            .map(|(kind, lease)| format!(r#"{{"type":"{kind}","lease":{lease}}}"#));
        let told: Vec<_> = events_of.collect();
        read(events(told.iter().map(|it| &**it), 7))
    };
    let some = told(&[("added", without), ("removed", well), ("removed", "{}")]);
    assert!(!some.of_all);
    assert_eq!((some.events.len(), some.unread.len()), (1, 2));
    // Taken for all there is, it would end everybody's leases.
    let none = told(&[("added", without)]);
    assert!(none.events.is_empty() && !none.of_all);
}

#[test]
fn networks_come_and_go() {
    let json = r#"{"events":[{"type":"added","network":"blue"},{"type":"removed","network":"red"}],"snapshot":null,"cursor":"3"}"#;
    let networks = Networks::from_json(json.as_bytes()).unwrap();
    let expected = [
        NetworkEvent::Added("blue".to_owned()),
        NetworkEvent::Removed("red".to_owned()),
    ];
    assert_eq!(networks.events, expected);
    let json = r#"{"events":[],"snapshot":["blue"],"cursor":"3"}"#;
    assert_eq!(
        Networks::from_json(json.as_bytes()).unwrap().snapshot,
        ["blue"]
    );
}

#[test]
fn an_answer_that_says_nothing_is_refused() {
    for json in [
        "",
        "7",
        r#"{"events":[]}"#,
        r#"{"events":[{"type":"added"}],"cursor":"1"}"#,
        r#"{"events":[{"type":"moved","lease":{"Subnet":"10.3.2.0/24"}}],"cursor":"1"}"#,
        r#"{"snapshot":[{}],"cursor":"1"}"#,
    ] {
        assert!(Watched::from_json(json.as_bytes()).is_err(), "{json}");
    }
}
