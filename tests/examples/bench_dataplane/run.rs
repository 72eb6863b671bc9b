//! The whole measurement, step by step: what fails is noted, and the next step begins.

use std::time::Duration;

use flannel_tests::prelude::Lab;

use crate::clock::{Clock, minutes};
use crate::document::Document;
use crate::failure::{self, short};
use crate::live;
use crate::machine::Machine;
use crate::mode::Mode;
use crate::options::Options;
use crate::plan::{BUILD, Condition, Group};
use crate::programs;
use crate::progress::Progress;
use crate::rounds;
use crate::table;
use crate::topology::{Beside, Stage};

/// One thing after the other.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Nodes for the groups that follow.
    Build(Beside),
    Group(Group),
    /// Accounts of the programs of the nodes that are there.
    InTraffic(Condition),
    Programs,
}

/// What is to be done, and how long each step is expected to take.
///
/// # Errors
/// When nothing is.
pub(crate) fn steps(options: &Options) -> Result<Vec<(Step, Duration)>, String> {
    let modes = options.modes();
    let fitting = |condition: Condition| modes.iter().filter(move |mode| mode.fits(condition));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut steps = Vec::new();
    for groups in options
        .groups()?
        .chunk_by(|a, b| a.condition.beside == b.condition.beside)
    {
        let beside = groups[0].condition.beside;
        let built = modes.iter().filter(|mode| mode.is_built(beside)).count();
        steps.push((Step::Build(beside), BUILD * count(built)));
        for group in groups {
            let expected = group.expected(&modes, options.effort());
            steps.push((Step::Group(group.clone()), expected));
        }
        if let Some(condition) = in_traffic(beside).filter(|_| !options.quick) {
            let agents = fitting(condition).filter(|mode| mode.flags().is_some());
            steps.push((
                Step::InTraffic(condition),
                live::EXPECTED * count(agents.count()),
            ));
        }
    }
    steps.push((Step::Programs, Duration::from_secs(8)));
    Ok(steps)
}

/// Of `programs` alone.
pub(crate) fn programs_only(options: &Options) -> Vec<(Step, Duration)> {
    let mut steps = vec![(Step::Programs, Duration::from_secs(8))];
    for beside in [Beside::Nothing, Beside::Outside] {
        let agents = options.modes();
        let agents = agents
            .iter()
            .filter(|mode| mode.is_built(beside) && mode.flags().is_some())
            .count();
        let agents = u32::try_from(agents).unwrap_or(u32::MAX);
        steps.push((Step::Build(beside), BUILD * agents));
        if let Some(condition) = in_traffic(beside) {
            steps.push((Step::InTraffic(condition), live::EXPECTED * agents));
        }
    }
    steps
}

/// The circumstances in which every program of a mode has something to do.
fn in_traffic(beside: Beside) -> Option<Condition> {
    match beside {
        Beside::Nothing => Some(Condition::SEGMENTED),
        Beside::Outside => Some(Condition {
            beside,
            ..Condition::USUAL
        }),
        Beside::KubeProxy | Beside::OutsideAndKubeProxy | Beside::Translated => None,
    }
}

/// Does the steps within the time, prints as it goes, and keeps what is measured in `--out`.
pub(crate) fn all(options: &Options, steps: &[(Step, Duration)], modes: &[Mode]) -> Document {
    let expected = steps.iter().map(|step| step.1).sum();
    let mut run = Run {
        options,
        modes,
        clock: Clock::start(options.limit(), expected),
        progress: Progress::new(expected),
        document: Document::new(Machine::this(), options.effort()),
        lab: None,
        stages: Vec::new(),
        broken: Vec::new(),
    };
    announce(options, steps, expected);
    for (n, (step, expected)) in steps.iter().enumerate() {
        run.clock.begin(*expected);
        run.progress.begin(n + 1, steps.len(), &step.name());
        run.step(step);
        run.document.seconds = run.clock.elapsed().as_secs_f64();
        run.save();
    }
    run.progress.clear();
    run.document
}

fn announce(options: &Options, steps: &[(Step, Duration)], expected: Duration) {
    let effort = options.effort();
    let of_groups = steps.iter().filter_map(|(step, _)| match step {
        Step::Group(group) => Some(group.modes(&options.modes()).len() * group.traffic.len()),
        _ => None,
    });
    let (groups, cells) = of_groups.fold((0, 0), |(n, sum), cells| (n + 1, sum + cells));
    println!("{}", Machine::this().describe());
    println!(
        "{groups} groups, {cells} cells, {} rounds of {} ms: about {}, ends within {}",
        effort.rounds,
        effort.time.as_millis(),
        minutes(expected),
        minutes(options.limit())
    );
}

