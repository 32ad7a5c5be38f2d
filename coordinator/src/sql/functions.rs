//! Functions of Gleaner:
//!
//! - `importance_weight(text, '<stage>')`: the log weight (nats) that a stage of kind
//!   `importance_weights` gives to any text; with several separate targets
//!   `importance_weight(text, '<stage>', '<dataset>')`. Null for null. It is not judged whether the
//!   text would be eligible: count its tokens by `cardinality(ngram_tokens(text))`.
//! - `ngram_tokens(text)`: the tokens, lower-cased, of which these stages make n-grams.
//!
//! A model is loaded once per session, when a query that uses it is planned; so the name of the
//! stage must be a literal.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::{
    ArrayRef, AsArray as _, Float64Builder, ListBuilder, RecordBatch, StringBuilder,
    StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, UInt32Type};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};
use datafusion::prelude::SessionContext;
use gleaner_algorithms::{FeatureExtractor, FeatureSpec, NgramHash, Tokenizer, Tokens};
use serde_json::Value;

use crate::sql::error::{SqlError, nearest};
use crate::sql::{Session, StageInfo, quote_name};

const IMPORTANCE_WEIGHT: &str = "importance_weight";
const NGRAM_TOKENS: &str = "ngram_tokens";
const KIND: &str = "importance_weights";

/// A fitted model as the function uses it.
#[derive(Debug)]
struct Model {
    spec: FeatureSpec,
    /// Log ratio per bucket, by dataset; one entry with an empty name if there is one model.
    log_ratios: BTreeMap<String, Vec<f64>>,
}

/// The fitted models that queries of a session have used.
#[derive(Debug)]
pub(crate) struct Models {
    stages: BTreeMap<String, StageInfo>,
    loaded: RwLock<BTreeMap<String, Arc<Model>>>,
}

impl Models {
    pub(crate) fn new(stages: BTreeMap<String, StageInfo>) -> Self {
        Self {
            stages,
            loaded: RwLock::default(),
        }
    }

    fn get(&self, stage: &str) -> Option<Arc<Model>> {
        // The map is valid after any panic.
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.get(stage).cloned()
    }

    /// Loads the models that a plan names.
    pub(crate) async fn load(&self, session: &Session, plan: &LogicalPlan) -> Result<(), SqlError> {
        for stage in named_stages(plan)? {
            if self.get(&stage).is_none() {
                let model = Arc::new(self.read(session, &stage).await?);
                self.loaded
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(stage, model);
            }
        }
        Ok(())
    }

    async fn read(&self, session: &Session, stage: &str) -> Result<Model, SqlError> {
        let with_models = || {
            let stages = self.stages.iter().filter(|(_, info)| info.kind == KIND);
            stages.map(|(name, _)| name.as_str())
        };
        let Some(info) = self.stages.get(stage).filter(|info| info.kind == KIND) else {
            let names: Vec<&str> = with_models().collect();
            let hint = nearest(stage, with_models())
                .map_or_else(String::new, |name| format!("did you mean '{name}'? "));
            return Err(SqlError::query(
                format!("there is no stage '{stage}' with a model of importance weights"),
                if names.is_empty() {
                    "this output has no stage of kind importance_weights".to_owned()
                } else {
                    format!("{hint}stages with a model: {}", names.join(", "))
                },
            ));
        };
        let spec = feature_spec(info).map_err(|message| SqlError::Query {
            message: format!("the model of stage {stage} cannot be used: {message}"),
            help: None,
        })?;
        let sql = format!("SELECT * FROM {}", quote_name(&format!("{stage}_model")));
        let plan = session.plan(&sql).await?;
        let batches = session
            .context
            .execute_logical_plan(plan)
            .await?
            .collect()
            .await?;
        Ok(Model {
            spec,
            log_ratios: log_ratios(&batches, spec.buckets)?,
        })
    }
}

