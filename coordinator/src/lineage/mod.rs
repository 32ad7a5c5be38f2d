//! Tells a receiver of [OpenLineage](https://openlineage.io) events what runs read and write.
//!
//! A run of a job is a run there too, and each of its stages is one below it (facet `parent`): the
//! job's events name corpus, datasets and all tables, a stage's what it reads itself and its own
//! tables. Each begins with `START` and ends with one of `COMPLETE`, `FAIL` and `ABORT` (somebody
//! asked to stop).
//!
//! 1. [`settings`]: whether there is a receiver, from the environment or the job file.
//! 2. [`event`] makes events of plain values, with [`datasets`] named as the standard wants it.
//! 3. [`sender`] posts them from a bounded queue.
//!
//! A receiver that is slow or gone costs a run a warning, and at most one timeout at its end.

mod datasets;
mod event;
mod sender;
mod settings;

use std::path::Path;

use gleaner_schemas::job::Corpus;
use gleaner_schemas::{RunId, TableFile, Version};
use gleaner_storage::{Output, layout, redact, stores};
use gleaner_workers::shutdown::Shutdown;
use gleaner_workers::stage::Need;
use serde_json::{Value, json};

use crate::checked_job::{CheckedJob, CheckedStage};
use crate::driver::{FinishedStage, JobInputs};
use crate::inputs::InputSet;
use crate::publish::Published;
use crate::run_error::RunError;
use datasets::{Dataset, Size};
use event::{EventType, JobName, RunEvent};
use sender::Sender;
use settings::Settings;

/// Sends the events of one run of a job; nothing where there is no receiver.
#[derive(Debug)]
pub struct RunEvents<'a> {
    to: Option<Receiver<'a>>,
}

#[derive(Debug)]
struct Receiver<'a> {
    sender: Sender,
    namespace: String,
    job: &'a CheckedJob,
    base_dir: &'a Path,
    output: &'a Output,
    run: &'a RunId,
}

impl<'a> RunEvents<'a> {
    /// Begins the run of a job.
    pub fn begin(
        job: &'a CheckedJob,
        base_dir: &'a Path,
        output: &'a Output,
        run: &'a RunId,
    ) -> Self {
        let settings = Settings::of(job.job.file.lineage.as_ref(), |name| {
            std::env::var(name).ok()
        });
        let opened = settings.and_then(|settings| {
            settings
                .map(|settings| Ok((settings.namespace.clone(), Sender::start(settings)?)))
                .transpose()
        });
        let to = match opened {
            Ok(None) => None,
            Ok(Some((namespace, sender))) => Some(Receiver {
                sender,
                namespace,
                job,
                base_dir,
                output,
                run,
            }),
            Err(reason) => {
                tracing::warn!(reason, "no lineage events are sent");
                None
            }
        };
        let events = Self { to };
        if let Some(to) = &events.to {
            to.send(
                EventType::Start,
                None,
                to.job_inputs(None),
                Vec::new(),
                None,
            );
        }
        events
    }

    /// A stage begins.
    pub fn stage_started(&self, stage: &CheckedStage, inputs: &JobInputs) {
        if let Some(to) = &self.to {
            let read = to.stage_inputs(stage, inputs);
            to.send(EventType::Start, Some(stage), read, Vec::new(), None);
        }
    }

    /// A stage is complete.
    pub fn stage_finished(&self, stage: &CheckedStage, inputs: &JobInputs, done: &FinishedStage) {
        if let Some(to) = &self.to {
            let tables = done.completed.tables.iter();
            let written = tables.map(|(name, files)| {
                let written = to.table(name).with_written(Size::of_files(files));
                match name == &stage.name {
                    true => written.with_schema(&done.completed.schema),
                    false => written,
                }
            });
            let (read, written) = (to.stage_inputs(stage, inputs), written.collect());
            to.send(EventType::Complete, Some(stage), read, written, None);
        }
    }

    /// A stage ended without success.
    pub fn stage_failed(&self, stage: &CheckedStage, inputs: &JobInputs, error: &RunError) {
        if let Some(to) = &self.to {
            let read = to.stage_inputs(stage, inputs);
            to.send(
                EventType::of(error),
                Some(stage),
                read,
                Vec::new(),
                Some(error),
            );
        }
    }

    /// The run ends. Waits for events that are not sent yet, for as long as one may take.
    pub async fn end(
        self,
        inputs: Option<&JobInputs>,
        ended: Result<&Published, &RunError>,
        shutdown: &Shutdown,
    ) {
        let Some(to) = self.to else { return };
        let read = to.job_inputs(inputs);
        match ended {
            Ok(published) => {
                let written = to.version(&published.version);
                to.send(EventType::Complete, None, read, written, None);
            }
            Err(error) => to.send(EventType::of(error), None, read, Vec::new(), Some(error)),
        }
        to.sender.finish(shutdown).await;
    }
}

