//! Stage `query`: a query over earlier stages and the corpus; its rows are the stage's table.
//!
//! The coordinator runs it ([`Step::Sql`]), so there is no map and no reduce here.

use std::sync::Arc;

use gleaner_schemas::Failure;
use gleaner_schemas::job::{Job, JobError};
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::batch_columns::permanent;
use crate::stage::{
    Completed, ExpectedPhase, MapContext, MapStage, Need, Outcome, ReduceInputs, ReduceOutput,
    ReducePhase, Stage, StageKind, Step,
};

/// Name under which the coordinator records in [`Completed::reduces`] that the query has run.
pub const PHASE: &str = "query";

/// Parameters of a `query` stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryParams {
    /// One SELECT statement. Tables: `corpus`, and earlier stages by name.
    pub sql: String,
}

/// The kind `query`.
#[derive(Debug)]
pub struct QueryKind;

impl StageKind for QueryKind {
    fn name(&self) -> &'static str {
        "query"
    }

    fn code_version(&self) -> u32 {
        1
    }

    fn params_schema(&self) -> Schema {
        schema_for!(QueryParams)
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        let params: QueryParams = job.stage_params(name)?;
        if params.sql.trim().is_empty() {
            return Err(job.error_at(
                &format!("stages.{name}.sql"),
                "the query is empty",
                Some("write a SELECT over `corpus` and earlier stages".to_owned()),
            ));
        }
        Ok(Arc::new(Query {
            params,
            earlier: job.file.stages.before(name).map(str::to_owned).collect(),
        }))
    }

    fn open(&self, context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure> {
        Err(permanent(format!(
            "stage query has no map phase {}",
            context.phase
        )))
    }
}

#[derive(Debug)]
struct Query {
    params: QueryParams,
    earlier: Vec<String>,
}

impl Stage for Query {
    fn params(&self) -> Value {
        json!(self.params)
    }

    /// All that stands before: which tables a query reads is known only when it is planned.
    fn needs(&self) -> Vec<Need> {
        let stages = self.earlier.iter().cloned().map(Need::Stage);
        std::iter::once(Need::Corpus).chain(stages).collect()
    }

    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure> {
        Ok(match completed.reduces.get(PHASE) {
            None => Step::Sql(self.params.sql.clone()),
            Some(_) => Step::Done(Outcome::default()),
        })
    }

    fn outlook(&self) -> Vec<ExpectedPhase> {
        Vec::new()
    }

    fn reduce(
        &self,
        phase: &ReducePhase,
        _inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        Err(permanent(format!(
            "stage query has no reduce {}",
            phase.name
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, job};

    #[test]
    fn an_empty_query_is_refused() {
        let error = check(&job("  q: {kind: query, sql: \" \"}\n"), "q").unwrap_err();
        assert_eq!(error.message, "the query is empty");
        let error = check(&job("  q: {kind: query, sqll: x}\n"), "q").unwrap_err();
        assert_eq!(error.help.as_deref(), Some("did you mean `sql`?"));
    }

    #[test]
    fn it_needs_what_stands_before() {
        let job = job("  a: {kind: query, sql: SELECT 1}\n  b: {kind: query, sql: SELECT 2}\n");
        let stage = check(&job, "b").unwrap();
        assert_eq!(stage.needs(), [Need::Corpus, Need::Stage("a".to_owned())]);
    }
}
