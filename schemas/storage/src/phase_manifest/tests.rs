use std::sync::Arc;

use gleaner_schemas::{AttemptId, Fingerprint, Lanes, PlanId};
use object_store::memory::InMemory;

use super::*;
use crate::stores::Stores;

const LARGE: usize = 2 * StoredPhaseManifest::ATTEMPTS_PER_CHUNK + 1;

fn output() -> Output {
    let stores = Stores::from_env().with("test://store", Arc::new(InMemory::new()) as _);
    Output::open(&stores, "test://store/out").unwrap()
}

fn manifest(n_attempts: usize, nonce: u32) -> (String, PhaseManifest) {
    let plan: PlanId = Fingerprint::of("plan", &n_attempts).into();
    let content = ContentHash::of(b"rows");
    let attempts = (0..n_attempts).map(|number| {
        let task = Fingerprint::of("task", &number).into();
        let attempt = AttemptId::new(nonce, &content);
        PinnedAttempt {
            folder: "stage".into(),
            task,
            attempt,
            rows: 1,
            bytes: 4,
            lanes: Lanes::default(),
            inputs: Vec::new(),
        }
    });
    let manifest = PhaseManifest {
        stage: "stage".to_owned(),
        phase: "table".to_owned(),
        plan: plan.clone(),
        attempts: attempts.collect(),
        quarantined: Vec::new(),
        lanes: Lanes::default(),
    };
    (layout::phase_manifest("stage", "table", &plan), manifest)
}

#[tokio::test]
async fn a_manifest_is_read_as_it_was_created_whatever_its_size() {
    for n_attempts in [0, 1, StoredPhaseManifest::ATTEMPTS_PER_CHUNK, LARGE] {
        let output = output();
        let (key, manifest) = manifest(n_attempts, 1);
        assert_eq!(output.phase_manifest(&key).await.unwrap(), None);
        let created = output.create_phase_manifest(&key, &manifest).await;
        assert_eq!(created.unwrap(), None);
        let read = output.phase_manifest(&key).await.unwrap();
        assert_eq!(read.as_ref(), Some(&manifest));
        // Every object below the folder names its part of the attempts.
        let mut named = BTreeSet::new();
        let objects = output.list(&layout::manifests("stage")).await.unwrap();
        assert_eq!(objects.len(), if n_attempts == LARGE { 4 } else { 1 });
        for object in objects {
            named.extend(output.named_by_manifest(&object.path).await.unwrap());
        }
        assert_eq!(named.len(), n_attempts);
    }
}

#[tokio::test]
async fn whoever_comes_second_gets_what_is_stored() {
    for n_attempts in [3, LARGE] {
        let output = output();
        let (key, first) = manifest(n_attempts, 1);
        let (_, second) = manifest(n_attempts, 2);
        assert_ne!(first, second);
        let created = output.create_phase_manifest(&key, &first).await;
        assert_eq!(created.unwrap(), None);
        let created = output.create_phase_manifest(&key, &second).await.unwrap();
        assert_eq!(created.as_ref(), Some(&first));
        let read = output.phase_manifest(&key).await.unwrap();
        assert_eq!(read, Some(first));
    }
}

#[tokio::test]
async fn a_chunk_that_is_damaged_or_gone_is_named() {
    let output = output();
    let (key, manifest) = manifest(LARGE, 1);
    output.create_phase_manifest(&key, &manifest).await.unwrap();
    let objects = output.list(&layout::manifests("stage")).await.unwrap();
    let chunk = objects
        .iter()
        .find(|object| layout::parse_manifest_chunk(&object.path).is_some())
        .unwrap();
    output.put(&chunk.path, "[]".into()).await.unwrap();
    let message = output.phase_manifest(&key).await.unwrap_err().to_string();
    assert!(message.contains(&chunk.path), "{message}");
    assert!(message.contains("its bytes are not those"), "{message}");
    output.delete(&chunk.path).await.unwrap();
    let message = output.phase_manifest(&key).await.unwrap_err().to_string();
    assert!(message.contains("it is missing"), "{message}");
}

#[tokio::test]
async fn the_format_before_is_read_and_one_to_come_is_refused() {
    let output = output();
    let (key, manifest) = manifest(1, 1);
    let pinned = &manifest.attempts[0];
    let file = serde_json::json!({
        "name": "a.parquet", "uri": "file:///a.parquet", "format": "parquet", "bytes": 9,
        "identity": "a",
    });
    let mut stored = serde_json::json!({
        "format": 1, "stage": "stage", "phase": "table", "plan": manifest.plan,
        "attempts": [{
            "task": pinned.task, "attempt": pinned.attempt, "path": layout::pinned(pinned), "rows": 1,
            "bytes": 4, "lanes": pinned.lanes, "inputs": [file],
        }],
        "quarantined": [], "lanes": manifest.lanes,
    });
    output.put_json(&key, "manifest", &stored).await.unwrap();
    let read = output.phase_manifest(&key).await.unwrap().unwrap();
    assert_eq!(read.attempts[0].inputs[0].name, "a.parquet");
    stored["format"] = 3.into();
    output.put_json(&key, "manifest", &stored).await.unwrap();
    let message = output.phase_manifest(&key).await.unwrap_err().to_string();
    assert!(message.contains("format 3"), "{message}");
}
