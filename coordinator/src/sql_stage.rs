//! A stage that is a query: DataFusion runs it here, its rows become a table.
//!
//! The rows are a function of the query and the tables that it reads, up to an order that the
//! query leaves open; whatever is stored first stands.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use futures::StreamExt as _;
use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{Failure, FailureKind, Fingerprint, Lanes, ReduceResult, TableFile, columns};
use gleaner_storage::{TableEncoder, layout};
use gleaner_workers::query::QueryKind;
use gleaner_workers::stage::{CompletedStage, StageKind as _};
use serde_json::{Value, json};

use crate::driver::{Driver, Mode};
use crate::inputs::InputSet;
use crate::reduce::{put_table, remove_lost};
use crate::restore;
use crate::retry::retrying;
use crate::run_error::RunError;
use crate::sql::{self, CORPUS, Session, SqlError};

/// Rows of one object of the table.
const ROWS_PER_OBJECT: u64 = 4 * 1024 * 1024;

/// A query and what it may read.
#[derive(Debug)]
pub struct Query<'a> {
    /// Name of the stage.
    pub stage: &'a str,
    /// The query.
    pub sql: &'a str,
    /// Earlier stages.
    pub tables: &'a BTreeMap<String, CompletedStage>,
}

/// The table that a query made.
#[derive(Debug)]
pub struct QueryTable {
    /// Its schema.
    pub schema: SchemaRef,
    /// Its objects.
    pub files: Vec<TableFile>,
    /// The stored result.
    pub result: ReduceResult,
    /// Whether the query ran just now.
    pub is_new: bool,
}

/// Checks the queries of a job against the tables that the stages before them will have.
#[must_use]
pub fn check(job: &Job) -> Vec<JobError> {
    let mut tables = vec![CORPUS.to_owned()];
    let mut errors = Vec::new();
    for (name, spec) in job.file.stages.iter() {
        let sql = spec.params.get("sql").and_then(Value::as_str);
        // An empty query is told by the kind itself.
        if let Some(sql) = sql.filter(|sql| spec.kind == QueryKind.name() && !sql.trim().is_empty())
            && let Err(error) = sql::check(sql, &tables)
        {
            errors.push(job.error_at(&format!("stages.{name}.sql"), error.to_string(), None));
        }
        tables.push(name.to_owned());
        tables.extend(["model", "ngrams"].map(|further| format!("{name}_{further}")));
    }
    errors
}

/// Runs a query, unless its result is stored. `None` if it would have to run and may not
/// ([`Mode::Plan`]).
///
/// # Errors
///
/// If the query is not valid or fails, or of the store.
pub async fn run(driver: &Driver<'_>, query: &Query<'_>) -> Result<Option<QueryTable>, RunError> {
    let id = query_id(query.sql, query.tables, &driver.inputs.corpus);
    let key = layout::reduce(query.stage, "query", &id);
    let shutdown = &driver.environment.shutdown;
    let stored: Option<ReduceResult> = retrying(shutdown, || {
        driver.output.get_json(&key, "result of a query")
    })
    .await?;
    let is_new = stored.is_none();
    let lost = match &stored {
        Some(result) => {
            let files: Vec<TableFile> = result.tables.values().cloned().collect();
            let is_lost = retrying(shutdown, || async {
                Ok(!restore::lost(driver.output, &files).await?.is_empty())
            });
            is_lost.await?
        }
        None => false,
    };
    let result = match stored {
        Some(_) if lost && driver.mode == Mode::Plan => return Ok(None),
        Some(result) if lost => {
            let computed = compute(driver, query, &id).await?;
            put_back(driver, &key, result, computed).await?
        }
        Some(result) => result,
        None if driver.mode == Mode::Plan => return Ok(None),
        None => {
            let computed = compute(driver, query, &id).await?;
            let stored = retrying(shutdown, || {
                driver
                    .output
                    .create_json(&key, "result of a query", computed.clone())
            })
            .await?;
            remove_lost(driver.output, &computed, &stored).await;
            stored
        }
    };
    let files: Vec<TableFile> = result.tables.values().cloned().collect();
    let schema = crate::phase_input::read_schema(driver.output, shutdown, &files).await?;
    Ok(Some(QueryTable {
        schema,
        files,
        result,
        is_new,
    }))
}