/// The features of the stage, from its parameters, or from its facts where it took a frozen model
/// over.
fn feature_spec(info: &StageInfo) -> Result<FeatureSpec, String> {
    let find = |key: &str| {
        let in_facts = info.facts.values().find_map(|facts| find_key(facts, key));
        in_facts.or_else(|| find_key(&info.params, key)).cloned()
    };
    let number = |key: &str| find(key).and_then(|value| value.as_u64());
    let text = |key: &str| find(key).and_then(|value| value.as_str().map(str::to_owned));
    let default = FeatureSpec::default();
    let hash: NgramHash = match text("hash") {
        Some(hash) => hash.parse()?,
        None => default.hash,
    };
    let tokenizer: Tokenizer = match text("tokenizer") {
        Some(tokenizer) => tokenizer.parse()?,
        None => default.tokenizer,
    };
    let ngrams = number("ngrams").unwrap_or(u64::from(default.ngrams));
    let buckets = number("buckets").unwrap_or(u64::from(default.buckets));
    Ok(FeatureSpec {
        tokenizer,
        hash,
        ngrams: u8::try_from(ngrams).map_err(|_| format!("ngrams is {ngrams}"))?,
        buckets: u32::try_from(buckets).map_err(|_| format!("buckets is {buckets}"))?,
    })
}

fn find_key<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object
        .get(key)
        .filter(|found| !found.is_object())
        .or_else(|| object.values().find_map(|inner| find_key(inner, key)))
}

fn log_ratios(
    batches: &[RecordBatch],
    n_buckets: u32,
) -> Result<BTreeMap<String, Vec<f64>>, SqlError> {
    let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for batch in batches {
        let column = |name: &str, data_type| -> Result<Option<ArrayRef>> {
            match batch.column_by_name(name) {
                Some(array) => Ok(Some(cast(array, data_type)?)),
                None => Ok(None),
            }
        };
        let missing = |name| SqlError::Internal(format!("the model has no column {name}"));
        let buckets = column("bucket", &DataType::UInt32)?.ok_or_else(|| missing("bucket"))?;
        let buckets = buckets.as_primitive::<UInt32Type>();
        let datasets = match column("target", &DataType::Utf8)? {
            Some(datasets) => Some(datasets),
            None => column("dataset", &DataType::Utf8)?,
        };
        for field in batch.schema_ref().fields() {
            let Some(suffix) = field.name().strip_prefix("log_ratio") else {
                continue;
            };
            let Some(values) = column(field.name(), &DataType::Float64)? else {
                continue;
            };
            let values = values.as_primitive::<Float64Type>();
            for row in 0..batch.num_rows() {
                let dataset = match &datasets {
                    Some(datasets) => datasets.as_string::<i32>().value(row),
                    None => suffix.trim_start_matches('_'),
                };
                let bucket = buckets.value(row) as usize;
                let of_dataset = ratios
                    .entry(dataset.to_owned())
                    .or_insert_with(|| vec![0.0; n_buckets as usize]);
                if let Some(ratio) = of_dataset.get_mut(bucket) {
                    *ratio = values.value(row);
                }
            }
        }
    }
    Ok(ratios)
}

/// The stages that calls of the function name.
fn named_stages(plan: &LogicalPlan) -> Result<Vec<String>, SqlError> {
    let mut stages = Vec::new();
    let mut has_computed_name = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(call) = expr
                    && call.name() == IMPORTANCE_WEIGHT
                {
                    match call.args.get(1).and_then(literal) {
                        Some(stage) => stages.push(stage.to_owned()),
                        None => has_computed_name = true,
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if has_computed_name {
        return Err(SqlError::query(
            "the name of the stage in importance_weight must be a literal",
            "write importance_weight(text, 'weights')",
        ));
    }
    Ok(stages)
}

fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        Expr::Cast(cast) => literal(&cast.expr),
        Expr::Alias(alias) => literal(&alias.expr),
        _ => None,
    }
}

/// Registers the functions.
pub(crate) fn register(context: &SessionContext, models: &Arc<Models>) {
    context.register_udf(ScalarUDF::from(ImportanceWeight {
        models: Shared(Arc::clone(models)),
        signature: Signature::one_of(
            vec![TypeSignature::String(2), TypeSignature::String(3)],
            Volatility::Immutable,
        ),
    }));
    context.register_udf(ScalarUDF::from(NgramTokens {
        signature: Signature::string(1, Volatility::Immutable),
    }));
}

