//! SQL over an output: DataFusion with the version's tables, the corpus and Gleaner's functions.
//!
//! Every table of the version is a table by its name; `corpus` is the corpus of the job with all
//! columns of all its files; the schema `gleaner` describes the version ([`system`]); the
//! functions are in [`functions`]. Scores meet their documents by id:
//! `corpus JOIN weights ON corpus.id = weights.doc_id` where the corpus has an id column, else by
//! `input_file` and `input_row`, which `corpus` has too. Only queries are run: nothing that SQL
//! can say changes an output, or reads what is not its own unless the user allows it ([`paths`]).

mod attempts;
mod catalog;
mod checks;
mod corpus;
mod error;
pub mod format;
pub mod functions;
mod jsonl;
pub mod options;
pub mod parameters;
mod paths;
mod pinned;
mod places;
pub mod prompt;
pub mod system;
mod table;
mod witness;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider};
use datafusion::common::TableReference;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures::TryStreamExt as _;
use gleaner_schemas::{SourceFile, Version};
use gleaner_storage::{Output, Stores};
use gleaner_workers::stage::CompletedStage;
use serde_json::Value;

pub(crate) use catalog::CORPUS;
use catalog::{PublicSchema, StoredTable, SystemSchema};
use corpus::Corpus;
use functions::Models;
use options::{Attached, SessionOptions};
use parameters::Parameters;
use paths::{Beyond, PathTables};
pub(crate) use places::with_places;
use places::{PLACES, PlacesSchema};
use witness::{Witness, WitnessedStore};

pub use error::SqlError;

const CATALOG: &str = "output";
const PUBLIC: &str = "public";
const SYSTEM: &str = "gleaner";

/// What a function needs to know about a stage.
#[derive(Debug, Clone)]
pub(crate) struct StageInfo {
    pub(crate) kind: String,
    pub(crate) params: Value,
    pub(crate) facts: BTreeMap<String, Value>,
}

/// A DataFusion session over an output.
#[derive(Clone)]
pub struct Session {
    context: SessionContext,
    tables: Arc<[String]>,
    models: Arc<Models>,
    witness: Arc<Witness>,
    beyond: Beyond,
    parameters: Arc<Parameters>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

struct Parts<'a> {
    stores: &'a Stores,
    output: &'a Output,
    tables: BTreeMap<String, StoredTable>,
    corpus: &'a [Arc<SourceFile>],
    corpus_schema: Option<&'a SchemaRef>,
    stages: BTreeMap<String, StageInfo>,
    beyond: Beyond,
    options: SessionOptions,
}

impl Session {
    /// A session over a published version. Reads nothing yet.
    ///
    /// # Errors
    ///
    /// If no store serves the corpus.
    pub async fn open(
        stores: &Stores,
        output: &Output,
        version: &Version,
    ) -> Result<Self, SqlError> {
        Self::open_with(stores, output, version, SessionOptions::default())
    }

    /// The same, for queries that must keep within some memory; what they can spill, they do.
    ///
    /// # Errors
    ///
    /// As [`Session::open`].
    pub fn open_within(
        stores: &Stores,
        output: &Output,
        version: &Version,
        memory_bytes: usize,
    ) -> Result<Self, SqlError> {
        let options = SessionOptions {
            memory_bytes: Some(memory_bytes),
            ..SessionOptions::default()
        };
        Self::open_with(stores, output, version, options)
    }

    /// A session over a published version, with what the options say. Reads nothing yet.
    ///
    /// # Errors
    ///
    /// If no store serves a corpus, or two outputs are attached by one name.
    pub fn open_with(
        stores: &Stores,
        output: &Output,
        version: &Version,
        options: SessionOptions,
    ) -> Result<Self, SqlError> {
        options::check_names(&options.attached)?;
        let stages = version
            .stages
            .iter()
            .map(|(name, stage)| {
                let info = StageInfo {
                    kind: stage.kind.clone(),
                    params: stage.params.clone(),
                    facts: stage.facts.clone(),
                };
                (name.clone(), info)
            })
            .collect();
        let parts = Parts {
            stores,
            output,
            tables: tables_of(version),
            corpus: &version.corpus,
            corpus_schema: None,
            stages,
            beyond: match options.base_dir {
                Some(_) => Beyond::Paths,
                None => Beyond::OnRequest,
            },
            options,
        };
        let session = Self::of_parts(parts, |catalog| {
            let system = SystemSchema {
                output: output.clone(),
                version: Arc::new(version.clone()),
            };
            catalog.register_schema(SYSTEM, Arc::new(system))
        })?;
        Ok(session)
    }

