use std::sync::Arc;

use arrow::datatypes::Schema;
use gleaner_schemas::{
    ContentHash, Fingerprint, Lanes, PhaseManifest, PinnedAttempt, PlanId, Reuse,
};
use gleaner_storage::{Stores, layout};
use gleaner_workers::entropy::SystemEntropy;
use gleaner_workers::stage::CompletedStage;
use object_store::memory::InMemory;
use serde_json::json;

use super::*;
use crate::dispatch::Work;

const STAGE: &str = "stage";

/// An output in which one task has attempts, and runs have started.
struct World {
    output: Output,
    task: TaskId,
}

impl World {
    async fn new(attempts: &[u32]) -> Self {
        let stores = Stores::from_env().with("memory://m", Arc::new(InMemory::new()));
        let world = Self {
            output: Output::open(&stores, "memory://m/out").unwrap(),
            task: Fingerprint::of("task", &1).into(),
        };
        for nonce in attempts {
            let path = world.path(*nonce);
            world.output.put(&path, "rows".into()).await.unwrap();
        }
        world.event(1, layout::RUN_STARTED).await;
        world
    }

    fn attempt(nonce: u32) -> AttemptId {
        AttemptId::new(nonce, &ContentHash::of(b"rows"))
    }

    fn path(&self, nonce: u32) -> String {
        layout::attempt(STAGE, &self.task, &Self::attempt(nonce), 1)
    }

    async fn event(&self, run: u64, event: &str) {
        let key = layout::run_event(&RunId::new(run), event);
        self.output.put_json(&key, "event", &run).await.unwrap();
    }

    /// A manifest of some plan that names the attempt; stored, as every manifest is before
    /// anything is removed by it.
    async fn pin(&self, plan: u32, nonce: u32) -> PhaseManifest {
        let plan: PlanId = Fingerprint::of("plan", &plan).into();
        let manifest = PhaseManifest {
            stage: STAGE.to_owned(),
            phase: "table".to_owned(),
            plan: plan.clone(),
            attempts: vec![PinnedAttempt {
                task: self.task.clone(),
                attempt: Self::attempt(nonce),
                folder: layout::folder_of(&self.path(nonce)).into(),
                rows: 1,
                bytes: 4,
                lanes: Lanes::default(),
                inputs: Vec::new(),
            }],
            quarantined: Vec::new(),
            lanes: Lanes::default(),
        };
        let key = layout::phase_manifest(STAGE, "table", &plan);
        let created = self.output.create_phase_manifest(&key, &manifest).await;
        assert_eq!(created.unwrap(), None);
        manifest
    }

    /// A table of a reduce.
    fn table(&self, nonce: u32) -> TableFile {
        TableFile {
            path: self.path(nonce),
            rows: 1,
            bytes: 4,
            checksum: ContentHash::of(b"rows"),
            task: Some(self.task.clone()),
            lanes: Lanes::default(),
            inputs: Vec::new(),
        }
    }

    /// What is left when run 1 has removed what it may by this manifest.
    async fn left_after(&self, manifest: &PhaseManifest) -> Vec<u32> {
        let manifests = vec![(STAGE.to_owned(), Arc::new(manifest.clone()))];
        let finished = self.finished(BTreeMap::new(), manifests);
        self.left_of(finished).await
    }

    fn finished(
        &self,
        tables: BTreeMap<String, Vec<TableFile>>,
        manifests: Vec<(String, Arc<PhaseManifest>)>,
    ) -> FinishedStage {
        FinishedStage {
            completed: CompletedStage {
                kind: "query".to_owned(),
                params: json!({}),
                schema: Arc::new(Schema::empty()),
                facts: BTreeMap::new(),
                tables,
                lanes: Lanes::default(),
            },
            quarantined: Vec::new(),
            reuse: Reuse::default(),
            work: Work::default(),
            notes: Vec::new(),
            manifests,
            table: None,
        }
    }

