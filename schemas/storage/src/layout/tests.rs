use super::*;

#[test]
fn attempt_names_round_trip_flat_and_spread() {
    let task: TaskId = Fingerprint::of("t", "x").into();
    let id = AttemptId::new(5, &ContentHash::of(b"bytes"));
    for n_tasks in [1, 5000] {
        let key = attempt("weights", &task, &id, n_tasks);
        assert_eq!(
            parse_attempt(&key),
            Some((task.clone(), id.clone())),
            "{key}"
        );
    }
    assert_eq!(parse_attempt("weights/notes.txt"), None);
    assert_eq!(parse_attempt("weights/a-b.parquet"), None);
}

#[test]
fn chunks_of_manifests_are_told_from_manifests() {
    let plan = PlanId::from(Fingerprint::of("t", "x"));
    let content = ContentHash::of(b"chunk");
    let whole = phase_manifest("stage", "phase", &plan);
    let partial = partial_manifest("stage", "phase", &plan, &Fingerprint::of("t", "y"));
    for manifest in [whole, partial] {
        assert_eq!(parse_manifest_chunk(&manifest), None, "{manifest}");
        let chunk = manifest_chunk(&manifest, &content);
        assert_eq!(
            parse_manifest_chunk(&chunk),
            Some(content.clone()),
            "{chunk}"
        );
    }
}

#[test]
fn what_a_run_and_its_workers_tell_is_told_apart() {
    let run = RunId::new(7);
    // A host may be called anything.
    for worker in ["host-1-ab", "phase-1-2-3", "start-1-2.json"] {
        let key = attempt_records(&run, worker, 3);
        assert_eq!(parse_attempt_records(&key), Some(run.clone()), "{key}");
        assert_eq!(parse_run_event(&key), None, "{key}");
    }
    let key = run_event(&run, "phase-001");
    assert_eq!(parse_run_event(&key), Some((run, "phase-001")));
    assert_eq!(parse_attempt_records(&key), None);
}

#[test]
fn events_of_runs_round_trip() {
    let run = RunId::new(7);
    let key = run_event(&run, RUN_ENDED);
    assert_eq!(parse_run_event(&key), Some((run, RUN_ENDED)));
    assert_eq!(parse_run_event("_gleaner/runs/notes.txt"), None);
}

#[test]
fn what_lies_in_logs_of_delta_tables_is_told_apart() {
    let commit = delta_commit("chosen", 12);
    assert_eq!(commit, "chosen/_delta_log/00000000000000000012.json");
    assert_eq!(parse_delta_commit(&commit), Some(12));
    let name = |rest: &str| format!("chosen/_delta_log/00000000000000000012{rest}");
    for (key, checkpoint) in [
        (name(".json"), None),
        (name(".checkpoint.parquet"), Some((12, 1))),
        (
            name(".checkpoint.0000000002.0000000003.parquet"),
            Some((12, 3)),
        ),
        (
            name(".checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet"),
            None,
        ),
        (
            "chosen/_delta_log/_sidecars/00000000000000000012.json".to_owned(),
            None,
        ),
        ("chosen/_delta_log/12.json".to_owned(), None),
    ] {
        assert!(is_in_delta_log(&key), "{key}");
        assert_eq!(parse_delta_checkpoint(&key), checkpoint, "{key}");
        let is_commit = parse_delta_commit(&key).is_some();
        assert_eq!(is_commit, key == commit, "{key}");
    }
    assert!(!is_in_delta_log("chosen/00/x.parquet"));
}

#[test]
fn version_names_round_trip() {
    assert_eq!(parse_version(&version(12)), Some(12));
    assert_eq!(parse_version("_gleaner/versions/x.json"), None);
    assert_eq!(parse_card(&card(12)), Some(12));
    assert_eq!(parse_card(&version(12)), None);
}
