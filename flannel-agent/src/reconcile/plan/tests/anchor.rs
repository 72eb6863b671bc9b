//! The device that stands for the VXLAN port.

use super::*;
use crate::base::options::Gro;
use crate::reconcile::actual::AnchorState;

fn anchored() -> Desired {
    with(Gro::Anchor, r#"{"Type":"vxlan"}"#)
}

fn with(gro: Gro, backend: &str) -> Desired {
    let mut world = World {
        config: config(backend),
        ..World::default()
    };
    world.fast_path.gro = gro;
    world.build().unwrap()
}

fn steps(desired: &Desired, model: &Model) -> Vec<String> {
    words(&plan(desired, &model.actual).unwrap())
}

const CREATE: &str = "create flanchor.8472, which makes GRO know UDP port 8472";

#[test]
fn it_comes_up_last_and_behind_its_program() {
    let mut model = Model::new(empty());
    model.actual.device = Device::KernelTunnel {
        mac: None,
        up: true,
    };
    let steps = steps(&anchored(), &model);
    let at = |word: &str| steps.iter().position(|step| step == word).unwrap();
    assert!(at(CREATE) < at("attach anchor_rx to ingress of flanchor.8472"));
    let [.., before, last] = &steps[..] else {
        panic!("{steps:?}");
    };
    assert_eq!(
        (before.as_str(), last.as_str()),
        ("delete flold.1", "set flanchor.8472 up")
    );
    model.converge(&anchored());
}

#[test]
fn it_is_left_alone_by_a_restart() {
    let mut model = Model::new(empty());
    model.converge(&anchored());
    model.new_process();
    let steps = steps(&anchored(), &model);
    assert!(
        !steps
            .iter()
            .any(|s| s == CREATE || s.starts_with("set flanchor")),
        "{steps:?}"
    );
    model.converge(&anchored());
}

#[test]
fn it_goes_when_it_is_not_wanted_any_more() {
    for gro in [Gro::Pair, Gro::None] {
        let mut model = Model::new(empty());
        model.converge(&anchored());
        let after = with(gro, r#"{"Type":"vxlan"}"#);
        model.look(&after);
        let steps = steps(&after, &model);
        assert!(
            steps.contains(&"delete flanchor.8472".to_owned()),
            "{steps:?}"
        );
        model.converge(&after);
        model.converge(&anchored());
    }
}

/// The kernel would take it along in the middle of the plan.
#[test]
fn it_is_made_anew_before_the_pair_goes_that_it_goes_with() {
    let mut model = Model::new(empty());
    model.converge(&anchored());
    let after = with(Gro::Anchor, r#"{"Type":"vxlan","VNI":2}"#);
    model.look(&after);
    let steps = steps(&after, &model);
    let at = |word: &str| steps.iter().position(|step| step == word).unwrap();
    assert!(at("delete flanchor.8472") < at(CREATE));
    assert!(at(CREATE) < at("delete flannel.1"));
    model.converge(&after);
}

#[test]
fn one_that_was_not_marked_in_time_is_finished() {
    let mut model = Model::new(empty());
    model.converge(&anchored());
    model.actual.anchor.wanted = Some(AnchorState {
        is_whole: false,
        up: false,
        lower: Some("flannel.1".to_owned()),
    });
    assert!(steps(&anchored(), &model).contains(&CREATE.to_owned()));
    model.converge(&anchored());
}
