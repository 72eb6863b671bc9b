//! A gate in front of a server: closed, it cuts every connection; frozen, it lets nothing through
//! and says nothing, as a host that lost its power does; deaf, it keeps from clients what the server answers. Choosy, it cuts
//! whoever asks one thing.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes connections on to a server while it is open.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    now: watch::Sender<Now>,
    refused: watch::Receiver<u32>,
    listening: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct Now {
    state: State,
    /// How often it was closed: who opens it at once cuts what was connected all the same.
    cuts: u32,
}

impl Now {
    /// Whether what was connected after so many cuts may live on.
    const fn bears(self, cuts: u32) -> bool {
        self.cuts == cuts && !matches!(self.state, State::Closed)
    }

    const fn lets_pass(self, cuts: u32) -> bool {
        self.bears(cuts) && !matches!(self.state, State::Frozen)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The same, until a client says this.
    Listening(&'static str),
    /// What clients say passes, and no answer comes back.
    Deaf,
    /// Cuts each connection by which a client says this.
    Choosy(&'static str),
    Closed,
    Frozen,
}

impl Gate {
    /// An open gate to `server`.
    pub async fn to(server: (Ipv4Addr, u16)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("listen on loopback");
        let address = listener.local_addr().expect("the address of the gate");
        let now = watch::Sender::new(Now {
            state: State::Open,
            cuts: 0,
        });
        let all = now.clone();
        let (refusals, refused) = watch::channel(0);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, all.clone(), refusals.clone()));
            }
        });
        Self {
            address,
            now,
            refused,
            listening,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts what is connected and lets nobody in.
    pub fn close(&self) {
        self.now.send_modify(|now| {
            now.state = State::Closed;
            now.cuts += 1;
        });
    }

    /// Keeps connections, but moves no more bytes. Only [`Gate::close`] ends it.
    pub fn freeze(&self) {
        self.enter(State::Frozen);
    }

    pub fn open(&self) {
        self.enter(State::Open);
    }

    /// Lets the next question with `words` in it pass, and no answer from there on. [`Gate::close`] ends it.
    pub fn lose_the_answer_to(&self, words: &'static str) {
        self.enter(State::Listening(words));
    }

    /// Waits until that question was asked.
    pub async fn asked(&self) {
        let mut nows = self.now.subscribe();
        let asked = nows.wait_for(|now| now.state == State::Deaf).await;
        asked.expect("the gate has its state");
    }

    /// Cuts whoever asks a question with `words` in it, each time, and nobody else.
    pub fn refuse(&self, words: &'static str) {
        self.enter(State::Choosy(words));
    }

    /// Waits until that was asked so many times.
    pub async fn refused(&self, times: u32) {
        let mut refused = self.refused.clone();
        let reached = refused.wait_for(|now| *now >= times).await;
        reached.expect("the gate counts");
    }

    fn enter(&self, state: State) {
        self.now.send_modify(|now| now.state = state);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
        self.listening.abort();
    }
}

async fn pass(
    mut client: TcpStream,
    server: (Ipv4Addr, u16),
    now: watch::Sender<Now>,
    refusals: watch::Sender<u32>,
) {
    let mut nows = now.subscribe();
    let begun = *nows.borrow_and_update();
    let cuts = begun.cuts;
    if begun.lets_pass(cuts) {
        let Ok(mut server) = TcpStream::connect(server).await else {
            return;
        };
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            () = ask(from_client, to_server, &now, &refusals) => return,
            () = answer(from_server, to_client, &now) => return,
            _ = nows.wait_for(|now| !now.lets_pass(cuts)) => {}
        }
    }
    // The connection lives on, unread, for as long as the gate is frozen.
    let _ = nows
        .wait_for(|now| !now.bears(cuts) || now.state != State::Frozen)
        .await;
}

/// Moves bytes to the server until there are no more.
async fn ask(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    now: &watch::Sender<Now>,
    refusals: &watch::Sender<u32>,
) {
    let mut buffer = vec![0; 1 << 16];
    // Words may be cut in two.
    let mut said = Vec::new();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..length];
        let state = now.borrow().state;
        if let State::Listening(words) | State::Choosy(words) = state {
            said.extend_from_slice(bytes);
            let mut places = said.windows(words.len());
            let is_said = places.any(|place| place == words.as_bytes());
            match state {
                State::Choosy(_) if is_said => return refusals.send_modify(|times| *times += 1),
                // Before the server hears it.
                _ if is_said => now.send_modify(|now| now.state = State::Deaf),
                _ => {}
            }
            said.drain(..said.len().saturating_sub(words.len()));
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Moves bytes to the client until there are no more.
async fn answer(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    now: &watch::Sender<Now>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let is_lost = now.borrow().state == State::Deaf;
        if !is_lost && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
