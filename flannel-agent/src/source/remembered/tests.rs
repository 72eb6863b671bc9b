//! A start by the file, with a datastore that is played. Time is tokio's and passes when everybody waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::file::tests::{attrs, snapshot};
use super::*;

/// Answers from the moment that `answers` says so; until then nobody does.
#[derive(Debug)]
struct Played {
    answers: watch::Sender<bool>,
    asked: AtomicUsize,
    config: NetworkConfig,
    requests: Mutex<Vec<LeaseRequest>>,
    known: Mutex<Option<Leases>>,
    leases: Leases,
    /// In which the configuration is a local file.
    kubernetes: AtomicBool,
    place: Mutex<Place>,
}

impl Played {
    async fn answered(&self) {
        self.answers
            .subscribe()
            .wait_for(|answers| *answers)
            .await
            .unwrap();
    }
}

impl LeaseSource for Arc<Played> {
    async fn is_silent(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        !*self.answers.borrow()
    }

    async fn answers(&self, _: &CancellationToken) -> anyhow::Result<()> {
        self.answered().await;
        Ok(())
    }

    fn place(&self) -> Place {
        self.place.lock().unwrap().clone()
    }

    async fn network_config(&self, _: &CancellationToken) -> anyhow::Result<NetworkConfig> {
        if !self.kubernetes.load(Ordering::Relaxed) {
            self.answered().await;
        }
        Ok(self.config.clone())
    }

    fn reconnect(&self) {}

    async fn leases(&self, _: &CancellationToken) -> anyhow::Result<Leases> {
        self.answered().await;
        Ok(self.leases.clone())
    }

    async fn previous_lease(
        &self,
        _: Ipv4Addr,
        _: &CancellationToken,
    ) -> anyhow::Result<Option<OwnLease>> {
        self.answered().await;
        Ok(None)
    }

    async fn acquire(
        &self,
        _: &NetworkConfig,
        request: &LeaseRequest,
        _: &CancellationToken,
    ) -> anyhow::Result<OwnLease> {
        self.answered().await;
        self.requests.lock().unwrap().push(request.clone());
        Ok(OwnLease {
            subnet: request.previous.unwrap_or_default(),
            attrs: request.attrs.clone(),
            expires: None,
        })
    }

    async fn keep(
        &self,
        _: &NetworkConfig,
        _: &watch::Sender<OwnLease>,
        _: watch::Receiver<LeaseAttrs>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        cancel.cancelled().await;
        Ok(())
    }

    async fn follow(
        &self,
        _: watch::Receiver<OwnLease>,
        known: Leases,
        leases: &watch::Sender<Leases>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        *self.known.lock().unwrap() = Some(known);
        leases.send_replace(self.leases.clone());
        cancel.cancelled().await;
        Ok(())
    }
}

struct Stage {
    folder: TempDir,
    played: Arc<Played>,
    source: Arc<Remembered<Arc<Played>>>,
    cancel: CancellationToken,
}

fn stage(saved: Option<&Snapshot>, answers: bool) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.json");
    if let Some(saved) = saved {
        file::save(&file, saved).unwrap();
    }
    let peer = ("10.244.9.0/24".parse().unwrap(), attrs(9));
    let played = Arc::new(Played {
        answers: watch::Sender::new(answers),
        asked: AtomicUsize::new(0),
        config: snapshot(None).config,
        requests: Mutex::default(),
        known: Mutex::default(),
        kubernetes: AtomicBool::new(false),
        place: Mutex::default(),
        leases: BTreeMap::from([peer]).into(),
    });
    Stage {
        source: Arc::new(Remembered::new(played.clone(), Some(file))),
        folder,
        played,
        cancel: CancellationToken::new(),
    }
}

impl Stage {
    async fn config(&self) -> NetworkConfig {
        self.source.network_config(&self.cancel).await.unwrap()
    }

    async fn acquire(&self) -> OwnLease {
        let config = self.config().await;
        let request = LeaseRequest {
            attrs: attrs(77),
            previous: None,
        };
        self.source
            .acquire(&config, &request, &self.cancel)
            .await
            .unwrap()
    }

