//! One side of the traffic: a process inside the pod's namespace that takes jobs from its standard input.
//!
//! Blocking sockets and no runtime: what is measured is the kernel.

mod counters;
mod ksoftirqd;
mod process;
mod tcp;
mod udp;

use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure;
use crate::job::{Answer, Job, Ready, Side, Stop, Traffic};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Takes jobs until the standard input ends, or one fails.
pub(crate) fn run(role: Role) {
    failure::keep_first();
    process::prepare(role);
    while let Some(job) = read::<Job>() {
        let work = || {
            process::pin(job.core);
            let before = counters::read();
            let side = match role {
                Role::Client => client(&job),
                Role::Server => server(&job),
            };
            Side {
                tcp: counters::since(before),
                ..side
            }
        };
        let side: Answer<Side> = failure::caught(work).map_err(|_| failure::first());
        write(&side);
        if side.is_err() {
            return;
        }
    }
}

fn client(job: &Job) -> Side {
    match job.traffic {
        Traffic::TcpStream(connections) => tcp::send_streams(job, connections),
        Traffic::TcpRr => tcp::request(job),
        Traffic::TcpCrr => tcp::connect_request_close(job),
        Traffic::TcpConnect => tcp::connect_close(job),
        Traffic::UdpOneWay(bytes) => udp::send(job, bytes),
        Traffic::UdpRr => udp::request(job),
        Traffic::Fill => udp::fill(job),
    }
}

fn server(job: &Job) -> Side {
    let stop = AtomicBool::new(false);
    let serve = |ports: Vec<u16>, serve: &(dyn Fn() -> Side + Sync)| {
        std::thread::scope(|scope| {
            let server = scope.spawn(serve);
            write(&Answer::Ok(Ready { ports }));
            // At the end of the input the coordinator is gone, and so are its clients.
            let _ = read::<Stop>();
            stop.store(true, Ordering::Relaxed);
            server.join().expect("the server's thread")
        })
    };
    if job.traffic.is_udp() {
        let sockets = udp::bind(job);
        serve(udp::ports(&sockets), &|| udp::serve(job, &sockets, &stop))
    } else {
        let listener = tcp::listen();
        let port = listener.local_addr().expect("a bound address").port();
        serve(vec![port], &|| tcp::serve(&listener, job, &stop))
    }
}

fn read<T: DeserializeOwned>() -> Option<T> {
    let line = std::io::stdin().lock().lines().next()?;
    let line = line.expect("read from the coordinator");
    Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("a job in {line}: {e}")))
}

fn write(answer: &impl Serialize) {
    let text = serde_json::to_string(answer).expect("plain values");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").expect("answer the coordinator");
    out.flush().expect("answer the coordinator");
}
