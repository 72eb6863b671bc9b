//! Each call as an old client makes it.

use flannel_agent::flannel::remote::{Event, Lease, Networks, Watched};

use crate::support::{CONFIG, Net, attrs, attrs_json, public_ip};

#[tokio::test]
async fn the_configuration_is_as_it_was_written() {
    let net = Net::new().await;
    let server = net.server().await;
    assert_eq!(server.get("/v1/_/config").await, (200, CONFIG.to_owned()));
    let blue = r#"{"Network":"10.9.0.0/16","Backend":{"Type":"udp","Port":7890}}"#;
    net.put("blue/config", blue).await;
    assert_eq!(server.get("/v1/blue/config").await, (200, blue.to_owned()));
}

#[tokio::test]
async fn an_unknown_network_is_named() {
    let net = Net::new().await;
    let server = net.server().await;
    for (method, target, body) in [
        ("GET", "/v1/green/config", String::new()),
        ("GET", "/v1/green/leases", String::new()),
        ("GET", "/v1/green/reservations", String::new()),
        ("POST", "/v1/green/leases/", attrs_json(1)),
    ] {
        let (status, text) = server.call(method, target, &body).await;
        assert_eq!(status, 400, "{method} {target}: {text}");
        let key = "etcd has no key /coreos.com/network/green/config\n";
        assert!(text.ends_with(key), "{method} {target}: {text}");
    }
}

#[tokio::test]
async fn a_lease_is_given_renewed_and_ended() {
    let net = Net::new().await;
    let server = net.server().await;
    let (status, given) = server.call("POST", "/v1/_/leases", &attrs_json(1)).await;
    assert_eq!(status, 200, "{given}");
    let lease = Lease::from_json(given.as_bytes()).unwrap();
    let (subnet, key) = (lease.subnet, format!("{}-24", lease.subnet.network()));
    assert!(net.config.admits(subnet));
    assert!(given.starts_with(&format!(
        r#"{{"Subnet":"{subnet}","Attrs":{},"Expiration":"20"#,
        attrs_json(1)
    )));
    let written = net.leases().await;
    assert_eq!(written[&key], (attrs(1).to_json().unwrap(), true));

    // The same node gets the same again, also with a slash at the end.
    let (_, again) = server.call("POST", "/v1/_/leases/", &attrs_json(1)).await;
    assert_eq!(Lease::from_json(again.as_bytes()).unwrap().subnet, subnet);

    let path = format!("/v1/_/leases/{key}");
    let (status, renewed) = server.call("PUT", &path, &given).await;
    assert_eq!(status, 200, "{renewed}");
    assert_eq!(Lease::from_json(renewed.as_bytes()).unwrap().subnet, subnet);

    assert_eq!(server.call("DELETE", &path, "").await.0, 200);
    assert!(net.leases().await.is_empty());
    assert_eq!(server.call("DELETE", &path, "").await.0, 400);
}

#[tokio::test]
async fn a_lease_that_is_gone_is_written_again_and_a_foreign_one_is_not() {
    let net = Net::new().await;
    let server = net.server().await;
    let lease = |n: u8| {
        let attrs = attrs_json(n);
        format!(r#"{{"Subnet":"10.3.7.0/24","Attrs":{attrs},"Expiration":"2016-02-04T10:11:12Z"}}"#)
    };
    let path = "/v1/_/leases/10.3.7.0-24";
    assert_eq!(server.call("PUT", path, &lease(1)).await.0, 200);
    let (status, text) = server.call("PUT", path, &lease(2)).await;
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("192.0.2.1"), "{text}");
    // A node whose address has changed says which one it had.
    let changed = format!("{path}?was=192.0.2.1");
    assert_eq!(server.call("PUT", &changed, &lease(2)).await.0, 200);
    assert!(net.leases().await["10.3.7.0-24"].0.contains("192.0.2.2"));
    // What overlaps another's, what the network would not lease, and what is not what the path says.
    net.put("subnets/10.3.8.0-23", &attrs(9).to_json().unwrap())
        .await;
    for (path, expected) in [
        ("/v1/_/leases/10.3.9.0-24", 409),
        ("/v1/_/leases/10.4.9.0-24", 409),
        ("/v1/_/leases/10.3.3.0-24", 400),
    ] {
        let mut lease = lease(3);
        if expected == 409 {
            let subnet = path.rsplit('/').next().unwrap().replace("-24", "/24");
            lease = lease.replace("10.3.7.0/24", &subnet);
        }
        let (status, text) = server.call("PUT", path, &lease).await;
        assert_eq!(status, expected, "{path}: {text}");
    }
}