    /// Both tasks of a start, and what they publish.
    async fn run(&self) -> Running {
        let config = self.config().await;
        let (own, own_seen) = watch::channel(self.acquire().await);
        let (leases, leases_seen) = watch::channel(Leases::default());
        let (attrs_sender, attrs_seen) = watch::channel(attrs(78));
        let (source, cancel) = (self.source.clone(), self.cancel.clone());
        let keep =
            tokio::spawn(async move { source.keep(&config, &own, attrs_seen, &cancel).await });
        let (source, cancel, own) = (self.source.clone(), self.cancel.clone(), own_seen.clone());
        let known = BTreeMap::from([("10.244.3.0/24".parse().unwrap(), attrs(3))]).into();
        tokio::spawn(async move { source.follow(own, known, &leases, &cancel).await });
        Running {
            keep,
            own: own_seen,
            leases: leases_seen,
            _attrs: attrs_sender,
        }
    }

    fn saved(&self) -> Option<Snapshot> {
        file::load(&self.folder.path().join("s.json"))
    }
}

struct Running {
    keep: tokio::task::JoinHandle<anyhow::Result<()>>,
    own: watch::Receiver<OwnLease>,
    leases: watch::Receiver<Leases>,
    _attrs: watch::Sender<LeaseAttrs>,
}

