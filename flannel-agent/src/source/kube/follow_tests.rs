//! Against a played API server: what a real one of today does not do, or not when it is asked to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::client::Client;
use super::super::names::Names;
use super::super::{Identity, KubeSource};
use super::*;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::LeaseAttrs;

/// What the server does with one request.
enum Play {
    /// Status and body, and that is all.
    Answer(u16, String),
    /// A watch: these lines, and then nothing more, without an end.
    Watch(Vec<String>),
    /// The same, but with an end.
    Ended(Vec<String>),
}

#[derive(Clone, Default)]
struct Stage {
    /// A word of the query, and what the next request that has it gets.
    plays: Arc<Mutex<VecDeque<(&'static str, Play)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Stays open until the client goes.
fn open(lines: Vec<String>) -> Response {
    let lines = lines
        .into_iter()
        .map(|line| Ok::<_, Infallible>(line + "\n"));
    Body::from_stream(stream::iter(lines).chain(stream::pending())).into_response()
}

async fn play(State(stage): State<Stage>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    stage.asked.lock().unwrap().push(query.clone());
    let next = {
        let mut plays = stage.plays.lock().unwrap();
        match plays.front() {
            Some((word, _)) if query.contains(word) => plays.pop_front(),
            _ => None,
        }
    };
    match next {
        Some((_, Play::Answer(code, body))) => {
            (StatusCode::from_u16(code).unwrap(), body).into_response()
        }
        Some((_, Play::Watch(lines))) => open(lines),
        Some((_, Play::Ended(lines))) => (lines.join("\n") + "\n").into_response(),
        // Nothing more happens.
        None if query.contains("watch=true") => open(Vec::new()),
        None => (StatusCode::INTERNAL_SERVER_ERROR, "not played").into_response(),
    }
}

struct Played {
    stage: Stage,
    leases: watch::Receiver<Leases>,
    own_node: watch::Receiver<OwnNode>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Played {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Plays, and where.
async fn serve(plays: Vec<(&'static str, Play)>) -> (Stage, Api, JoinHandle<()>) {
    let stage = Stage::default();
    stage.plays.lock().unwrap().extend(plays);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/api/v1/nodes", get(play))
        .route("/api/v1/nodes/own", get(unassigned))
        .with_state(stage.clone());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let api = Api {
        client: Arc::new(Client::new(Some(url), None).unwrap()),
        names: Names::new("x.y").unwrap(),
    };
    (stage, api, server)
}

async fn unassigned() -> &'static str {
    r#"{"metadata":{"name":"own","resourceVersion":"5"}}"#
}

async fn follow(plays: Vec<(&'static str, Play)>) -> Played {
    let (stage, api, server) = serve(plays).await;
    let own = OwnLease {
        subnet: "10.1.1.0/24".parse().unwrap(),
        attrs: LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, 1)),
        expires: None,
    };
    let (sender, leases) = watch::channel(Leases::default());
    let (own_sender, own_node) = watch::channel(None);
    let follower = tokio::spawn(async move {
        // Kept, or nobody would ever renew it.
        let (_keep, own) = watch::channel(own);
        let scope = Scope {
            network: "10.1.0.0/16".parse().unwrap(),
            backend: "host-gw",
        };
        Follower::new(&api, "own".to_owned(), scope, own, &own_sender, &sender)
            .run()
            .await;
    });
    Played {
        stage,
        leases,
        own_node,
        tasks: [server, follower],
    }
}

impl Played {
    /// Waits until the third bytes of the subnets of all leases are these.
    async fn until(&mut self, expected: &[u8]) {
        let there = |leases: &Leases| {
            let bytes = leases.keys().map(|subnet| subnet.addr().octets()[2]);
            bytes.eq(expected.iter().copied())
        };
        let wait = async {
            self.leases.changed().await.unwrap();
            self.leases.wait_for(there).await.unwrap();
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(
            waited.is_ok(),
            "{:?} {:?}",
            self.leases.borrow(),
            self.asked()
        );
    }

    fn asked(&self) -> Vec<String> {
        self.stage.asked.lock().unwrap().clone()
    }
}

fn node(name: &str, third: u8, version: u32) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","uid":"{name}","resourceVersion":"{version}","annotations":{{"x.y/kube-subnet-manager":"true",
        "x.y/backend-type":"host-gw","x.y/backend-data":"null","x.y/public-ip":"192.0.2.{third}"}}}},"spec":{{"podCIDR":"10.1.{third}.0/24"}}}}"#
    )
    .replace('\n', "")
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

fn added(name: &str, third: u8, version: u32) -> String {
    event("ADDED", &node(name, third, version))
}