    /// A session over the stages of a run that are complete, for stages that are queries. Rows
    /// come in the order of files and row groups where a query leaves the order open.
    ///
    /// # Errors
    ///
    /// If no store serves the corpus.
    pub async fn for_stages(
        stores: &Stores,
        output: &Output,
        stages: &BTreeMap<String, CompletedStage>,
        corpus: &[Arc<SourceFile>],
        corpus_schema: &SchemaRef,
    ) -> Result<Self, SqlError> {
        let mut tables = BTreeMap::new();
        for (stage, completed) in stages {
            for (name, files) in &completed.tables {
                let schema = (name == stage).then(|| Arc::clone(&completed.schema));
                tables.insert(name.clone(), StoredTable::new(schema, files.clone()));
            }
        }
        let infos = stages
            .iter()
            .map(|(name, completed)| {
                let info = StageInfo {
                    kind: completed.kind.clone(),
                    params: completed.params.clone(),
                    facts: completed.facts.clone(),
                };
                (name.clone(), info)
            })
            .collect();
        let parts = Parts {
            stores,
            output,
            tables,
            corpus,
            corpus_schema: Some(corpus_schema),
            stages: infos,
            beyond: Beyond::Nothing,
            options: SessionOptions {
                target_partitions: Some(1),
                ..SessionOptions::default()
            },
        };
        Self::of_parts(parts, |_| Ok(None))
    }

    fn of_parts(
        parts: Parts<'_>,
        extend: impl FnOnce(
            &MemoryCatalogProvider,
        ) -> datafusion::common::Result<
            Option<Arc<dyn datafusion::catalog::SchemaProvider>>,
        >,
    ) -> Result<Self, SqlError> {
        let n_cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let mut config = SessionConfig::new()
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(CATALOG, PUBLIC)
            .with_information_schema(true)
            .with_target_partitions(parts.options.target_partitions.unwrap_or_else(n_cores));
        let options = config.options_mut();
        options.execution.parquet.pushdown_filters = true;
        options.sql_parser.collect_spans = false;
        let mut runtime = RuntimeEnvBuilder::new();
        if let Some(memory_bytes) = parts.options.memory_bytes {
            runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)));
        }
        let runtime: Arc<RuntimeEnv> = Arc::new(runtime.build()?);
        let witness = Arc::new(Witness::default());
        let store = Arc::clone(parts.output.store());
        let store = register(&runtime, &witness, "output", store)?;
        let mut tables: Vec<String> = parts.tables.keys().cloned().collect();
        tables.push(CORPUS.to_owned());
        let paths = parts.options.base_dir.map(|base_dir| {
            let (runtime, witness) = (Arc::clone(&runtime), Arc::clone(&witness));
            PathTables::new(parts.stores.clone(), base_dir, runtime, witness)
        });
        let public = Arc::new(PublicSchema {
            paths,
            output: parts.output.clone(),
            store,
            tables: parts.tables,
            corpus: Corpus::new(
                parts.stores,
                |name, store| register(&runtime, &witness, name, store),
                parts.corpus,
                parts.corpus_schema,
            )?,
        });
        let catalog = MemoryCatalogProvider::new();
        if !matches!(parts.beyond, Beyond::Nothing) {
            catalog.register_schema(PLACES, Arc::new(PlacesSchema(Arc::clone(&public))))?;
        }
        catalog.register_schema(PUBLIC, public)?;
        for (number, attached) in parts.options.attached.into_iter().enumerate() {
            let names = attached.version.tables.keys().map(String::as_str);
            let names = names.chain([CORPUS]);
            tables.extend(names.map(|table| format!("{}.{table}", attached.name)));
            let name = attached.name.clone();
            let schema = attach(parts.stores, &runtime, &witness, number, attached)?;
            catalog.register_schema(&name, Arc::new(schema))?;
        }
        extend(&catalog)?;
        if catalog.schema(SYSTEM).is_some() {
            tables.extend(system::TABLES.iter().map(|name| format!("{SYSTEM}.{name}")));
        }
        let context = SessionContext::new_with_config_rt(config, runtime);
        context.register_catalog(CATALOG, Arc::new(catalog));
        let models = Arc::new(Models::new(parts.stages));
        functions::register(&context, &models);
        Ok(Self {
            context,
            tables: tables.into(),
            models,
            witness,
            beyond: parts.beyond,
            parameters: Arc::new(parts.options.parameters),
        })
    }

    /// Names of the tables, as a query names them.
    #[must_use]
    pub fn tables(&self) -> &[String] {
        &self.tables
    }

    /// The schema of a table.
    ///
    /// # Errors
    ///
    /// If there is no such table, or it cannot be opened.
    pub async fn schema_of(&self, table: &str) -> Result<SchemaRef, SqlError> {
        let reference = TableReference::parse_str(table);
        self.check_table(&reference)?;
        let provider = self.context.table_provider(reference).await?;
        Ok(provider.schema())
    }

    /// Runs a query. Its rows come as they are computed.
    ///
    /// # Errors
    ///
    /// If it is not a query, names something that does not exist, or cannot be planned.
    pub async fn query_stream(&self, sql: &str) -> Result<SendableRecordBatchStream, SqlError> {
        let plan = self.plan(sql).await?;
        self.models.load(self, &plan).await?;
        let executed = async {
            let frame = self.context.execute_logical_plan(plan).await?;
            frame.execute_stream().await
        };
        let stream = executed
            .await
            .map_err(|error| self.witness.restored(error))?;
        let witness = Arc::clone(&self.witness);
        let schema = stream.schema();
        let stream = stream.map_err(move |error| witness.restored(error));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    /// Runs a query and collects its rows.
    ///
    /// # Errors
    ///
    /// As [`Session::query_stream`], or if running it fails.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>, SqlError> {
        let stream = self.query_stream(sql).await?;
        Ok(stream.try_collect().await?)
    }

    async fn plan(&self, sql: &str) -> Result<LogicalPlan, SqlError> {
        let state = self.context.state();
        let dialect = state.config_options().sql_parser.dialect;
        let statement = state.sql_to_statement(sql, &dialect)?;
        for reference in state.resolve_table_references(&statement)? {
            self.check_table(&reference)?;
        }
        let plan = state.statement_to_plan(statement).await;
        let plan = plan.map_err(|error| self.witness.restored(error))?;
        let plan = self.parameters.fill(plan)?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|_| {
                SqlError::query(
                    format!(
                        "only queries can be run here, not {}",
                        error::first_word(sql)
                    ),
                    "an output is read-only for SQL; write SELECT, and keep rows with `gleaner sql \
                     --format parquet` or `gleaner export`",
                )
            })?;
        Ok(plan)
    }

    fn check_table(&self, reference: &TableReference) -> Result<(), SqlError> {
        check_table(reference, &self.tables, self.beyond)
    }
}

