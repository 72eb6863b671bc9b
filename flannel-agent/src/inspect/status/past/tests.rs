use super::*;
use crate::node::direct::OWN;

const NOW: u64 = 100_000 * NANOS;

fn page() -> Page {
    let at = |ago: u64, actions: &[&str]| logbook::Reconcile {
        at: NOW - ago * NANOS,
        took_ms: 4,
        causes: vec!["the look every 30 s".to_owned()],
        actions: actions.len(),
        done: actions.iter().map(|a| (*a).to_owned()).collect(),
    };
    Page {
        lease: Some(logbook::Lease {
            source: "etcd".to_owned(),
            as_of: None,
            subnet: "10.244.3.0/24".parse().unwrap(),
            backend: Some("vxlan".to_owned()),
            ends: Some(NOW + 7_260 * NANOS),
            renewal: Some(NOW + 3_660 * NANOS),
        }),
        last: Some(at(12, &[])),
        last_change: Some(at(90_000, &["attach x", "bump"])),
        ..Page::default()
    }
}

fn findings(page: Page, runs: bool) -> Vec<String> {
    let mut said = Vec::new();
    Past::at(page, NOW).judge(runs, &mut |what, _| said.push(what));
    said
}

#[test]
fn lease_and_reconciles_are_told_in_words() {
    let lines = Past::at(page(), NOW).lines();
    let [lease, last, change] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert!(lease[1].starts_with("10.244.3.0/24, expires in 2 h 1 min ("));
    assert!(lease[1].ends_with("), renewal in 1 h 1 min"), "{lease:?}");
    assert_eq!(
        last[1],
        "12 s ago in 4 ms, for the look every 30 s: nothing to do"
    );
    assert!(change[1].starts_with("1 d 1 h ago"), "{change:?}");
    assert!(change[1].ends_with(": 2 actions: attach x …"), "{change:?}");
    assert_eq!(findings(page(), true), <[&str; 0]>::default());
}

#[test]
fn what_an_operator_has_to_put_right_is_told_while_the_agent_runs() {
    let page = || Page {
        complaint: Some("FORWARD drops".to_owned()),
        ..page()
    };
    assert_eq!(findings(page(), true), ["FORWARD drops"]);
    assert_eq!(findings(page(), false), <[&str; 0]>::default());
}

#[test]
fn leases_that_are_ignored_are_named_whoever_runs() {
    let ignored = |leases: u8, more| {
        let net = |n| Ipv4Net::new_assert([10, 244, n, 0].into(), 24);
        let leases = (0..leases).map(|n| (net(n), "no MAC".to_owned()));
        let ignored = logbook::Ignored {
            leases: leases.collect(),
            more,
        };
        Page { ignored, ..page() }
    };
    for runs in [true, false] {
        let said = findings(ignored(1, 0), runs);
        let what =
            "the lease of 10.244.0.0/24 is ignored, and its pods are not reached from here: no MAC";
        assert_eq!(said, [what]);
        let said = findings(ignored(7, 3), runs);
        assert_eq!((said.len(), &*said[5]), (6, "5 more leases are ignored"));
    }
}

#[test]
fn the_lease_that_a_node_had_before_is_shown_and_no_trouble() {
    let mut page = page();
    let subnet = Ipv4Net::new_assert([10, 244, 9, 0].into(), 24);
    let why = format!("PublicIP 192.0.2.1 {OWN}");
    page.ignored.leases = [(subnet, why)].into();
    let is_shown = |page: &Page| {
        let lines = Past::at(page.clone(), NOW).lines();
        let mut formers = lines.iter().filter(|[label, _]| label == "Former");
        formers.any(|[_, text]| text.starts_with("10.244.9.0/24"))
    };
    assert_eq!(findings(page.clone(), true), <[&str; 0]>::default());
    assert!(is_shown(&page));
    // There it is another Node's.
    page.lease.as_mut().unwrap().source = "kubernetes".to_owned();
    assert_eq!(findings(page.clone(), true).len(), 1);
    assert!(!is_shown(&page));
}

#[test]
fn a_node_without_a_place_in_the_cluster_is_said_to_be() {
    let mut page = page();
    page.misplaced = Some("Node one is gone".to_owned());
    page.lease.as_mut().unwrap().source = "kubernetes".to_owned();
    page.lease.as_mut().unwrap().ends = None;
    let lease = &Past::at(page.clone(), NOW).lines()[0][1];
    let kept = "10.244.3.0/24, this Node's podCIDR in Kubernetes; kept, although Node one is gone";
    assert_eq!(lease, kept);
    assert_eq!(findings(page.clone(), true), ["Node one is gone"]);
    assert_eq!(findings(page, false), <[&str; 0]>::default());
}

