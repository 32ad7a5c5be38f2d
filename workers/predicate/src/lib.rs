//! The `where` of a job file, compiled by DataFusion.
//!
//! A crate of its own, so that neither storage nor the workers' library links DataFusion: they
//! know [`PredicateCompiler`] only, and the programs put this behind it.
//!
//! A predicate decides which rows belong to the input, so it must be a function of the row alone:
//! functions that depend on the clock or on chance, aggregates and subqueries are refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, SchemaError};
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use gleaner_storage::documents::{PredicateCompiler, RowPredicate};

/// Compiles predicates with DataFusion.
#[derive(Debug, Clone, Copy, Default)]
pub struct DataFusionPredicates;

impl PredicateCompiler for DataFusionPredicates {
    fn compile(&self, sql: &str, schema: &SchemaRef) -> Result<Arc<dyn RowPredicate>, String> {
        let context = SessionContext::new();
        let all = dfschema(schema)?;
        let expr = context
            .parse_sql_expr(sql, &all)
            .map_err(|error| explain(&error, schema))?;
        check_pure(&expr)?;
        // Only the columns of the predicate are read, so it is compiled for those alone.
        let mut indices: Vec<usize> = expr
            .column_refs()
            .into_iter()
            .map(|column| {
                schema
                    .index_of(&column.name)
                    .map_err(|_| missing(&column.name, schema))
            })
            .collect::<Result<_, _>>()?;
        indices.sort_unstable();
        indices.dedup();
        let needed: SchemaRef = Arc::new(schema.project(&indices).map_err(|e| e.to_string())?);
        let needed_df = dfschema(&needed)?;
        let compiled = context
            .create_physical_expr(expr.clone(), &needed_df)
            .map_err(|error| explain(&error, schema))?;
        match compiled.data_type(&needed) {
            Ok(DataType::Boolean | DataType::Null) => {}
            Ok(other) => return Err(format!("it gives {other}, not true or false")),
            Err(error) => return Err(explain(&error, schema)),
        }
        Ok(Arc::new(DataFusionPredicate {
            columns: needed
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
            schema: needed,
            expr: compiled,
        }))
    }
}

/// A compiled predicate.
#[derive(Debug)]
struct DataFusionPredicate {
    columns: Vec<String>,
    schema: SchemaRef,
    expr: Arc<dyn PhysicalExpr>,
}

impl RowPredicate for DataFusionPredicate {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, String> {
        let columns: Vec<ArrayRef> = self
            .schema
            .fields()
            .iter()
            .map(|field| {
                let column = batch
                    .column_by_name(field.name())
                    .ok_or_else(|| format!("the batch has no column {}", field.name()))?;
                if column.data_type() == field.data_type() {
                    return Ok(Arc::clone(column));
                }
                cast(column, field.data_type()).map_err(|error| error.to_string())
            })
            .collect::<Result<_, _>>()?;
        // Without columns a batch knows its rows by this option alone.
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        // Nullability is a promise of the file, which a reader may have had to break.
        let schema = nullable(&self.schema);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|error| error.to_string())?;
        let result = self
            .expr
            .evaluate(&batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(|error| error.strip_backtrace())?;
        if result.data_type() == &DataType::Null {
            return Ok(BooleanArray::from(vec![false; batch.num_rows()]));
        }
        Ok(result.as_boolean().clone())
    }
}

fn nullable(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}

fn dfschema(schema: &SchemaRef) -> Result<DFSchema, String> {
    DFSchema::try_from(schema.as_ref().clone()).map_err(|error| error.strip_backtrace())
}