#[tokio::test]
async fn changes_are_told_from_a_cursor_on() {
    let net = Net::new().await;
    net.put_lease(2, 2).await;
    let server = net.server().await;
    let (_, text) = server.get("/v1/_/leases").await;
    let expected = format!(
        r#"{{"events":null,"snapshot":[{{"Subnet":"10.3.2.0/24","Attrs":{},"Expiration":"0001-01-01T00:00:00Z"}}],"cursor":""#,
        attrs_json(2)
    );
    assert!(text.starts_with(&expected), "{text}");
    let snapshot = Watched::from_json(text.as_bytes()).unwrap();

    let next = format!("/v1/_/leases?next={}", snapshot.cursor);
    let (waited, ()) = tokio::join!(server.get(&next), net.put_lease(3, 3));
    let news = Watched::from_json(waited.1.as_bytes()).unwrap();
    let [Event::Added(added)] = &news.events[..] else {
        panic!("{waited:?}");
    };
    assert_eq!(added.subnet.to_string(), "10.3.3.0/24");
    assert_eq!(added.attrs.as_ref().unwrap().public_ip, public_ip(3));

    net.delete("subnets/10.3.2.0-24").await;
    let next = format!("/v1/_/leases?next={}", news.cursor);
    let (_, text) = server.get(&next).await;
    assert!(
        text.trim_start()
            .starts_with(r#"{"events":[{"type":"removed","lease":{"Subnet":"10.3.2.0/24","#),
        "{text}"
    );
}

#[tokio::test]
async fn a_cursor_out_of_range_gets_a_snapshot() {
    let net = Net::new().await;
    net.put_lease(2, 2).await;
    let server = net.server().await;
    for cursor in ["1", "999999", "x"] {
        let (status, text) = server.get(&format!("/v1/_/leases?next={cursor}")).await;
        let watched = Watched::from_json(text.as_bytes()).unwrap();
        assert_eq!(status, 200);
        assert_eq!(
            (watched.events.len(), watched.snapshot.len()),
            (0, 1),
            "{cursor}"
        );
    }
}

#[tokio::test]
async fn a_lease_that_expires_is_told_as_removed() {
    let net = Net::new().await;
    net.put_lease_for(2, 2, 2).await;
    let server = net.server().await;
    let snapshot = server.snapshot().await;
    assert!(snapshot.snapshot[0].expires.is_some());
    let (_, text) = server
        .get(&format!("/v1/_/leases?next={}", snapshot.cursor))
        .await;
    let news = Watched::from_json(text.as_bytes()).unwrap();
    assert!(
        matches!(news.events[..], [Event::Removed(subnet)] if subnet.to_string() == "10.3.2.0/24")
    );
}

#[tokio::test]
async fn one_lease_is_watched_alone_with_its_renewals() {
    let net = Net::new().await;
    let server = net.server().await;
    let path = "/v1/_/leases/10.3.2.0-24";
    let (status, text) = server.get(path).await;
    assert_eq!(
        (status, &*text),
        (400, "there is no lease of 10.3.2.0/24\n")
    );
    // With a cursor from before the server's time flannel 0.7's client takes the first event of an answer without leases.
    let (status, text) = server.get(&format!("{path}?next=1")).await;
    let removed = r#"{"type":"removed","lease":{"Subnet":"10.3.2.0/24","Attrs":{"PublicIP":"0.0.0.0"},"Expiration":"0001-01-01T00:00:00Z"}}"#;
    assert_eq!(status, 200, "{text}");
    let begins = format!(r#"{{"events":[{removed}],"snapshot":null,"#);
    assert!(text.contains(&begins), "{text}");
    net.put_lease_for(2, 2, 3600).await;
    net.put_lease(3, 3).await;
    // Until the server has heard of it.
    let cursor = crate::support::eventually("the lease is told", || async {
        let (status, text) = server.get(path).await;
        let watched = (status == 200).then(|| Watched::from_json(text.as_bytes()).unwrap())?;
        assert_eq!(watched.snapshot.len(), 1);
        Some(watched.cursor)
    })
    .await;
    let next = format!("{path}?next={cursor}");
    let (waited, ()) = tokio::join!(server.get(&next), async {
        net.put_lease(4, 4).await;
        net.put_lease_for(2, 2, 3600).await;
    });
    let news = Watched::from_json(waited.1.as_bytes()).unwrap();
    assert!(
        matches!(&news.events[..], [Event::Added(lease)] if lease.subnet.to_string() == "10.3.2.0/24")
    );
}

#[tokio::test]
async fn networks_come_and_go() {
    let net = Net::new().await;
    net.put("blue/config", CONFIG).await;
    net.put("blue/subnets/10.3.2.0-24", "{}").await;
    let server = net.server().await;
    let (_, text) = server.get("/v1/").await;
    assert!(
        text.starts_with(r#"{"events":null,"snapshot":["blue"],"cursor":""#),
        "{text}"
    );
    let all = Networks::from_json(text.as_bytes()).unwrap();
    net.put("red/config", CONFIG).await;
    let (_, text) = server.get(&format!("/v1/?next={}", all.cursor)).await;
    assert!(
        text.trim_start()
            .starts_with(r#"{"events":[{"type":"added","network":"red"}]"#),
        "{text}"
    );
    let news = Networks::from_json(text.as_bytes()).unwrap();
    net.delete("blue/config").await;
    let (_, text) = server.get(&format!("/v1/?next={}", news.cursor)).await;
    assert!(
        text.trim_start()
            .starts_with(r#"{"events":[{"type":"removed","network":"blue"}]"#),
        "{text}"
    );
}

#[tokio::test]
async fn a_reservation_keeps_a_subnet_for_a_node() {
    let net = Net::new().await;
    let server = net.server().await;
    let wanted = r#"{"Subnet":"10.3.7.0/24","PublicIP":"192.0.2.7"}"#;
    let path = "/v1/_/reservations";
    assert_eq!(server.call("POST", path, wanted).await.0, 200);
    assert_eq!(server.get(path).await, (200, format!("[{wanted}]")));
    // Another node's it cannot be, nor what is outside.
    for (other, expected) in [
        (r#"{"Subnet":"10.3.7.0/24","PublicIP":"192.0.2.8"}"#, 409),
        (r#"{"Subnet":"10.4.7.0/24","PublicIP":"192.0.2.8"}"#, 409),
        (r#"{"Subnet":"10.3.8.0/24"}"#, 400),
    ] {
        let (status, text) = server.call("POST", path, other).await;
        assert_eq!(status, expected, "{text}");
    }
    let (_, given) = server.call("POST", "/v1/_/leases/", &attrs_json(7)).await;
    let lease = Lease::from_json(given.as_bytes()).unwrap();
    assert_eq!(lease.subnet.to_string(), "10.3.7.0/24");
    assert!(!net.leases().await["10.3.7.0-24"].1, "it ends");
    let (_, renewed) = server.call("PUT", "/v1/_/leases/10.3.7.0-24", &given).await;
    assert!(renewed.contains("10.3.7.0/24"), "{renewed}");
    assert!(
        !net.leases().await["10.3.7.0-24"].1,
        "it ends after a renewal"
    );
    let one = "/v1/_/reservations/10.3.7.0-24";
    assert_eq!(server.call("DELETE", one, "").await.0, 200);
    let (value, ends) = net.leases().await["10.3.7.0-24"].clone();
    assert_eq!((value, ends), (attrs(7).to_json().unwrap(), true));
    assert_eq!(server.call("DELETE", one, "").await.0, 400);
    assert_eq!(server.get(path).await.1, "[]");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_one_line() {
    let net = Net::new().await;
    let server = net.server().await;
    for (method, target, body, expected, part) in [
        ("POST", "/v1/_/leases/", "", 400, "not JSON"),
        ("POST", "/v1/_/leases/", "{}", 400, "PublicIP is 0.0.0.0"),
        (
            "POST",
            "/v1/_/leases/",
            r#"{"PublicIP":"x"}"#,
            400,
            "PublicIP is \"x\"",
        ),
        ("PUT", "/v1/_/leases/10.3.7.0-24", "[]", 400, "is []"),
        ("PUT", "/v1/_/leases/10.3.7.0", "{}", 400, "no subnet"),
        ("PATCH", "/v1/_/leases", "", 405, "PATCH"),
        ("GET", "/v2/keys", "", 404, "/v2/keys"),
        ("GET", "/v1/a%2fb/config", "", 400, "no name of a network"),
    ] {
        let (status, text) = server.call(method, target, body).await;
        assert_eq!(status, expected, "{method} {target}: {text}");
        assert!(text.contains(part), "{method} {target}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_body_of_ten_megabytes_is_too_large() {
    let net = Net::new().await;
    let server = net.server().await;
    let body = " ".repeat(10 << 20);
    let (status, text) = server.call("POST", "/v1/_/leases/", &body).await;
    assert_eq!(status, 413, "{text}");
    // Nor does it matter to others.
    assert_eq!(server.get("/v1/_/config").await.0, 200);
}

#[tokio::test]
async fn an_etcd_that_is_away_is_an_error_of_the_server() {
    let mut net = Net::new().await;
    let server = net.server().await;
    net.etcd.kill();
    let (status, text) = server.get("/v1/_/config").await;
    assert_eq!(status, 500, "{text}");
    assert!(text.contains("no etcd endpoint answers"), "{text}");
}
