//! Patience with the kernel's verifier.

use std::thread::sleep;
use std::time::Duration;

use aya::programs::ProgramError;

/// Cilium's loader tries as often, libbpf five times.
const ATTEMPTS: u32 = 30;
/// More before each attempt: who sends signals may go on for a while. In all less than half a second.
const PAUSE: Duration = Duration::from_millis(1);

/// Loads a program by `load`, again if a signal came in between: `do_check` (`kernel/bpf/verifier.c`) gives up with
/// `EAGAIN` as soon as one is pending for the thread. That is no word about the program. A stop and a continue, a
/// freezer, a debugger or a profiler do it too, without any handler of ours.
pub fn patiently(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    unless_interrupted(load, |error| match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(libc::EAGAIN),
        _ => false,
    })
}

fn unless_interrupted<E>(
    mut load: impl FnMut() -> Result<(), E>,
    interrupted: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for attempt in 1..ATTEMPTS {
        match load() {
            Err(error) if interrupted(&error) => sleep(PAUSE * attempt),
            done => return done,
        }
    }
    load()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use aya::programs::SchedClassifier;
    use aya::{Ebpf, EbpfLoader};
    use flannel_common::program::Program;
    use nix::sys::pthread::{pthread_kill, pthread_self};
    use nix::sys::signal::{SigHandler, Signal, signal};

    use super::*;
    use crate::dataplane::embedded::EMBEDDED;

    fn attempts(mut answer: impl FnMut(u32) -> Result<(), i32>) -> (u32, Result<(), i32>) {
        let mut calls = 0;
        let load = || {
            calls += 1;
            answer(calls)
        };
        let done = unless_interrupted(load, |errno| *errno == libc::EAGAIN);
        (calls, done)
    }

    #[test]
    fn a_signal_is_no_verdict() {
        let third = |call| if call < 3 { Err(libc::EAGAIN) } else { Ok(()) };
        assert_eq!(attempts(third), (3, Ok(())));
    }

    #[test]
    fn a_verdict_is_one_at_once() {
        assert_eq!(attempts(|_| Err(libc::EACCES)), (1, Err(libc::EACCES)));
    }

    #[test]
    fn signals_without_end_are_told() {
        let told = attempts(|_| Err(libc::EAGAIN));
        assert_eq!(told, (ATTEMPTS, Err(libc::EAGAIN)));
    }

    /// A signal alone is nothing to the kernel if it is ignored.
    extern "C" fn heard(_: libc::c_int) {}

    #[test]
    fn a_program_is_loaded_under_a_hail_of_signals() {
        // SAFETY: the handler does nothing, and nobody else in this process uses the signal.
        unsafe { signal(Signal::SIGVTALRM, SigHandler::Handler(heard)) }.unwrap();
        let mut ebpf: Ebpf = EbpfLoader::new().btf(None).load(EMBEDDED).unwrap();
        let program: &mut SchedClassifier = ebpf
            .program_mut(Program::UplinkRx.name())
            .unwrap()
            .try_into()
            .unwrap();
        let loader = pthread_self();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    pthread_kill(loader, Signal::SIGVTALRM).unwrap();
                    sleep(Duration::from_micros(100));
                }
            });
            let mut calls = 0;
            let done = patiently(|| {
                calls += 1;
                over.store(calls == 5, Ordering::Relaxed);
                program.load()
            });
            over.store(true, Ordering::Relaxed);
            done.unwrap();
        });
    }
}
