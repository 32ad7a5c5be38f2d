//! Scripted servers, an output that knows them, and tasks that ask them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, RecordBatch, StringArray, StringViewArray, UInt64Array,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use bytes::Bytes;
use gleaner_schemas::columns::{DOC_ID, INPUT_FILE, INPUT_ROW, REASON, SOURCE, TEXT};
use gleaner_schemas::job::Endpoint;
use gleaner_schemas::{
    EndpointSettings, Failure, PhasePlan, Reader, RunId, Shard, SourceFile, Task,
};
use gleaner_scripted_endpoint::{Script, ScriptedServer, ServerOptions};
use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, Stores, layout};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::batch_columns::permanent;
use crate::endpoint::access::{Endpoints, Exchanges};
use crate::endpoint::clock::SystemClock;
use crate::entropy::SeededEntropy;
use crate::generation::EndpointIdentity;
use crate::loss_reduction::model_param::{LogProbabilities, ServedModel};
use crate::loss_reduction::params::{ScoreParams, Unit};
use crate::loss_reduction::score_served::ScoreServedStage;
use crate::stage::{
    Build, BuildFromDirectory, Checkpoints, Derived, DocumentLookup, MapContext, MapStage as _,
    SideInputs,
};

/// Tasks of these tests have no side inputs, look nothing up and keep no state.
#[derive(Debug)]
struct Nothing;

impl SideInputs for Nothing {
    fn derived(&self, name: &str, _: &str, _: Build<'_>) -> Result<Derived, Failure> {
        Err(permanent(name))
    }

    fn directory(
        &self,
        name: &str,
        _: &str,
        _: BuildFromDirectory<'_>,
    ) -> Result<Derived, Failure> {
        Err(permanent(name))
    }
}

impl DocumentLookup for Nothing {
    fn for_each(
        &self,
        _: &SourceFile,
        _: &[u64],
        _: &SchemaRef,
        _: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        Ok(())
    }
}

impl Checkpoints for Nothing {
    fn latest(&self) -> Result<Option<Bytes>, Failure> {
        Ok(None)
    }

    fn keep(&self, _: Bytes) -> Result<(), Failure> {
        Ok(())
    }
}

/// Servers by the name of their endpoint, and an output that knows them.
pub(super) struct Scene {
    runtime: Runtime,
    servers: BTreeMap<String, ScriptedServer>,
    output: Output,
}

impl Scene {
    pub(super) fn new(servers: Vec<(&str, Script, ServerOptions)>) -> Self {
        let runtime = Runtime::new().unwrap();
        let stores = Stores::from_env();
        let stores = stores.with(
            "memory://served",
            Arc::new(object_store::memory::InMemory::new()),
        );
        let output = Output::open(&stores, "memory://served/out").unwrap();
        let mut started = BTreeMap::new();
        let mut endpoints = BTreeMap::new();
        for (name, script, options) in servers {
            let server = runtime.block_on(ScriptedServer::start(script, options));
            let server = server.unwrap();
            let endpoint = json!({ "url": server.url(), "model": "tiny", "attempts": 1 });
            let endpoint: Endpoint = serde_json::from_value(endpoint).unwrap();
            endpoints.insert(name.to_owned(), endpoint);
            started.insert(name.to_owned(), server);
        }
        let settings = EndpointSettings {
            format: EndpointSettings::FORMAT,
            run: RunId::new(1),
            started_ms: 0,
            endpoints,
        };
        let list = Numbered::new(output.clone(), layout::ENDPOINTS.to_owned());
        let bytes = serde_json::to_vec(&settings).unwrap();
        let appended = runtime.block_on(list.append(None, bytes.into()));
        assert!(appended.unwrap());
        Self {
            runtime,
            servers: started,
            output,
        }
    }

    /// One server as the endpoint `llm`.
    pub(super) fn of(script: Script, options: ServerOptions) -> Self {
        Self::new(vec![("llm", script, options)])
    }

    pub(super) fn served(&self, endpoint: &str, model: Option<&str>) -> ServedModel {
        ServedModel {
            endpoint: EndpointIdentity {
                name: endpoint.to_owned(),
                url: self.servers[endpoint].url(),
                model: "tiny".to_owned(),
            },
            model: model.map(str::to_owned),
            log_probabilities: LogProbabilities::Auto,
        }
    }

    /// A prior and a conditional model of the same server.
    pub(super) fn pair(&self) -> ScoreParams {
        params(vec![
            ("prior", self.served("llm", None)),
            ("conditional", self.served("llm", Some("tuned"))),
        ])
    }

