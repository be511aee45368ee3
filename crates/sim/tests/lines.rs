//! Lines, rates and encoders as people have them: small runs of each kind, and a few points of the whole space.

use minuet_sim::{
    engine::SECOND,
    figures::{Bound, Figure, Figures},
    mesh::member::Tuning,
    run::{Engine, Job},
    scenario::{self, Knows, Profile, Scenario},
    space::survey,
};

fn short(name: &str, viewers: usize, seconds: u64) -> Scenario {
    let mut scenario = scenario::find(name).expect("a scenario of that name");
    scenario.viewers = viewers;
    scenario.stream.duration = seconds * SECOND;
    scenario
}

fn run(scenario: Scenario, seed: u64) -> Figures {
    Job { scenario, engine: Engine::Mesh, tuning: Tuning::default(), seed, threads: 1, trace: None }
        .run()
        .figures
}

fn check(scenario: Scenario, bounds: &[Bound]) {
    let (name, rate) = (scenario.name, scenario.stream.rate);
    let figures = run(scenario, 1);
    for bound in bounds {
        assert!(bound.holds(&figures), "{name} at {rate}: {bound:?} of {figures:#?}");
    }
}

const CALM: Bound = Bound::at_most(Figure::StallsSettled, 0.0);

/// With times that did not follow the stream's pace, 50 viewers of 1 Mbit/s got 16 % of it in time.
#[test]
fn a_stream_of_1_mbit_spreads_as_one_of_8_does() {
    for viewers in [20, 50] {
        let scenario = short("steady", viewers, 50).at_rate(125_000);
        check(
            scenario,
            &[CALM, Bound::at_most(Figure::SpreadP99, 3.0), Bound::at_most(Figure::SourceCopies, 1.1)],
        );
    }
}

#[test]
fn slow_and_fast_streams_play_over_lines_of_twice_their_rate() {
    for rate in [37_500, 250_000, 3_125_000] {
        let mut scenario = short("steady", 20, 50).at_rate(rate);
        scenario.profiles = vec![Profile::with(2.0)];
        scenario.source_up = 2.0;
        check(scenario, &[CALM]);
    }
}

#[test]
fn a_limit_on_a_line_with_a_queue_is_as_good_as_a_line_that_is_known() {
    let mut scenario = short("steady", 20, 40).at_rate(125_000);
    scenario.source_knows = Knows::Limit(0.9);
    scenario.profiles = vec![Profile { knows: Knows::Limit(0.9), ..Profile::with(1.5) }];
    check(scenario, &[CALM, Bound::at_most(Figure::SpreadP99, 2.5)]);
}

/// Viewers used to begin at the only key frame, 10 s behind, and wanted from the source all that lay between.
#[test]
fn a_channels_first_viewers_wait_for_a_key_frame_rather_than_for_the_past() {
    let mut scenario = short("opening", 12, 50).at_rate(750_000);
    scenario.stream.random_access = 10 * SECOND;
    check(scenario, &[CALM, Bound::at_most(Figure::JoinP95, 13.0)]);
}

/// Everybody used to try harder, and 30 % of the pieces came in time.
#[test]
fn where_uplinks_do_not_suffice_most_keep_their_picture_and_the_rest_are_told() {
    let scenario = short("lack", 40, 85);
    let figures = run(scenario, 1);
    assert!(figures.smooth >= 0.7, "{figures:#?}");
    assert_eq!(figures.stalls_recovered, 0, "{figures:#?}");
    assert!(figures.stood_back >= 1, "{figures:#?}");
}

#[test]
fn home_lines_are_found_out_without_a_stall() {
    for name in ["home", "wifi", "thin_down"] {
        check(short(name, 16, 50), &[Bound::at_most(Figure::StallsSettled, 2.0)]);
    }
}

#[test]
fn a_few_points_of_the_whole_space_keep_all_rules() {
    let only = ["viewers=12".to_owned()];
    let samples = survey::run(1, 8, &only, 1).unwrap();
    let broken: Vec<_> = samples.iter().filter(|sample| !sample.holds()).collect();
    assert!(broken.is_empty(), "{}", survey::told(&samples, &only));
}
