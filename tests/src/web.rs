//! A web server that says who it is, and a question to one by curl.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::Host;

const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers every request with 200 and its name, until dropped.
#[derive(Debug)]
pub struct WebServer {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    pub fn on(host: &(impl Host + ?Sized), port: u16, name: &'static str) -> Self {
        let listener = host
            .netns()
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .expect("listen");
        listener.set_nonblocking(true).expect("switch blocking off");
        let end = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if answer(&listener, name).is_err() {
                    std::thread::sleep(POLL);
                }
            }
        });
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The next request, to the end of its head. curl sends no body.
fn answer(listener: &TcpListener, name: &str) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let len = name.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{name}"
    )
}

/// What a server says to `client`, whose request is for `name` and goes to `address`. curl fails on any status but 200.
#[track_caller]
pub fn ask(client: &(impl Host + ?Sized), name: &str, port: u16, address: Ipv4Addr) -> String {
    client.exec(&format!(
        "curl --silent --show-error --fail --max-time 20 --resolve {name}:{port}:{address} http://{name}:{port}/"
    ))
}