fn subnets(leases: &Leases) -> Vec<String> {
    leases.keys().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn without_a_file_nobody_is_asked_first() {
    let stage = stage(None, true);
    stage.config().await;
    assert_eq!(stage.played.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_datastore_that_answers_in_time_is_believed() {
    let stage = stage(Some(&snapshot(None)), false);
    let answers = stage.played.answers.clone();
    tokio::spawn(async move {
        tokio::time::sleep(PATIENCE / 2).await;
        answers.send_replace(true);
    });
    stage.config().await;
    let leases = stage.source.leases(&stage.cancel).await.unwrap();
    assert_eq!(subnets(&leases), ["10.244.9.0/24"]);
    assert_eq!(stage.acquire().await.subnet, ipnet::Ipv4Net::default());
}

#[tokio::test(start_paused = true)]
async fn a_silent_one_is_replaced_by_the_file() {
    let stage = stage(Some(&snapshot(None)), false);
    assert_eq!(stage.config().await, snapshot(None).config);
    let leases = stage.source.leases(&stage.cancel).await.unwrap();
    assert_eq!(
        subnets(&leases),
        ["10.244.1.0/24", "10.244.2.0/24"],
        "its own, too"
    );
    let published = stage
        .source
        .previous_lease(attrs(1).public_ip, &stage.cancel);
    assert_eq!(
        published.await.unwrap().unwrap().attrs,
        attrs(1),
        "for the MAC's sake"
    );
    let own = stage.acquire().await;
    assert_eq!(own.subnet.to_string(), "10.244.1.0/24");
    assert_eq!(own.attrs, attrs(77), "as the node is now");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_may_be_anothers_is_not_used() {
    let ended = snapshot(Some(Duration::ZERO));
    // By a clock that has been set back since.
    let mut ahead = snapshot(Some(Duration::from_hours(24)));
    ahead.written += 1_000_000;
    // Of Kubernetes: it has no end by itself.
    let mut old = snapshot(None);
    old.written -= 2 * 86_400;
    let mut elsewhere = snapshot(None);
    elsewhere.place.node = Some("other".to_owned());
    for saved in [ended, ahead, old, elsewhere] {
        let stage = stage(Some(&saved), false);
        stage.played.place.lock().unwrap().node = Some("one".to_owned());
        let answers = stage.played.answers.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE * 10).await;
            answers.send_replace(true);
        });
        stage.config().await;
        let leases = stage.source.leases(&stage.cancel).await.unwrap();
        assert_eq!(subnets(&leases), ["10.244.9.0/24"]);
        assert_eq!(*stage.source.rests_on().borrow(), None);
    }
}

/// The time comes from the network, when the start has already begun.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_meanwhile_is_believed() {
    let mut ahead = snapshot(Some(Duration::from_hours(24)));
    ahead.written += 2;
    let stage = stage(Some(&ahead), false);
    assert_eq!(stage.config().await, ahead.config);
    assert!(stage.source.rests_on().borrow().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_datastore_takes_over_when_it_answers() {
    let stage = stage(Some(&snapshot(None)), false);
    let mut running = stage.run().await;
    let rests_on = stage.source.rests_on();
    assert!(rests_on.borrow().is_some());
    let by_the_file = running
        .leases
        .wait_for(|leases| !leases.is_empty())
        .await
        .unwrap()
        .clone();
    assert_eq!(subnets(&by_the_file), ["10.244.2.0/24"]);
    stage.played.answers.send_replace(true);
    let nine = |leases: &Leases| subnets(leases) == ["10.244.9.0/24"];
    running.leases.wait_for(nine).await.unwrap();
    let known = stage.played.known.lock().unwrap().clone().unwrap();
    assert_eq!(
        subnets(&known),
        ["10.244.2.0/24", "10.244.3.0/24"],
        "both are reached"
    );
    let requests = stage.played.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].previous.unwrap().to_string(), "10.244.1.0/24");
    assert_eq!(
        running.own.borrow().attrs,
        attrs(78),
        "what has changed meanwhile"
    );
    assert_eq!(*rests_on.borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn another_configuration_means_another_start() {
    let mut other = snapshot(None);
    other.config =
        NetworkConfig::parse(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
    let stage = stage(Some(&other), false);
    let running = stage.run().await;
    stage.played.answers.send_replace(true);
    let error = running.keep.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("configuration has changed"), "{error}");
}

/// In Kubernetes the new one is a file, and there at once: it counts when the API server answers, and not a second before, or each start
/// would end by it.
#[tokio::test(start_paused = true)]
async fn a_changed_file_waits_for_the_datastore() {
    let mut other = snapshot(None);
    other.config =
        NetworkConfig::parse(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
    let stage = stage(Some(&other), false);
    stage.played.kubernetes.store(true, Ordering::Relaxed);
    let running = stage.run().await;
    tokio::time::sleep(PATIENCE * 100).await;
    assert!(!running.keep.is_finished(), "nobody has answered");
    stage.played.answers.send_replace(true);
    let error = running.keep.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("configuration has changed"), "{error}");
}

/// When the file was written says when the datastore was last heard. (The wall clock stands here: for the file it seems to be set.)
#[tokio::test(start_paused = true)]
async fn nobody_confirms_the_file_while_nobody_answers() {
    let stage = stage(None, true);
    let _running = stage.run().await;
    while stage.saved().is_none() {
        tokio::time::sleep(ASK_AGAIN).await;
    }
    stage.played.answers.send_replace(false);
    let file = stage.folder.path().join("s.json");
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_hours(30)).await;
    assert!(stage.saved().is_none());
    stage.played.answers.send_replace(true);
    while stage.saved().is_none() {
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_followed_is_written() {
    let stage = stage(None, true);
    stage.played.place.lock().unwrap().node = Some("one".to_owned());
    let _running = stage.run().await;
    let saved = loop {
        if let Some(saved) = stage.saved() {
            break saved;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    assert_eq!(subnets(&saved.leases), ["10.244.9.0/24"]);
    assert_eq!(saved.own.attrs, attrs(77));
    assert_eq!(saved.place.node.as_deref(), Some("one"));
    assert_eq!(saved.config, snapshot(None).config);
}

/// Here it seems to be set back all the time: it stands while tokio's goes on.
#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_has_the_file_written_anew() {
    let stage = stage(None, true);
    let _running = stage.run().await;
    let file = stage.folder.path().join("s.json");
    for _ in 0..2 {
        while stage.saved().is_none() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        std::fs::remove_file(&file).unwrap();
    }
}
