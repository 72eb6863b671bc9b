//! This process as the scheduler sees it.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike as _;
use nix::unistd::Pid;

use super::{Role, ksoftirqd};

/// A name for `top` and `perf`, as many sockets as allowed, and precedence over what else the machine does.
pub(crate) fn prepare(role: Role) {
    let name = match role {
        Role::Client => c"bench-client",
        Role::Server => c"bench-server",
    };
    nix::sys::prctl::set_name(name).expect("a name of less than 16 bytes");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of open files");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit of open files");
    set_priority(-20);
}

/// Threads started later stay on this core too.
pub(crate) fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).expect("a core's number");
    sched_setaffinity(Pid::from_raw(0), &cores)
        .unwrap_or_else(|e| panic!("pin to core {core}: {e}"));
}

/// Lets whoever reads what this thread sends come first: the thread's lower priority, still above everybody else's.
///
/// With equal priorities on one core the scheduler settles, for as long as a stream lasts, for one of two ways: the reader
/// takes over at each wake-up and reads from warm caches, or the writer goes on until its buffer is full, some
/// 1.7 MB, and a byte costs twice the time. Which one is chance: with nothing but a veth in between, one stream of ten to twenty took the
/// second, and "faster than bare" was bare's bad luck in two rounds of three.
pub(crate) fn let_the_reader_go_first() {
    set_priority(-10);
}

fn set_priority(nice: i32) {
    // SAFETY: a plain system call on the calling thread; no memory is passed.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    assert_eq!(failed, 0, "raise the priority: the bench needs root");
}

/// CPU seconds used since its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    own: f64,
    softirq: f64,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            own: cpu(),
            softirq: ksoftirqd::cpu(),
        }
    }

    /// By this process, with the soft interrupts that ran in its name.
    pub(crate) fn own(self) -> f64 {
        cpu() - self.own
    }

    /// By this process and by the threads that take over when soft interrupts are too many.
    pub(crate) fn with_softirq(self) -> f64 {
        self.own() + ksoftirqd::cpu() - self.softirq
    }
}

fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("our own usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    #[expect(clippy::cast_precision_loss, reason = "no process runs for 2^52 us")]
    let micros = micros as f64;
    micros / 1e6
}
