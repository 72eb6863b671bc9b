//! Logs go to stderr only, as flanneld's do: text for people, JSON lines for collectors.

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::span::EnteredSpan;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::base::options::LogFormat;

/// What a running process changes its level by.
struct Level {
    handle: reload::Handle<Targets, Registry>,
    verbosity: i32,
}

static LEVEL: Mutex<Option<Level>> = Mutex::new(None);

/// Values of `-v` from which more is logged.
const STEPS: [i32; 3] = [0, 2, 6];

/// Which way a running process changes its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    More,
    Less,
}

/// Logs one level more or less from now on; the last level of each end stays. Returns the `-v` that gives the same.
pub fn change(change: Change) -> i32 {
    let mut level = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(level) = level.as_mut() else {
        return STEPS[0];
    };
    level.verbosity = stepped(level.verbosity, change);
    // Fails only without a subscriber, and there is one.
    let _ = level.handle.reload(filter(level.verbosity));
    level.verbosity
}

fn stepped(verbosity: i32, change: Change) -> i32 {
    let now = STEPS.iter().rposition(|step| *step <= verbosity);
    let now = now.unwrap_or_default();
    let next = match change {
        Change::More => now + 1,
        Change::Less => now.saturating_sub(1),
    };
    STEPS.get(next).copied().unwrap_or(STEPS[now])
}

thread_local! {
    static NETWORK: RefCell<Option<EnteredSpan>> = const { RefCell::new(None) };
}

/// From here on each line of this thread names the network: where a process serves several, each has threads of its own.
pub fn enter_network(network: &str) {
    let span = tracing::error_span!(parent: None, "of", network).entered();
    NETWORK.set(Some(span));
}

/// Before the thread ends: its place among the spans is somebody else's then.
pub fn leave_network() {
    NETWORK.take();
}

/// Starts logging. Later calls change nothing: a process has one logger.
pub fn init(verbosity: i32, format: LogFormat) {
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if json {
        layer
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed()
    } else {
        layer
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(verbosity >= 2)
            .boxed()
    };
    let (filter, handle) = reload::Layer::new(filter(verbosity));
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        let level = Level { handle, verbosity };
        *LEVEL.lock().unwrap_or_else(PoisonError::into_inner) = Some(level);
        // rtnetlink and aya write to `log`. This only fails when a logger exists already.
        let _ = tracing_log::LogTracer::init();
    }
}

/// An error with its causes, without those that it quotes itself.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// klog's `-v` as levels. Libraries stay quieter than we are, or the trace of one HTTP/2 frame hides
/// what the agent does.
fn filter(verbosity: i32) -> Targets {
    let ours = match verbosity {
        ..2 => LevelFilter::INFO,
        2..6 => LevelFilter::DEBUG,
        6.. => LevelFilter::TRACE,
    };
    let libraries = match verbosity {
        ..2 => LevelFilter::WARN,
        2..6 => LevelFilter::INFO,
        6.. => LevelFilter::DEBUG,
    };
    Targets::new()
        .with_default(libraries)
        .with_target("flannel", ours)
        // Warns about every attribute that a newer kernel added, at every dump.
        .with_target("netlink_packet_route", LevelFilter::ERROR)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tracing::Level;

    use super::*;

    #[test]
    fn causes_are_named_once() {
        let error = anyhow::anyhow!("no file")
            .context("cannot read x: no file")
            .context("stop");
        assert_eq!(describe(&error), "stop: cannot read x: no file");
    }

    #[rstest]
    #[case(0, Change::More, 2)]
    #[case(1, Change::More, 2)]
    #[case(2, Change::More, 6)]
    #[case(9, Change::More, 6)]
    #[case(9, Change::Less, 2)]
    #[case(3, Change::Less, 0)]
    #[case(-1, Change::Less, 0)]
    fn a_step_goes_to_the_next_level(#[case] v: i32, #[case] change: Change, #[case] then: i32) {
        assert_eq!(stepped(v, change), then);
    }

    #[rstest]
    #[case::default(0, Level::INFO, Level::WARN)]
    #[case::one(1, Level::INFO, Level::WARN)]
    #[case::debug(2, Level::DEBUG, Level::INFO)]
    #[case::trace(6, Level::TRACE, Level::DEBUG)]
    #[case::beyond(10, Level::TRACE, Level::DEBUG)]
    #[case::negative(-1, Level::INFO, Level::WARN)]
    fn verbosity(#[case] v: i32, #[case] ours: Level, #[case] libraries: Level) {
        let filter = filter(v);
        for level in [
            Level::ERROR,
            Level::WARN,
            Level::INFO,
            Level::DEBUG,
            Level::TRACE,
        ] {
            assert_eq!(
                filter.would_enable("flannel_agent::daemon", &level),
                level <= ours
            );
            assert_eq!(filter.would_enable("h2::codec", &level), level <= libraries);
        }
        assert!(!filter.would_enable("netlink_packet_route::link", &Level::WARN));
    }
}