    async fn left_of(&self, finished: FinishedStage) -> Vec<u32> {
        let stages = [(STAGE.to_owned(), finished)];
        let stages = [&stages[0]];
        let removed = remove(&self.output, &RunId::new(1), &stages, &SystemEntropy).await;
        removed.unwrap();
        assert!(self.output.list(layout::SWEEPS).await.unwrap().is_empty());
        let attempts = self.output.attempts(STAGE).await.unwrap();
        let left = attempts.into_values().flatten();
        let nonces = left.map(|it| (1..10).find(|nonce| Self::attempt(*nonce) == it.attempt));
        nonces.map(Option::unwrap).collect()
    }
}

#[tokio::test]
async fn what_lost_and_what_came_too_late_is_removed() {
    let world = World::new(&[2, 3, 4]).await;
    let manifest = world.pin(1, 3).await;
    assert_eq!(world.left_after(&manifest).await, [3]);
}

#[tokio::test]
async fn what_came_too_late_stays_while_a_run_goes_on_that_may_choose_it() {
    let world = World::new(&[2, 3]).await;
    world.event(2, layout::RUN_STARTED).await;
    let manifest = world.pin(1, 3).await;
    assert_eq!(world.left_after(&manifest).await, [2, 3]);
    // It did.
    world.pin(2, 2).await;
    world.event(2, layout::RUN_ENDED).await;
    assert_eq!(world.left_after(&manifest).await, [2, 3]);
}

#[tokio::test]
async fn the_last_of_two_runs_that_end_removes_what_both_left() {
    let world = World::new(&[2, 3, 4]).await;
    world.event(2, layout::RUN_STARTED).await;
    let manifest = world.pin(1, 3).await;
    world.event(1, layout::RUN_ENDED).await;
    assert_eq!(world.left_after(&manifest).await, [2, 3, 4]);
    world.event(2, layout::RUN_ENDED).await;
    assert_eq!(world.left_after(&manifest).await, [3]);
}

/// A coordinator was killed between its table and its result; which of the two is above the other
/// says nothing.
#[tokio::test]
async fn of_the_tables_of_a_reduce_the_named_one_is_left() {
    for named in [2, 3, 4] {
        let world = World::new(&[2, 3, 4]).await;
        let finished = world.finished(
            BTreeMap::from([(STAGE.to_owned(), vec![world.table(named)])]),
            Vec::new(),
        );
        assert_eq!(world.left_of(finished).await, [named]);
    }
}

#[tokio::test]
async fn what_another_plan_names_stays() {
    let world = World::new(&[3, 4, 5]).await;
    let manifest = world.pin(1, 3).await;
    world.pin(2, 4).await;
    assert_eq!(world.left_after(&manifest).await, [3, 4]);
}

#[tokio::test]
async fn what_another_run_may_have_chosen_stays_until_that_run_has_ended() {
    // Run 2 saw attempt 4 alone, before attempt 3 was there, and has not stored its manifest.
    let world = World::new(&[3, 4, 5]).await;
    world.event(2, layout::RUN_STARTED).await;
    let manifest = world.pin(1, 3).await;
    assert_eq!(world.left_after(&manifest).await, [3, 4, 5]);
    world.pin(2, 4).await;
    world.event(2, layout::RUN_ENDED).await;
    assert_eq!(world.left_after(&manifest).await, [3, 4]);
}

#[test]
fn a_run_that_was_killed_protects_what_it_chose_for_a_safe_age() {
    let now_ms = 10 * SAFE_AGE_MS;
    let mut others = Others {
        may_be_alive: true,
        now_ms,
    };
    assert!(!others.allow(now_ms));
    assert!(!others.allow(now_ms - SAFE_AGE_MS + 1));
    assert!(others.allow(now_ms - SAFE_AGE_MS));
    others.may_be_alive = false;
    assert!(others.allow(now_ms));
}