    /// The rows of a task over documents, by a process that knows nothing of others.
    pub(super) fn run(
        &self,
        params: &ScoreParams,
        documents: &[Option<&str>],
    ) -> Result<RecordBatch, Failure> {
        let worker = "test".to_owned();
        let exchanges = Exchanges::new(
            worker,
            Arc::new(SeededEntropy::new(1)),
            Arc::new(SystemClock),
        );
        let params_json = json!(params);
        let task = task();
        let mut stage = ScoreServedStage::new(
            ScoreParams::clone(params),
            &MapContext {
                phase: "score",
                params: &params_json,
                decision: &Value::Null,
                task: &task,
                side_inputs: &Nothing,
                documents: Arc::new(Nothing),
                endpoints: Endpoints {
                    exchanges: &exchanges,
                    output: &self.output,
                    handle: self.runtime.handle(),
                },
                memory_bytes: 1 << 30,
                cancel: CancellationToken::new(),
                checkpoints: Arc::new(Nothing),
            },
        )?;
        let mut batches = Vec::new();
        let mut emit = |batch: RecordBatch| {
            batches.push(batch);
            Ok(())
        };
        stage.process(&batch(documents), &mut emit)?;
        stage.finish(&mut emit)?;
        assert_eq!(stage.lanes().rows_in, documents.len() as u64);
        Ok(concat_batches(&stage.output(), &batches).unwrap())
    }

    pub(super) fn n_requests(&self) -> usize {
        self.servers.values().map(|it| it.log().n_requests()).sum()
    }
}

pub(super) fn params(models: Vec<(&str, ServedModel)>) -> ScoreParams {
    ScoreParams {
        unit: Unit::Document,
        context: 0,
        max_tokens: None,
        dtype: Default::default(),
        device: Default::default(),
        eos: None,
        token_losses: true,
        models: models.iter().map(|(name, _)| (*name).to_owned()).collect(),
        servers: models
            .into_iter()
            .map(|(name, served)| (name.to_owned(), served))
            .collect(),
    }
}

fn task() -> Task {
    let plan = PhasePlan {
        format: PhasePlan::FORMAT,
        stage: "l".to_owned(),
        kind: "loss_reduction".to_owned(),
        code_version: 1,
        phase: "score".to_owned(),
        params: Value::Null,
        decision: Value::Null,
        side_inputs: Vec::new(),
        reader: Reader::Table {
            columns: Vec::new(),
        },
        folder: "l".to_owned(),
        n_tasks: 1,
        n_rows: None,
        bytes: 0,
        memory_bytes: 1 << 30,
        is_whole: true,
        task_timeout_ms: 60_000,
    };
    let shard = Shard::default();
    Task {
        id: plan.task_id(&shard),
        shard,
    }
}

fn batch(documents: &[Option<&str>]) -> RecordBatch {
    let ids: StringArray = (0..documents.len())
        .map(|row| Some(format!("d{row}")))
        .collect();
    let texts: StringViewArray = documents.iter().copied().collect();
    let reasons = documents.iter().map(|text| match text {
        Some(_) => None,
        None => Some("not UTF-8"),
    });
    let reasons: StringArray = reasons.collect();
    let sources: StringArray = documents.iter().map(|_| Some("web")).collect();
    let files: StringArray = documents.iter().map(|_| Some("a.parquet")).collect();
    let rows: UInt64Array = (0..documents.len() as u64).map(Some).collect();
    let columns: [(&str, ArrayRef); 6] = [
        (DOC_ID, Arc::new(ids)),
        (TEXT, Arc::new(texts)),
        (SOURCE, Arc::new(sources)),
        (REASON, Arc::new(reasons)),
        (INPUT_FILE, Arc::new(files)),
        (INPUT_ROW, Arc::new(rows)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Column `name` of row `row`, as a text.
pub(super) fn text(rows: &RecordBatch, name: &str, row: usize) -> String {
    let column = rows.column_by_name(name).unwrap();
    let texts = cast(column, &DataType::Utf8).unwrap();
    texts.as_string::<i32>().value(row).to_owned()
}

pub(super) fn number(rows: &RecordBatch, name: &str, row: usize) -> f64 {
    let column = rows.column_by_name(name).unwrap();
    let numbers = cast(column, &DataType::Float64).unwrap();
    numbers.as_primitive::<Float64Type>().value(row)
}
