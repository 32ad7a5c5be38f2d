//! A map phase: planned, looked up or dispatched, and accounted for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gleaner_schemas::{PhaseManifest, PhasePlan, PlanId, Resource, Route, Shard, SideInput, Task};
use gleaner_storage::layout;
use gleaner_workers::stage::{DocumentSource, MapPhase, PhaseInput, SideTable};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{Driver, FinishedStage, Mode, OpenPhase, StageEnd, StageProgress};
use crate::allow;
use crate::checked_job::CheckedStage;
use crate::datasets::DatasetRows;
use crate::dispatch::{Dispatcher, PhaseEnd, PhaseOutcome, PhaseState, stored_manifest};
use crate::phase_input;
use crate::planner;
use crate::progress::{bytes, duration};
use crate::restore;
use crate::retry::retrying;
use crate::run_error::RunError;
use crate::splits;

impl Driver<'_> {
    /// Takes a map phase to its end, or says what is open in [`Mode::Plan`].
    ///
    /// # Errors
    ///
    /// If it cannot be completed, or more was given up than the job allows.
    pub(super) async fn map(
        &self,
        checked: &CheckedStage,
        phase: MapPhase,
        stages: &BTreeMap<String, FinishedStage>,
        progress: &mut StageProgress,
    ) -> Result<Option<StageEnd>, RunError> {
        let shutdown = &self.environment.shutdown;
        let started = Instant::now();
        let mut known: Option<PhaseState> = None;
        loop {
            let (plan, tasks) = self.plan_map(checked, &phase, stages, progress).await?;
            if tasks.is_empty() {
                return Err(RunError::Usage {
                    message: format!(
                        "stage {}, phase {}: there is nothing to read",
                        checked.name, phase.name
                    ),
                    help: Some("was every task of an earlier stage quarantined?".to_owned()),
                });
            }
            let plan_id = plan.plan_id(tasks.iter().map(|task| &task.id));
            let stored = retrying(shutdown, || {
                stored_manifest(self.output, &plan, &plan_id, &tasks)
            })
            .await?;
            let lost = match &stored {
                Some(manifest) if phase.is_table => {
                    let lost = || restore::lost_attempts(self.output, &plan.folder, manifest);
                    retrying(shutdown, lost).await?
                }
                _ => Vec::new(),
            };
            // To be made again: to `gleaner plan` these tasks are open.
            let stored = stored.filter(|_| self.mode == Mode::Run || lost.is_empty());
            let manifest = match (stored, self.mode) {
                (Some(manifest), _) if !lost.is_empty() => {
                    let dispatcher = self.dispatcher(checked, &phase.name, started);
                    let planned = (&plan, &plan_id, tasks.as_slice());
                    let restored = self.restore(&dispatcher, planned, manifest, &lost).await?;
                    let Some(outcome) = restored else { continue };
                    progress.reuse.n_reused += outcome.n_reused;
                    progress.work += outcome.work;
                    outcome.manifest
                }
                (Some(manifest), mode) => {
                    progress.reuse.n_reused += plan.n_tasks;
                    if mode == Mode::Run {
                        let dispatcher = self.dispatcher(checked, &phase.name, started);
                        dispatcher.reused(&plan, &plan_id).await;
                    }
                    manifest
                }
                (None, Mode::Plan) => {
                    progress.reuse.n_tasks += plan.n_tasks;
                    let open = self.open_phase(plan, &tasks).await?;
                    return Ok(Some(StageEnd::Open(Box::new(open), progress.so_far())));
                }
                (None, Mode::Run) => {
                    let shards = tasks.iter().map(|task| &task.shard);
                    let slow = self.slow_tasks(&checked.name, shards);
                    if let Some(slow) = slow.filter(|_| known.is_none()) {
                        self.environment.progress.note(&slow);
                    }
                    let dispatcher = self.dispatcher(checked, &phase.name, started);
                    let span = tracing::error_span!("phase", name = plan.phase, plan = %plan_id);
                    let ended = dispatcher.run_phase(&plan, &plan_id, &tasks, known.take());
                    match ended.instrument(span).await? {
                        PhaseEnd::Complete(outcome) => {
                            progress.reuse.n_reused += outcome.n_reused;
                            progress.work += outcome.work;
                            progress.is_computed |= outcome.n_reused < plan.n_tasks;
                            outcome.manifest
                        }
                        // Each split makes shards smaller, so that this ends.
                        PhaseEnd::Split(state) => {
                            known = Some(state);
                            continue;
                        }
                    }
                }
            };
            progress.reuse.n_tasks += plan.n_tasks;
            allow::check_phase(
                &self.job.job.file.allow,
                &manifest,
                plan.n_tasks,
                phase.is_table,
            )?;
            self.check_dataset(checked, &phase, &manifest)?;
            let manifest = Arc::new(manifest);
            progress.keep(&phase, &plan.folder, &manifest);
            return Ok(None);
        }
    }

    /// Whether a phase that reads a dataset found no more rows that cannot be used than the job
    /// allows. What servers' replies are worth is no matter of the dataset.
    fn check_dataset(
        &self,
        checked: &CheckedStage,
        phase: &MapPhase,
        manifest: &PhaseManifest,
    ) -> Result<(), RunError> {
        let PhaseInput::Documents {
            from: DocumentSource::Dataset(name),
            ..
        } = &phase.input
        else {
            return Ok(());
        };
        if phase.is_table || checked.stage.resource_of(&phase.name) == Resource::Network {
            return Ok(());
        }
        let rows = self.inputs.dataset_rows.get(name);
        let told = rows.map_or_else(String::new, DatasetRows::told);
        let (rejected, rows_in) = (manifest.lanes.rejected, manifest.lanes.rows_in);
        allow::check_dataset(&self.job.job.file.allow, name, rejected, rows_in, &told)
    }

    /// Makes the objects of a complete phase again that are gone. `None` if the phase has to be
    /// planned again.
    async fn restore(
        &self,
        dispatcher: &Dispatcher<'_>,
        (plan, plan_id, tasks): (&PhasePlan, &PlanId, &[Task]),
        manifest: PhaseManifest,
        lost: &[usize],
    ) -> Result<Option<PhaseOutcome>, RunError> {
        let (output, shutdown) = (self.output, &self.environment.shutdown);
        self.environment.progress.note(&format!(
            "{}: {} of {} objects are gone or cut short, and are made again",
            plan.stage,
            lost.len(),
            manifest.attempts.len()
        ));
        // What is left of them would be taken for them.
        for pinned in lost.iter().map(|idx| &manifest.attempts[*idx]) {
            let key = layout::pinned(pinned);
            retrying(shutdown, || output.delete(&key)).await?;
        }
        let PhaseEnd::Complete(outcome) = dispatcher.run_phase(plan, plan_id, tasks, None).await?
        else {
            return Ok(None);
        };
        let put_back = || restore::put_back(output, self.run, &plan.folder, &manifest, lost);
        if retrying(shutdown, put_back).await? {
            return Ok(Some(outcome));
        }
        // The world answers differently now: what is there from now on has a manifest of its own.
        let key = layout::phase_manifest(&plan.stage, &plan.phase, plan_id);
        retrying(shutdown, || output.delete(&key)).await?;
        Ok(None)
    }

    fn dispatcher(&self, checked: &CheckedStage, phase: &str, started: Instant) -> Dispatcher<'_> {
        let environment = self.environment;
        Dispatcher {
            stores: &environment.stores,
            output: self.output,
            queue: &environment.queue,
            task_ended: &environment.task_ended,
            trouble: &environment.trouble,
            n_slots: environment.n_slots,
            route: Route {
                resource: checked.stage.resource_of(phase),
                priority: self.job.job.file.priority,
            },
            patience: environment.patience,
            entropy: environment.entropy.as_ref(),
            run: self.run,
            journal: self.journal,
            progress: environment.progress.as_ref(),
            shutdown: &environment.shutdown,
            started,
        }
    }

    /// Shards of a phase that is not planned yet; `None` if what it reads is not there yet.
    ///
    /// # Errors
    ///
    /// If the stage names something that does not exist.
    pub fn expected_shards(
        &self,
        stage: &str,
        input: &PhaseInput,
    ) -> Result<Option<Vec<Shard>>, RunError> {
        let PhaseInput::Documents { from, .. } = input else {
            return Ok(None);
        };
        if matches!(from, DocumentSource::Stage(_)) {
            return Ok(None);
        }
        let sources = phase_input::Sources {
            inputs: self.inputs,
            stages: &BTreeMap::new(),
            own: ("", None),
            maps: &BTreeMap::new(),
            output: self.output,
        };
        Ok(Some(sources.shards(input, self.task_bytes(stage))?.1))
    }

    /// Bytes of input that a task of a stage has, about: less than the job file says where it would
    /// last too long.
    fn task_bytes(&self, stage: &str) -> u64 {
        let forecast = self.inputs.forecasts.get(stage);
        let most = forecast.and_then(|forecast| forecast.task_bytes_max);
        let task_bytes = self.job.job.file.task_bytes.bytes();
        most.map_or(task_bytes, |most| task_bytes.min(most))
    }

    /// A sentence about a stage whose longest task may not end in time, if there is one.
    #[must_use]
    pub fn slow_tasks<'s>(
        &self,
        stage: &str,
        shards: impl Iterator<Item = &'s Shard>,
    ) -> Option<String> {
        let speed = self.inputs.forecasts.get(stage)?.speed?;
        let seconds = |shard: &Shard| Duration::from_secs_f64(speed.seconds(shard).min(1e9));
        let longest = shards.max_by_key(|shard| seconds(shard))?;
        let task_timeout = self.job.job.file.task_timeout.duration();
        (seconds(longest) > task_timeout).then(|| {
            format!(
                "{stage}: a task with {} of input may take {} at {:.0} tokens per second, which is \
                 told low; should it not end within `task_timeout` ({}), raise that, set \
                 `max_tokens`, or write the input with smaller row groups",
                bytes(longest.bytes()),
                duration(seconds(longest)),
                speed.tokens_per_second,
                duration(task_timeout),
            )
        })
    }

    async fn plan_map(
        &self,
        checked: &CheckedStage,
        phase: &MapPhase,
        stages: &BTreeMap<String, FinishedStage>,
        progress: &StageProgress,
    ) -> Result<(PhasePlan, Vec<Task>), RunError> {
        let file = &self.job.job.file;
        let sources = phase_input::Sources {
            inputs: self.inputs,
            stages,
            own: (&checked.name, progress.table.as_deref()),
            maps: &progress.maps,
            output: self.output,
        };
        let most = checked.stage.task_bytes_max(&phase.name);
        let task_bytes = self.task_bytes(&checked.name).min(most.unwrap_or(u64::MAX));
        let (reader, mut shards) = sources.shards(&phase.input, task_bytes)?;
        let effects = phase.decision.as_ref().and_then(|it| it.effects.as_ref());
        if let Some(effects) = effects.filter(|effects| effects.len() == shards.len()) {
            for (shard, effect) in shards.iter_mut().zip(effects) {
                shard.effect = Some(effect.clone());
            }
        }
        let decision = phase.decision.as_ref().map(|it| it.value.clone());
        let decision = decision.unwrap_or_default();
        let folder = if phase.is_table {
            layout::table_folder(&checked.name)
        } else {
            layout::inner_folder(&checked.name, &phase.name)
        };
        let mut plan = PhasePlan {
            format: PhasePlan::format_of(&decision),
            stage: checked.name.clone(),
            kind: checked.kind.name().to_owned(),
            code_version: checked.kind.code_version(),
            phase: phase.name.clone(),
            params: phase.params.clone(),
            decision,
            side_inputs: self.side_inputs(&phase.side_inputs, progress)?,
            reader,
            folder,
            n_tasks: 0,
            n_rows: None,
            bytes: 0,
            memory_bytes: file.memory.bytes(),
            task_timeout_ms: u64::try_from(file.task_timeout.duration().as_millis())
                .unwrap_or(u64::MAX),
            is_whole: matches!(
                phase.input,
                PhaseInput::Inner {
                    in_one_task: true,
                    ..
                }
            ),
        };
        let shutdown = &self.environment.shutdown;
        let heed = || splits::heed(self.output, &plan, shards.clone());
        let shards = retrying(shutdown, heed).await?;
        let tasks = planner::tasks(&mut plan, shards);
        Ok((plan, tasks))
    }

    pub(super) fn side_inputs(
        &self,
        wanted: &[(String, SideTable)],
        progress: &StageProgress,
    ) -> Result<Vec<SideInput>, RunError> {
        wanted
            .iter()
            .map(|(name, table)| {
                let (output, file) = match table {
                    SideTable::ModelFile(file) => {
                        return Ok(SideInput {
                            name: name.clone(),
                            uri: file.uri(|path| self.output.uri_of(path)),
                            content: file.content.clone(),
                        });
                    }
                    SideTable::Reduce { phase, table } => {
                        let file = progress
                            .reduces
                            .get(phase)
                            .and_then(|result| result.tables.get(table));
                        (Some(self.output), file)
                    }
                    SideTable::Own(file) => (Some(self.output), Some(file)),
                    SideTable::Other { need, file } => (
                        self.inputs.others.get(need).map(|(output, _)| output),
                        Some(file),
                    ),
                };
                match (output, file) {
                    (Some(output), Some(file)) => Ok(SideInput {
                        name: name.clone(),
                        uri: output.uri_of(&file.path),
                        content: file.checksum.clone(),
                    }),
                    _ => Err(RunError::Internal(format!(
                        "a stage asks for side input {name}, which does not exist"
                    ))),
                }
            })
            .collect()
    }

    async fn open_phase(&self, plan: PhasePlan, tasks: &[Task]) -> Result<OpenPhase, RunError> {
        let attempts = self.output.attempts(&plan.folder).await?;
        let reused = || tasks.iter().filter(|task| attempts.contains_key(&task.id));
        let shards = tasks.iter().map(|task| &task.shard);
        Ok(OpenPhase {
            slow: self.slow_tasks(&plan.stage, shards),
            n_reused: reused().count() as u64,
            rows_reused: reused().filter_map(|task| task.shard.n_rows()).sum(),
            bytes_reused: reused().map(|task| task.shard.bytes()).sum(),
            plan,
        })
    }
}