#[test]
fn what_is_late_or_fails_needs_attention() {
    let mut late = page();
    late.lease.as_mut().unwrap().renewal = Some(NOW - 601 * NANOS);
    assert!(findings(late.clone(), true)[0].contains("should have been renewed"));
    late.lease.as_mut().unwrap().ends = Some(NOW - NANOS);
    assert!(findings(late, true)[0].contains("has expired"));

    let mut stuck = page();
    stuck.last.as_mut().unwrap().at = NOW - 200 * NANOS;
    assert!(findings(stuck.clone(), true)[0].contains("3 min 20 s ago"));
    assert_eq!(findings(stuck, false), <[&str; 0]>::default());

    let mut failing = page();
    failing.failing = Some(logbook::Failure {
        since: NOW - 60 * NANOS,
        error: "no".to_owned(),
    });
    assert!(findings(failing.clone(), true)[0].contains("for 1 min 0 s"));
    let ended = &findings(failing, false)[0];
    assert!(ended.starts_with("the last agent") && ended.contains("1 min 0 s ago: no"));
}

#[test]
fn what_rests_on_an_earlier_answer_is_said_to() {
    let as_of = |as_of: Option<u64>| {
        let mut page = page();
        page.lease.as_mut().unwrap().as_of = as_of;
        page
    };
    let today = Moment::now().unix().as_secs();
    let old = as_of(Some(today - 2 * 86_400));
    let lines = Past::at(old.clone(), NOW).lines();
    assert!(
        lines[0][1].contains("; as the datastore said 2 d 0 h ago ("),
        "{lines:?}"
    );
    assert!(findings(old.clone(), true)[0].contains("has not answered since the agent's start"));
    assert_eq!(findings(old, false), <[&str; 0]>::default());
    let ahead = as_of(Some(today + 86_400));
    assert!(findings(ahead, true)[0].contains("has not reached"));
    assert_eq!(findings(as_of(None), true), <[&str; 0]>::default());
}

#[test]
fn a_silent_datastore_is_named_while_the_agent_waits_and_while_it_runs() {
    let silent = |since: u64, starting: Option<u64>, what: &str| {
        let ago = |seconds: u64| NOW - seconds * NANOS;
        let mut page = page();
        page.starting = starting.map(ago);
        page.last.as_mut().unwrap().at = ago(300);
        page.silences = vec![logbook::Silence {
            what: what.to_owned(),
            since: ago(since),
            error: "no etcd endpoint answers".to_owned(),
        }];
        if starting.is_none() {
            page.last.as_mut().unwrap().at = ago(12);
        }
        findings(page, true)
    };
    let waits = silent(100, Some(120), "waiting for the network configuration");
    assert_eq!(
        waits,
        [
            "the agent started 2 min 0 s ago and waits for the datastore (waiting for the network configuration): no etcd \
             endpoint answers"
        ]
    );
    let runs = silent(124, None, "following leases");
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert!(
        runs[0].starts_with("following leases has not worked for 2 min 4 s"),
        "{runs:?}"
    );
    for quiet in [
        silent(30, None, "following leases"),
        silent(124, None, "keeping our lease"),
    ] {
        assert_eq!(quiet, <[&str; 0]>::default());
    }
    let mut begun = page();
    begun.starting = Some(NOW - 3 * NANOS);
    assert_eq!(findings(begun.clone(), true), <[&str; 0]>::default());
    begun.starting = Some(NOW - 20 * NANOS);
    assert!(findings(begun.clone(), true)[0].contains("20 s ago and waits"));
    assert_eq!(findings(begun, false), <[&str; 0]>::default());
}

#[test]
fn a_reservation_is_said_to_be_one() {
    let mut page = page();
    page.lease.as_mut().unwrap().ends = None;
    page.lease.as_mut().unwrap().renewal = None;
    let lines = Past::at(page.clone(), NOW).lines();
    assert!(lines[0][1].contains("never expires"), "{lines:?}");
    page.lease.as_mut().unwrap().source = "kubernetes".to_owned();
    let lines = Past::at(page.clone(), NOW).lines();
    assert!(lines[0][1].contains("podCIDR"), "{lines:?}");
    assert_eq!(findings(page, true), <[&str; 0]>::default());
}
