//! What the stage asks for, step by step.

use arrow::datatypes::Schema as ArrowSchema;

use super::*;
use crate::testing::{check, job};
use gleaner_schemas::PhaseManifest;

const STAGE: &str = "  w: {kind: importance_weights, target: [one, two], fit_sample: all}\n";

fn stage(text: &str) -> Arc<dyn Stage> {
    check(&job(text), "w").unwrap()
}

fn manifest(phase: &str) -> PhaseManifest {
    PhaseManifest {
        stage: "w".to_owned(),
        phase: phase.to_owned(),
        plan: gleaner_schemas::Fingerprint::of("test", &phase).into(),
        attempts: Vec::new(),
        quarantined: Vec::new(),
        lanes: gleaner_schemas::Lanes::default(),
    }
}

/// Takes the maps that the stage asks for, until it asks for something else.
fn maps_until(
    stage: &dyn Stage,
    maps: &mut BTreeMap<String, Arc<PhaseManifest>>,
) -> (Vec<MapPhase>, Step) {
    let schema = Arc::new(ArrowSchema::empty());
    let mut taken = Vec::new();
    loop {
        let step = stage.next(&Completed {
            maps,
            reduces: &BTreeMap::new(),
            published: None,
            others: &BTreeMap::new(),
            stages: &BTreeMap::new(),
            models: &BTreeMap::new(),
            corpus_schema: &schema,
        });
        match step.unwrap() {
            Step::Map(phase) => {
                maps.insert(phase.name.clone(), Arc::new(manifest(&phase.name)));
                taken.push(phase);
            }
            other => return (taken, other),
        }
    }
}

#[test]
fn each_target_is_counted_then_the_corpus_then_the_model_is_fitted_on_them() {
    let (maps, step) = maps_until(stage(STAGE).as_ref(), &mut BTreeMap::new());
    let names: Vec<&str> = maps.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["count-target-one", "count-target-two", "count-raw"]);
    let Step::Reduce(fit) = step else {
        panic!("{step:?}")
    };
    assert_eq!(fit.name, FIT);
    assert_eq!(fit.inputs, names);
}

#[test]
fn the_outlook_is_what_a_run_goes_through() {
    for sample in ["all", "auto"] {
        let stage = stage(&STAGE.replace("all", sample));
        let (maps, _) = maps_until(stage.as_ref(), &mut BTreeMap::new());
        let outlook = stage.outlook();
        let (score, counts) = outlook.split_last().unwrap();
        assert_eq!(counts.len(), maps.len());
        for (expected, map) in counts.iter().zip(&maps) {
            assert_eq!(expected.name, map.name);
            assert_eq!(expected.input, map.input);
            assert_eq!(expected.is_table, map.is_table);
        }
        assert!(score.is_table);
        assert_eq!(score.name, SCORE);
    }
}

#[test]
fn a_named_model_is_not_fitted() {
    let stage = stage("  w: {kind: importance_weights, model: other/weights}\n");
    let outlook = stage.outlook();
    assert_eq!(outlook.len(), 1);
    assert_eq!(outlook[0].name, SCORE);
    let needs = stage.needs();
    assert_eq!(
        needs,
        [Need::Corpus, Need::Published("other/weights".to_owned())]
    );
}

#[test]
fn phases_of_targets_have_names_of_their_own_that_paths_can_hold() {
    let targets = ["Ärzte", "ärzte", "a b", "a-b", "a_b"].map(str::to_owned);
    let phases = count_phases(&targets);
    let mut names: Vec<&String> = phases.iter().map(|(_, phase)| phase).collect();
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    assert!(
        names.iter().all(|name| name.chars().all(is_plain)),
        "{names:?}"
    );
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), targets.len());
}