/// Checks what a query shows before there is a table: that it is SQL, and reads from these.
///
/// # Errors
///
/// If it does not.
pub fn check(sql: &str, tables: &[String]) -> Result<(), SqlError> {
    let state = SessionContext::new().state();
    let dialect = state.config_options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect)?;
    for reference in state.resolve_table_references(&statement)? {
        check_table(&reference, tables, Beyond::Nothing)?;
    }
    Ok(())
}

fn check_table(
    reference: &TableReference,
    tables: &[String],
    beyond: Beyond,
) -> Result<(), SqlError> {
    let name = match (reference.schema(), reference.table()) {
        (None | Some(PUBLIC), table) => table.to_owned(),
        (Some(SYSTEM), table) => format!("{SYSTEM}.{table}"),
        // `information_schema` and what else DataFusion knows of itself; another output's tables
        // are among ours.
        (Some(schema), table) => {
            let start = format!("{schema}.");
            if !tables.iter().any(|name| name.starts_with(&start)) {
                return Ok(());
            }
            format!("{schema}.{table}")
        }
    };
    if tables.contains(&name) {
        return Ok(());
    }
    match beyond {
        Beyond::Paths if paths::is_path(&name) => return Ok(()),
        Beyond::OnRequest if paths::is_path(&name) => {
            return Err(SqlError::query(
                format!("there is no table {name}, and files beside the output are not read"),
                "run `gleaner sql` with --allow-paths to read them",
            ));
        }
        _ => {}
    }
    let hint = match error::nearest(&name, tables.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean {nearest}? "),
        None => String::new(),
    };
    Err(SqlError::query(
        format!("there is no table {name}"),
        format!("{hint}the tables are {}", tables.join(", ")),
    ))
}

/// The tables of a version, none of them opened.
fn tables_of(version: &Version) -> BTreeMap<String, StoredTable> {
    let tables = version.tables.iter().map(|(name, table)| {
        let schema = Arc::new(table.schema.clone());
        let table = StoredTable::new(Some(schema), table.files.clone());
        (name.clone(), table)
    });
    tables.collect()
}

/// The schema with the tables and the corpus of another output.
fn attach(
    stores: &Stores,
    runtime: &RuntimeEnv,
    witness: &Arc<Witness>,
    number: usize,
    attached: Attached,
) -> Result<PublicSchema, SqlError> {
    let name = format!("attached-{number}");
    let store = Arc::clone(attached.output.store());
    Ok(PublicSchema {
        paths: None,
        store: register(runtime, witness, &name, store)?,
        tables: tables_of(&attached.version),
        corpus: Corpus::new(
            stores,
            |part, store| register(runtime, witness, &format!("{name}-{part}"), store),
            &attached.version.corpus,
            None,
        )?,
        output: attached.output,
    })
}

/// Registers a store under a name of our own: which store serves which URI is decided in one
/// place, [`Stores`], and not again by DataFusion.
fn register(
    runtime: &RuntimeEnv,
    witness: &Arc<Witness>,
    name: &str,
    store: Arc<dyn object_store::ObjectStore>,
) -> Result<ObjectStoreUrl, SqlError> {
    let url = ObjectStoreUrl::parse(format!("gleaner://{name}"))?;
    let store = WitnessedStore::new(store, Arc::clone(witness));
    runtime.register_object_store(url.as_ref(), Arc::new(store));
    Ok(url)
}

/// A text as a literal of SQL.
#[must_use]
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as an identifier of SQL, whatever letters it has.
#[must_use]
pub fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