/// Models are the same if they are the same object: sessions do not share them.
#[derive(Debug, Clone)]
struct Shared(Arc<Models>);

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Shared {}

impl std::hash::Hash for Shared {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ImportanceWeight {
    models: Shared,
    signature: Signature,
}

fn scalar_text(value: Option<&ColumnarValue>) -> Result<Option<String>> {
    match value {
        None => Ok(None),
        Some(ColumnarValue::Scalar(scalar)) => Ok(scalar.try_as_str().flatten().map(str::to_owned)),
        Some(ColumnarValue::Array(_)) => Err(DataFusionError::Execution(format!(
            "the names in {IMPORTANCE_WEIGHT} must be literals"
        ))),
    }
}

fn texts(value: &ColumnarValue, n_rows: usize) -> Result<StringViewArray> {
    let array = value.to_array(n_rows)?;
    Ok(cast(&array, &DataType::Utf8View)?.as_string_view().clone())
}

impl ScalarUDFImpl for ImportanceWeight {
    fn name(&self) -> &str {
        IMPORTANCE_WEIGHT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = matches!(args.args.first(), Some(ColumnarValue::Scalar(_)));
        let n_rows = if is_scalar { 1 } else { args.number_rows };
        let stage = scalar_text(args.args.get(1))?.unwrap_or_default();
        let dataset = scalar_text(args.args.get(2))?;
        // Constant folding runs while a query is planned, before its models are loaded.
        let model = self.models.0.get(&stage).ok_or_else(|| {
            DataFusionError::Execution(format!("the model of stage {stage} is not loaded"))
        })?;
        let names = || {
            model
                .log_ratios
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let ratios = match &dataset {
            Some(dataset) => model.log_ratios.get(dataset),
            None if model.log_ratios.len() == 1 => model.log_ratios.values().next(),
            None => None,
        };
        let ratios = ratios.ok_or_else(|| {
            DataFusionError::Execution(match &dataset {
                Some(dataset) => format!(
                    "stage {stage} has no separate model for '{dataset}', it has {}",
                    names()
                ),
                None => format!(
                    "stage {stage} has several models: {IMPORTANCE_WEIGHT}(text, '{stage}', \
                     '<dataset>') with one of {}",
                    names()
                ),
            })
        })?;
        let mut extractor = FeatureExtractor::new(model.spec)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let Some(text) = args.args.first() else {
            return Err(DataFusionError::Internal("no argument".to_owned()));
        };
        let mut weights = Float64Builder::with_capacity(n_rows);
        for text in &texts(text, n_rows)? {
            weights.append_option(text.map(|text| {
                let features = extractor.extract(text);
                gleaner_algorithms::importance::log_weight(ratios, features.buckets)
            }));
        }
        let weights: ArrayRef = Arc::new(weights.finish());
        of_array(weights, is_scalar)
    }
}

fn of_array(array: ArrayRef, is_scalar: bool) -> Result<ColumnarValue> {
    if is_scalar {
        return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
            &array, 0,
        )?));
    }
    Ok(ColumnarValue::Array(array))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NgramTokens {
    signature: Signature,
}

impl ScalarUDFImpl for NgramTokens {
    fn name(&self) -> &str {
        NGRAM_TOKENS
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(
            DataType::Utf8,
            true,
        ))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(text) = args.args.first() else {
            return Err(DataFusionError::Internal("no argument".to_owned()));
        };
        let is_scalar = matches!(text, ColumnarValue::Scalar(_));
        let n_rows = if is_scalar { 1 } else { args.number_rows };
        let mut tokens = Tokens::new(Tokenizer::default());
        let mut lists = ListBuilder::new(StringBuilder::new());
        for text in &texts(text, n_rows)? {
            if let Some(text) = text {
                tokens.set(text);
                for span in tokens.spans() {
                    lists.values().append_value(&tokens.lower()[span]);
                }
            }
            lists.append(text.is_some());
        }
        of_array(Arc::new(lists.finish()), is_scalar)
    }
}