impl Step {
    fn name(&self) -> String {
        match self {
            Self::Build(Beside::Nothing) => "building nodes".to_owned(),
            Self::Build(beside) => format!("building nodes ({beside:?})"),
            Self::Group(group) => group.name(),
            Self::InTraffic(_) => "programs in traffic".to_owned(),
            Self::Programs => "programs on their own".to_owned(),
        }
    }
}

struct Run<'a> {
    options: &'a Options,
    modes: &'a [Mode],
    clock: Clock,
    progress: Progress,
    document: Document,
    // Stages go before what they hang on.
    stages: Vec<Stage>,
    lab: Option<Lab>,
    /// Modes whose nodes could not be built, and why.
    broken: Vec<(Mode, String)>,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Build(beside) => self.build(*beside),
            Step::Group(group) => self.group(group),
            Step::InTraffic(condition) => self.in_traffic(*condition),
            Step::Programs => self.programs(),
        }
    }

    fn build(&mut self, beside: Beside) {
        self.stages.clear();
        self.broken.clear();
        self.lab = None;
        let modes: Vec<Mode> = self.modes.to_vec();
        let lab = match failure::caught(Lab::new) {
            Ok(lab) => self.lab.insert(lab),
            Err(why) => {
                self.broken = modes.iter().map(|mode| (*mode, why.clone())).collect();
                return;
            }
        };
        for mode in modes.into_iter().filter(|mode| mode.is_built(beside)) {
            if self.clock.is_over() {
                self.broken.push((mode, "no time was left".to_owned()));
                continue;
            }
            let means = self.options.means();
            match failure::caught(|| Stage::build(lab, mode, beside, &means)) {
                Ok(stage) => self.stages.push(stage),
                Err(why) => self
                    .broken
                    .push((mode, format!("building its nodes: {why}"))),
            }
        }
    }

    fn group(&mut self, group: &Group) {
        let effort = self.options.effort();
        let mut series = rounds::measure(
            &mut self.stages,
            group,
            effort,
            &self.clock,
            &mut self.progress,
        );
        for (mode, why) in &self.broken {
            if group.admits(*mode) {
                for series in &mut series {
                    series.failed.insert(*mode, why.clone());
                }
            }
        }
        self.progress.clear();
        print!("{}", table::group(&series, self.modes));
        self.document.series.extend(series);
    }

    fn in_traffic(&mut self, condition: Condition) {
        let first = self.document.in_traffic.len();
        for (mode, why) in &self.broken {
            if mode.fits(condition) && mode.flags().is_some() {
                let line = format!("programs in traffic, {}: {why}", mode.name());
                self.document.failures.push(line);
            }
        }
        for stage in &mut self.stages {
            if !stage.mode.fits(condition) || stage.counters.is_empty() {
                continue;
            }
            let (clock, progress) = (&self.clock, &mut self.progress);
            let costs = failure::caught(|| live::measure(stage, condition, clock, progress));
            match costs.and_then(|costs| costs) {
                Ok(costs) => self.document.in_traffic.extend(costs),
                Err(why) => {
                    let line = format!("programs in traffic, {}: {why}", stage.mode.name());
                    self.document.failures.push(line);
                }
            }
        }
        self.progress.clear();
        let costs = &self.document.in_traffic[first..];
        print!("{}", table::costs(live::TITLE, costs));
    }

    fn programs(&mut self) {
        let costs = if self.clock.is_over() {
            Err("no time was left".to_owned())
        } else {
            failure::caught(programs::measure)
        };
        self.progress.clear();
        match costs {
            Ok(costs) => {
                print!("{}", table::costs(programs::TITLE, &costs));
                self.document.programs = costs;
            }
            Err(why) => {
                let line = format!("{}: {why}", programs::TITLE);
                self.document.failures.push(line);
            }
        }
    }

    /// After each step: a run that is stopped leaves what it had.
    fn save(&mut self) {
        if let Err(why) = self.document.write(&self.options.out()) {
            self.progress.clear();
            eprintln!("{}", short(&why));
        }
    }
}
