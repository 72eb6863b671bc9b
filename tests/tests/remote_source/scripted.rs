//! Our client at a server that says what a test wants it to say.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flannel_agent::flannel::lease::OwnLease;
use flannel_agent::source::remote::{RemoteOptions, RemoteSource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::support::{Net, Running, attrs, attrs_json, eventually, net, source};

/// A question: when it came, and its method and target.
type Asked = (Instant, String);

struct Scripted {
    name: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _listening: AbortOnDropHandle<()>,
}

impl Scripted {
    /// `answer`: to the question, and how many like it came before; with a head of its own, or with that of a server of ours. `None`: never.
    async fn start(answer: fn(&str, usize) -> Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let all = Arc::clone(&asked);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, answer, Arc::clone(&all)));
            }
        });
        Self {
            name,
            asked,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn questions(&self) -> Vec<String> {
        self.asked().into_iter().map(|(_, asked)| asked).collect()
    }
}

async fn serve(
    mut client: TcpStream,
    answer: fn(&str, usize) -> Option<String>,
    all: Arc<Mutex<Vec<Asked>>>,
) -> Option<()> {
    let mut said = Vec::new();
    loop {
        let end = loop {
            let end = said.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            if client.read_buf(&mut said).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&said[..end]).to_ascii_lowercase();
        let mut words = head.split(' ');
        let question = format!("{} {}", words.next()?, words.next()?);
        let length = head.split_once("content-length: ");
        let length = length.and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        while said.len() < end + length.unwrap_or(0) {
            client.read_buf(&mut said).await.ok()?;
        }
        said.drain(..end + length.unwrap_or(0));
        let before = {
            let mut all = all.lock().unwrap();
            let before = all.iter().filter(|(_, asked)| *asked == question).count();
            all.push((Instant::now(), question.clone()));
            before
        };
        let Some(body) = answer(&question, before) else {
            std::future::pending::<()>().await;
            return None;
        };
        if body.starts_with("HTTP/") {
            client.write_all(body.as_bytes()).await.ok()?;
            continue;
        }
        let date = "Date: Tue, 01 Dec 2026 12:00:00 GMT";
        let head = format!(
            "HTTP/1.1 200 OK\r\n{date}\r\nflannel-alive: 10\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.write_all((head + &body).as_bytes()).await.ok()?;
    }
}

/// A lease of 10.3.1.0/24 that ends a minute before the server's time.
fn ended() -> String {
    format!(
        r#"{{"Subnet":"10.3.1.0/24","Attrs":{},"Expiration":"2026-12-01T11:59:00Z"}}"#,
        attrs_json(1)
    )
}

fn snapshot(leases: &str) -> Option<String> {
    Some(format!(
        r#"{{"events":null,"snapshot":[{leases}],"cursor":"7"}}"#
    ))
}

async fn node(server: &Scripted, expires: Option<Instant>) -> Running {
    let own = OwnLease {
        subnet: net("10.3.1.0/24"),
        attrs: attrs(1),
        expires,
    };
    Running::start(
        source(std::slice::from_ref(&server.name)),
        own,
        &Net::new().await,
    )
}

#[tokio::test]
async fn a_lease_that_a_server_gives_for_no_time_is_not_renewed_without_a_pause() {
    let server = Scripted::start(|question, _| match question {
        "put /v1/_/leases/10.3.1.0-24" => Some(ended()),
        "get /v1/_/leases" => snapshot(&ended()),
        _ => None,
    })
    .await;
    let _node = node(&server, Some(Instant::now())).await;
    let renewals = eventually("it is renewed three times", || async {
        let mut asked = server.asked();
        asked.retain(|(_, question)| question.starts_with("put"));
        (asked.len() >= 3).then_some(asked)
    })
    .await;
    for two in renewals.windows(2) {
        assert!(two[1].0 - two[0].0 >= Duration::from_secs(1), "{two:?}");
    }
}

/// It may not have heard yet of what it has just given.
#[tokio::test]
async fn a_server_s_first_word_that_our_lease_is_missing_is_not_the_last() {
    let server = Scripted::start(|question, before| match (question, before) {
        ("get /v1/_/leases", 0) => snapshot(""),
        ("get /v1/_/leases", _) => snapshot(&ended()),
        _ => None,
    })
    .await;
    let _node = node(&server, None).await;
    let waits = || async { (server.questions().len() >= 3).then_some(()) };
    eventually("the node has asked thrice", waits).await;
    let all = "get /v1/_/leases";
    assert_eq!(server.questions(), [all, all, "get /v1/_/leases?next=7"]);
}

#[tokio::test]
async fn a_lease_that_is_missing_twice_is_written_again() {
    let server = Scripted::start(|question, _| match question {
        "put /v1/_/leases/10.3.1.0-24" => Some(ended()),
        "get /v1/_/leases" => snapshot(""),
        _ => None,
    })
    .await;
    let _node = node(&server, None).await;
    eventually("the lease is written", || async {
        let asked = server.questions();
        let written = asked.iter().position(|it| it.starts_with("put"))?;
        let all = |it: &&String| *it == "get /v1/_/leases";
        assert_eq!(asked[..written].iter().filter(all).count(), 2, "{asked:?}");
        Some(())
    })
    .await;
}

/// Who is between us and it, and says that it is away, is not the server, which breaks its silence.
#[tokio::test]
async fn an_answer_of_a_balancer_does_not_make_a_server_one_that_may_be_silent() {
    let server = Scripted::start(|question, before| match (question, before) {
        ("get /v1/_/leases", 0) => {
            Some("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n".to_owned())
        }
        _ => None,
    })
    .await;
    let options = RemoteOptions {
        silence: Duration::from_millis(200),
        ..RemoteOptions::new(vec![server.name.clone()])
    };
    let own = OwnLease {
        subnet: net("10.3.1.0/24"),
        attrs: attrs(1),
        expires: None,
    };
    let source = RemoteSource::new(&options).unwrap();
    let _node = Running::start(source, own, &Net::new().await);
    let again = || async { (server.questions().len() >= 3).then_some(()) };
    eventually("it is asked anew though it says nothing", again).await;
}