impl Receiver<'_> {
    fn name(&self, stage: Option<&CheckedStage>) -> JobName {
        let job = &self.job.job.file.name;
        JobName {
            namespace: self.namespace.clone(),
            name: match stage {
                Some(stage) => format!("{job}.{}", stage.name),
                None => job.clone(),
            },
        }
    }

    fn send(
        &self,
        event_type: EventType,
        stage: Option<&CheckedStage>,
        inputs: Vec<Dataset>,
        outputs: Vec<Dataset>,
        error: Option<&RunError>,
    ) {
        let parent = (self.name(None), event::run_id(self.run, None));
        let (job_type, sql) = match stage {
            None => ("JOB", None),
            Some(stage) => {
                let params = stage.stage.params();
                let sql = params.get("sql").and_then(Value::as_str);
                (stage.kind.name(), sql.map(redact::redact))
            }
        };
        let event = RunEvent {
            event_type,
            time: chrono::Utc::now(),
            run_id: event::run_id(self.run, stage.map(|stage| stage.name.as_str())),
            job: self.name(stage),
            job_type,
            sql,
            parent: stage.map(|_| parent),
            error: error.map(|error| redact::redact(&error.to_string())),
            inputs,
            outputs,
        };
        self.sender.send(event.to_json());
    }

    /// Corpus and datasets, with their sizes once they are known.
    fn job_inputs(&self, inputs: Option<&JobInputs>) -> Vec<Dataset> {
        let file = &self.job.job.file;
        let mut read = self.input(&file.corpus, inputs.map(|it| &it.corpus));
        for (name, dataset) in &file.datasets {
            let found = inputs.and_then(|it| it.datasets.get(name));
            read.extend(self.input(dataset, found));
        }
        datasets::distinct(read)
    }

    fn stage_inputs(&self, stage: &CheckedStage, inputs: &JobInputs) -> Vec<Dataset> {
        let file = &self.job.job.file;
        let read = stage.stage.needs().into_iter().flat_map(|need| match need {
            Need::Corpus => self.input(&file.corpus, Some(&inputs.corpus)),
            Need::Dataset(name) | Need::Pairs(name) => match file.datasets.get(&name) {
                Some(dataset) => self.input(dataset, inputs.datasets.get(&name)),
                None => Vec::new(),
            },
            Need::Stage(name) => vec![self.table(&name)],
            Need::Published(text) | Need::Model(text) | Need::Encoder(text) => {
                let uri = stores::absolute_uri(&text, self.base_dir);
                uri.iter().map(|uri| Dataset::at(uri)).collect()
            }
        });
        datasets::distinct(read.collect())
    }

    /// The places that an input names. How much lies at which of several is not known.
    fn input(&self, input: &Corpus, found: Option<&InputSet>) -> Vec<Dataset> {
        let places = input.paths.iter();
        let places = places.filter_map(|path| stores::absolute_uri(path, self.base_dir).ok());
        let places: Vec<Dataset> = places.map(|uri| Dataset::matching(&uri)).collect();
        let mut places = datasets::distinct(places);
        if let ([place], Some(found)) = (places.as_mut_slice(), found) {
            *place = place
                .clone()
                .with_schema(&found.schema)
                .with_read(Size::of_input(found));
        }
        places
    }

    fn table(&self, table: &str) -> Dataset {
        Dataset::at(&self.output.uri_of(&layout::table_folder(table)))
    }

    fn version(&self, version: &Version) -> Vec<Dataset> {
        let tables = version.tables.iter();
        tables
            .map(|(name, table)| {
                self.table(name)
                    .with_schema(&table.schema)
                    .with_version(table.since_version)
                    .with_written(Size::of_files(&table.files))
            })
            .collect()
    }
}

impl Size {
    fn of_files(files: &[TableFile]) -> Self {
        Self {
            rows: Some(files.iter().map(|file| file.rows).sum()),
            bytes: files.iter().map(|file| file.bytes).sum(),
            files: files.len() as u64,
        }
    }

    fn of_input(input: &InputSet) -> Self {
        Self {
            rows: input.n_rows(),
            bytes: input.bytes(),
            files: input.files.len() as u64,
        }
    }
}

impl EventType {
    fn of(error: &RunError) -> Self {
        match error {
            RunError::Interrupted => Self::Abort,
            _ => Self::Fail,
        }
    }
}

/// A facet, with what each must say of itself.
fn facet(file: &str, mut fields: Value) -> Value {
    let name = file.split_once('/').map_or(file, |(_, name)| name);
    if let Some(fields) = fields.as_object_mut() {
        let schema = format!("https://openlineage.io/spec/facets/{file}.json#/$defs/{name}");
        fields.insert("_producer".to_owned(), json!(event::PRODUCER));
        fields.insert("_schemaURL".to_owned(), json!(schema));
    }
    fields
}
