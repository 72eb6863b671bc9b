//! What goes on from a pod while something else is done.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use flannel_tests::prelude::*;

use crate::kubectl::{Kubectl, LONG};
use crate::pods::PORT;

/// Ten lines a second by one connection, and twenty pings where somebody answers them.
#[derive(Debug)]
pub(crate) struct Traffic {
    kubectl: Kubectl,
    pod: String,
    to: String,
    pings: bool,
    /// Of its files in the pod.
    name: String,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Ended {
    /// From where and to whom it was.
    pub(crate) way: String,
    pub(crate) answered: usize,
    pub(crate) lost: Vec<u32>,
    /// Lines that came back by the one connection; none if it broke.
    pub(crate) lines: Option<u32>,
}

impl Traffic {
    /// From `pod` to `to`, and in the other direction the answers; it is under way when this returns.
    pub(crate) fn start(kubectl: &Kubectl, pod: &str, to: &str, pings: bool) -> Self {
        Self::patient(kubectl, pod, to, pings, 60)
    }

    /// The same with so many seconds until a line that has not come back is one that is lost.
    pub(crate) fn patient(
        kubectl: &Kubectl,
        pod: &str,
        to: &str,
        pings: bool,
        seconds: u32,
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("/tmp/traffic{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut script = String::new();
        if pings {
            let to_files = format!("> {name}.ping 2>&1 < /dev/null & echo $! > {name}.pid");
            script = format!("ping -n -i 0.05 {to} {to_files}\n");
        }
        kubectl.exec(
            pod,
            &format!(
                "{script}((exec 3<> /dev/tcp/{to}/{PORT} && read -r _ <&3 && lines=0 &&
                  until [ -e {name}.stop ]; do
                      echo $lines >&3 && read -r -t {seconds} answer <&3 && [ \"$answer\" = $lines ] || exit 1
                      lines=$((lines + 1)); echo $lines > {name}.lines; sleep 0.1
                  done; echo whole > {name}.whole) > {name}.tcp 2>&1 < /dev/null; echo > {name}.end) < /dev/null > /dev/null 2>&1 &"
            ),
        );
        let traffic = Self {
            kubectl: kubectl.clone(),
            pod: pod.to_owned(),
            to: to.to_owned(),
            pings,
            name,
        };
        eventually("traffic is under way", LONG, || {
            let answered = !pings || traffic.read("ping").contains("bytes from");
            answered && !traffic.read("lines").is_empty()
        });
        traffic
    }

    /// Lines that have come back so far.
    pub(crate) fn lines(&self) -> u32 {
        self.read("lines").trim().parse().unwrap_or_default()
    }

    fn read(&self, ending: &str) -> String {
        let name = &self.name;
        self.kubectl.exec(
            &self.pod,
            &format!("cat {name}.{ending} 2> /dev/null || true"),
        )
    }

    pub(crate) fn end(self) -> Ended {
        let name = &self.name;
        let mut script = format!("touch {name}.stop");
        if self.pings {
            script += &format!("; kill -INT $(cat {name}.pid)");
        }
        self.kubectl.exec(&self.pod, &script);
        // A line that is under way is waited for as long as its connection waits for it.
        eventually("the connection has ended", LONG, || {
            !self.read("end").is_empty()
        });
        let whole = !self.read("whole").is_empty();
        let answered: BTreeSet<u32> = self.read("ping").lines().filter_map(sequence).collect();
        let end = answered.last().copied().unwrap_or_default();
        // What is sent last may be answered after the end.
        let lost = (1..end).filter(|n| !answered.contains(n)).collect();
        Ended {
            way: format!("{} to {}", self.pod, self.to),
            answered: answered.len(),
            lost,
            lines: whole.then(|| self.read("lines").trim().parse().unwrap_or_default()),
        }
    }
}

/// Of an answer. Of a message of an error there is one, too.
fn sequence(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("bytes from")?;
    let (_, rest) = rest.split_once("icmp_seq=")?;
    rest.split(' ').next()?.parse().ok()
}
