//! What goes on between two pods while something else is done.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use flannel_tests::prelude::*;

use crate::kubectl::{Kubectl, LONG};
use crate::pods::PORT;

/// Twenty packets and ten lines a second, from one pod to another.
#[derive(Debug)]
pub(crate) struct Traffic {
    kubectl: Kubectl,
    pod: String,
    /// Of its files in the pod.
    name: String,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) answered: usize,
    pub(crate) lost: Vec<u32>,
    /// Lines that came back by the one connection; none if it broke.
    pub(crate) lines: Option<u32>,
}

impl Traffic {
    /// From `pod` to `to`, and in the other direction the answers; both ways are under way when it returns.
    pub(crate) fn start(kubectl: &Kubectl, pod: &str, to: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("/tmp/traffic{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        kubectl.exec(
            pod,
            &format!(
                "ping -n -i 0.05 {to} > {name}.ping 2>&1 < /dev/null & echo $! > {name}.pid
                 (exec 3<> /dev/tcp/{to}/{PORT} && read -r _ <&3 && lines=0 &&
                  until [ -e {name}.stop ]; do
                      echo $lines >&3 && read -r -t 60 answer <&3 && [ \"$answer\" = $lines ] || exit 1
                      lines=$((lines + 1)); echo $lines > {name}.lines; sleep 0.1
                  done; echo whole > {name}.whole) > {name}.tcp 2>&1 < /dev/null &"
            ),
        );
        let traffic = Self {
            kubectl: kubectl.clone(),
            pod: pod.to_owned(),
            name,
        };
        eventually("traffic is under way", LONG, || {
            let (answers, lines) = (traffic.read("ping"), traffic.read("lines"));
            answers.contains("bytes from") && !lines.is_empty()
        });
        traffic
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
        self.kubectl.exec(
            &self.pod,
            &format!("touch {name}.stop; kill -INT $(cat {name}.pid); sleep 1"),
        );
        let whole = !self.read("whole").is_empty();
        let answered: BTreeSet<u32> = self.read("ping").lines().filter_map(sequence).collect();
        let end = answered.last().copied().unwrap_or_default();
        // What is sent last may be answered after the end.
        let lost = (1..end).filter(|n| !answered.contains(n)).collect();
        Ended {
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