/// Puts the objects of a table that was made again where those of the stored result were; they are
/// the same unless the query leaves its order open.
async fn put_back(
    driver: &Driver<'_>,
    key: &str,
    stored: ReduceResult,
    computed: ReduceResult,
) -> Result<ReduceResult, RunError> {
    let (output, shutdown) = (driver.output, &driver.environment.shutdown);
    let pairs = || stored.tables.iter().zip(&computed.tables);
    let is_same = stored.tables.len() == computed.tables.len()
        && pairs().all(|((_, then), (_, now))| then.checksum == now.checksum);
    if !is_same {
        return retrying(shutdown, || async {
            output.delete(key).await?;
            output
                .create_json(key, "result of a query", computed.clone())
                .await
        })
        .await;
    }
    for ((_, then), (_, now)) in pairs().filter(|((_, then), (_, now))| then.path != now.path) {
        retrying(shutdown, || async {
            if let Some(bytes) = output.get(&now.path).await? {
                output.put(&then.path, bytes).await?;
                output.delete(&now.path).await?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(stored)
}

async fn compute(
    driver: &Driver<'_>,
    query: &Query<'_>,
    id: &Fingerprint,
) -> Result<ReduceResult, RunError> {
    // What is wrong with the query has its place in the job file; a store that cannot be reached
    // has not.
    let failed = |error: SqlError| match error {
        SqlError::Query { .. } => RunError::from(driver.job.job.error_at(
            &format!("stages.{}.sql", query.stage),
            error.to_string(),
            None,
        )),
        other => other.into(),
    };
    let session = Session::for_stages(
        &driver.environment.stores,
        driver.output,
        query.tables,
        &driver.inputs.corpus.sources(),
        &driver.inputs.corpus.schema,
    )
    .await
    .map_err(failed)?;
    let mut stream = session.query_stream(query.sql).await.map_err(failed)?;
    let schema = columns::with_field_ids(&stream.schema());
    let memory_bytes = driver.job.job.file.memory.bytes();
    let new_encoder = || {
        let encoder = TableEncoder::new(schema.clone(), memory_bytes)?;
        Ok::<_, Failure>(encoder.with_figures(&schema))
    };
    let mut encoder = new_encoder()?;
    let mut objects = Vec::new();
    let provenance = json!({ "query": id });
    while let Some(batch) = stream.next().await {
        if driver.environment.shutdown.is_draining() {
            return Err(RunError::Interrupted);
        }
        let batch = batch.map_err(|error| failed(error.into()))?;
        let batch = arrow::array::RecordBatch::try_new(schema.clone(), batch.columns().to_vec())
            .map_err(|error| {
                Failure::new(
                    FailureKind::Permanent,
                    format!("cannot store rows: {error}"),
                )
            })?;
        encoder.write(&batch)?;
        if encoder.rows() >= ROWS_PER_OBJECT {
            let full = std::mem::replace(&mut encoder, new_encoder()?);
            objects.push(put(driver, query.stage, id, objects.len(), full, &provenance).await?);
        }
    }
    if encoder.rows() > 0 || objects.is_empty() {
        objects.push(put(driver, query.stage, id, objects.len(), encoder, &provenance).await?);
    }
    Ok(ReduceResult {
        format: ReduceResult::FORMAT,
        stage: query.stage.to_owned(),
        phase: "query".to_owned(),
        id: id.clone(),
        facts: Value::Null,
        files: BTreeMap::new(),
        tables: objects
            .into_iter()
            .enumerate()
            .map(|(number, file)| (format!("{number:05}"), file))
            .collect(),
    })
}

async fn put(
    driver: &Driver<'_>,
    stage: &str,
    id: &Fingerprint,
    number: usize,
    encoder: TableEncoder,
    provenance: &Value,
) -> Result<TableFile, RunError> {
    let rows = encoder.rows();
    let lanes = Lanes {
        rows_in: rows,
        ok: rows,
        ..Lanes::default()
    };
    let bytes = encoder.finish(&lanes, provenance)?;
    let id = Fingerprint::of("query object", &(id, number));
    let environment = driver.environment;
    let file = put_table(
        driver.output,
        environment.entropy.as_ref(),
        &environment.shutdown,
        &layout::table_folder(stage),
        &id,
        bytes,
    )
    .await?;
    Ok(TableFile {
        rows,
        lanes,
        ..file
    })
}

/// The id of a table that a query makes: a hash of the query and of what it reads.
fn query_id(
    sql: &str,
    tables: &BTreeMap<String, CompletedStage>,
    corpus: &InputSet,
) -> Fingerprint {
    let contents: BTreeMap<_, Vec<_>> = tables
        .values()
        .flat_map(|stage| &stage.tables)
        .map(|(name, files)| (name, files.iter().map(|file| &file.checksum).collect()))
        .collect();
    // Rows may hold the files' names, and ids made of them.
    let files: Vec<_> = corpus
        .files
        .iter()
        .map(|file| (&file.file.name, &file.file.identity))
        .collect();
    Fingerprint::of("query", &(sql, contents, files))
}