fn check_pure(expr: &Expr) -> Result<(), String> {
    let mut refused = None;
    let visited = expr.apply(|expr| {
        let reason = match expr {
            Expr::ScalarFunction(call)
                if call.func.signature().volatility != Volatility::Immutable =>
            {
                Some(format!(
                    "{}() gives another value each time; a predicate must depend on the row alone",
                    call.name()
                ))
            }
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => {
                Some("aggregates and windows look at more than one row".to_owned())
            }
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => {
                Some("a predicate cannot have subqueries".to_owned())
            }
            _ => None,
        };
        match reason {
            Some(reason) => {
                refused = Some(reason);
                Ok(TreeNodeRecursion::Stop)
            }
            None => Ok(TreeNodeRecursion::Continue),
        }
    });
    match (refused, visited) {
        (Some(reason), _) => Err(reason),
        (None, Ok(_)) => Ok(()),
        (None, Err(error)) => Err(error.strip_backtrace()),
    }
}

fn missing(name: &str, schema: &Schema) -> String {
    let fields = schema.fields();
    let other_case = fields
        .iter()
        .find(|field| field.name().eq_ignore_ascii_case(name))
        .map_or_else(String::new, |field| {
            format!("; write \"{}\" in double quotes", field.name())
        });
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    format!(
        "there is no column {name}{other_case}; the columns are {}",
        names.join(", ")
    )
}

fn explain(error: &DataFusionError, schema: &Schema) -> String {
    match error.find_root() {
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { field, .. } => missing(&field.name, schema),
            other => other.to_string(),
        },
        DataFusionError::Diagnostic(_, inner) => explain(inner, schema),
        DataFusionError::SQL(error, _) => format!("it is not SQL: {error}"),
        DataFusionError::Plan(message) => message.clone(),
        other => other.strip_backtrace(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::Field;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("text", DataType::Utf8, false),
            Field::new("lang", DataType::Utf8, true),
            Field::new("Score", DataType::Int64, true),
        ]))
    }

    fn compile(sql: &str) -> Result<Arc<dyn RowPredicate>, String> {
        DataFusionPredicates.compile(sql, &schema())
    }

    fn rows(predicate: &dyn RowPredicate) -> Vec<Option<bool>> {
        let all = RecordBatch::try_from_iter_with_nullable([
            (
                "lang",
                Arc::new(StringViewArray::from(vec![Some("en"), Some("de"), None])) as ArrayRef,
                true,
            ),
            (
                "Score",
                Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as _,
                true,
            ),
            (
                "text",
                Arc::new(StringArray::from(vec!["a", "b", "ccc"])) as _,
                true,
            ),
        ])
        .unwrap();
        let indices: Vec<usize> = predicate
            .columns()
            .iter()
            .map(|name| all.schema().index_of(name).unwrap())
            .collect();
        let batch = all.project(&indices).unwrap();
        predicate.evaluate(&batch).unwrap().iter().collect()
    }

    #[test]
    fn predicates_read_only_their_columns() {
        let predicate = compile("\"Score\" > 2 OR lang = 'en'").unwrap();
        assert_eq!(predicate.columns(), ["lang", "Score"]);
        assert_eq!(rows(predicate.as_ref()), [Some(true), None, Some(true)]);
        let predicate = compile("length(text) > 1 and lang is null").unwrap();
        assert_eq!(
            rows(predicate.as_ref()),
            [Some(false), Some(false), Some(true)]
        );
        let predicate = compile("lang IN ('de', 'fr')").unwrap();
        assert_eq!(rows(predicate.as_ref()), [Some(false), Some(true), None]);
    }

    #[test]
    fn constants_decide_for_all_rows() {
        assert_eq!(rows(compile("1 = 1").unwrap().as_ref()), [Some(true); 3]);
        assert_eq!(rows(compile("null").unwrap().as_ref()), [Some(false); 3]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let message = |sql: &str| compile(sql).unwrap_err();
        assert!(message("langs = 'en'").contains("there is no column langs"));
        assert!(message("score = 1").contains("write \"Score\" in double quotes"));
        assert!(message("lang ==== 'en'").contains("it is not SQL"));
        assert!(message("id + 1").contains("Int64, not true or false"));
        assert!(message("random() < 0.5").contains("another value each time"));
        assert!(message("now() > '2020-01-01'").contains("another value each time"));
    }
}