fn bookmark(version: u32, end: bool) -> String {
    let annotations = match end {
        true => r#","annotations":{"k8s.io/initial-events-end":"true"}"#,
        false => "",
    };
    event(
        "BOOKMARK",
        &format!(r#"{{"metadata":{{"resourceVersion":"{version}"{annotations}}}}}"#),
    )
}

fn error(code: u16) -> String {
    event(
        "ERROR",
        &format!(r#"{{"status":"Failure","message":"no","code":{code}}}"#),
    )
}

fn list(version: u32, next: &str, nodes: &[String]) -> Play {
    let items = nodes.join(",");
    let metadata = format!(r#"{{"resourceVersion":"{version}","continue":"{next}"}}"#);
    Play::Answer(
        200,
        format!(r#"{{"metadata":{metadata},"items":[{items}]}}"#),
    )
}

const STREAM: &str = "sendInitialEvents=true";

#[tokio::test]
async fn a_streamed_list_goes_on_as_the_watch() {
    let lines = vec![
        added("own", 1, 5),
        added("a", 2, 5),
        added("b", 3, 5),
        bookmark(6, true),
        event("DELETED", &node("a", 2, 7)),
        added("c", 4, 8),
    ];
    let mut played = follow(vec![(STREAM, Play::Watch(lines))]).await;
    played.until(&[3, 4]).await;
    assert_eq!(played.asked().len(), 1, "{:?}", played.asked());
    assert!(played.own_node.borrow_and_update().is_some());
}

/// No subscriber acts on half a list.
#[tokio::test]
async fn the_first_leases_are_all_of_the_list() {
    let lines = vec![added("a", 2, 5), added("b", 3, 5), bookmark(6, true)];
    let mut played = follow(vec![(STREAM, Play::Watch(lines))]).await;
    played.leases.changed().await.unwrap();
    assert_eq!(played.leases.borrow().len(), 2);
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_from_its_last_version() {
    let lines = vec![added("a", 2, 5), bookmark(6, true), bookmark(9, false)];
    let more = vec![added("b", 3, 10)];
    let plays = vec![
        (STREAM, Play::Ended(lines)),
        ("resourceVersion=9", Play::Watch(more)),
    ];
    follow(plays).await.until(&[2, 3]).await;
}

#[tokio::test]
async fn a_server_without_streamed_lists_gives_pages() {
    for refusal in [
        Play::Answer(
            422,
            "forbidden for watch unless the WatchList feature gate is enabled".to_owned(),
        ),
        Play::Watch(vec![error(500)]),
        // One that takes it for a plain watch: no end of the list is marked.
        Play::Watch(vec![added("a", 2, 5)]),
        Play::Ended(vec![added("a", 2, 5)]),
    ] {
        let plays = vec![
            (STREAM, refusal),
            ("limit=500", list(7, "p=2", &[node("a", 2, 5)])),
            ("continue=p%3D2", list(7, "", &[node("b", 3, 5)])),
            ("resourceVersion=7", Play::Watch(vec![added("c", 4, 8)])),
        ];
        follow(plays).await.until(&[2, 3, 4]).await;
    }
}

/// 410, as an event or as the answer; also between pages.
#[tokio::test]
async fn history_that_is_gone_is_listed_anew() {
    let gone = || r#"{"status":"Failure","message":"gone","code":410}"#.to_owned();
    let first = vec![
        added("a", 2, 5),
        added("b", 3, 5),
        bookmark(6, true),
        error(410),
    ];
    let plays = vec![
        (STREAM, Play::Watch(first)),
        (STREAM, Play::Answer(422, String::new())),
        ("limit=500", list(20, "p2", &[node("b", 3, 15)])),
        ("continue=p2", Play::Answer(410, gone())),
        (STREAM, Play::Answer(422, String::new())),
        ("limit=500", list(21, "", &[node("b", 3, 15)])),
        ("resourceVersion=21", Play::Answer(410, gone())),
        (
            STREAM,
            Play::Watch(vec![added("c", 4, 30), bookmark(31, true)]),
        ),
    ];
    follow(plays).await.until(&[4]).await;
}

/// Too large for any object, or no JSON: the watch is given up, what is known stays, and the next goes on.
#[tokio::test]
async fn nonsense_ends_a_watch_and_nothing_else() {
    let list = vec![added("a", 2, 5), bookmark(6, true)];
    let plays = vec![
        (STREAM, Play::Ended(list)),
        ("resourceVersion=6", Play::Watch(vec!["{".to_owned()])),
        ("resourceVersion=6", Play::Ended(vec!["x".repeat(17 << 20)])),
        ("resourceVersion=6", Play::Watch(vec![added("b", 3, 7)])),
    ];
    follow(plays).await.until(&[2, 3]).await;
}

/// 10 MB of annotations: an event like any other.
#[tokio::test]
async fn a_huge_node_is_a_node() {
    let pad = format!(
        r#""x.y/kube-subnet-manager":"true","pad":"{}""#,
        "y".repeat(10 << 20)
    );
    let huge = added("b", 3, 7).replace(r#""x.y/kube-subnet-manager":"true""#, &pad);
    let list = vec![added("a", 2, 5), bookmark(6, true), huge, added("c", 4, 8)];
    follow(vec![(STREAM, Play::Watch(list))])
        .await
        .until(&[2, 3, 4])
        .await;
}

/// Each watch ends at once with 410 inside of a 200; one a second is enough.
#[tokio::test]
async fn waiting_for_a_pod_cidr_is_no_load() {
    let ended = || ("fieldSelector", Play::Ended(vec![error(410)]));
    let plays = std::iter::repeat_with(ended).take(1000).collect();
    let (stage, api, server) = serve(plays).await;
    let changed = api.await_change("own", Some("5"), Duration::from_secs(60));
    assert!(matches!(changed.await, Err(KubeError::Gone(_))));
    let source = KubeSource {
        api,
        identity: Identity::Node("own".to_owned()),
        name: OnceCell::new(),
        net_config: PathBuf::new(),
        set_network_available: false,
        own_node: watch::Sender::new(None),
        forwards: watch::Sender::new(false),
        scope: std::sync::OnceLock::new(),
    };
    let config =
        NetworkConfig::parse(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    let cancel = CancellationToken::new();
    let waiting = source.assigned(&config, &cancel);
    let since = std::time::Instant::now();
    // Behind the one above: at once, and a second later each.
    let fifth = async {
        while stage.asked.lock().unwrap().len() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // However slow the machine is, it is not sooner.
        since.elapsed()
    };
    tokio::select! {
        ended = waiting => panic!("{ended:?}"),
        passed = fifth => assert!(passed >= Duration::from_secs(3), "{passed:?}"),
    }
    server.abort();
}
