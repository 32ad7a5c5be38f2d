//! What a selection finds in the stage whose scores it goes by: columns, model, shares of targets.

use arrow::datatypes::DataType;
use gleaner_schemas::Failure;
use gleaner_schemas::columns::{DOC_ID, INPUT_FILE, INPUT_ROW, N_BYTES, N_TOKENS, SEQUENCE_ID};
use gleaner_schemas::job::nearest;
use gleaner_schemas::units::Ratio;

use super::params::{Budget, Unit};
use super::scores::{Ordering, TargetColumn};
use super::{Select, read};
use crate::batch_columns::permanent;
use crate::importance_weights::{self, MODEL, ModelFacts, TargetMode};
use crate::stage::{Completed, CompletedStage};

/// What the stage of the scores is found to have.
pub(super) struct Source<'a> {
    pub(super) stage: &'a CompletedStage,
    pub(super) model: Option<ModelFacts>,
    pub(super) ordering: Ordering,
    pub(super) columns: Vec<String>,
    /// Share of each target.
    pub(super) shares: Vec<u64>,
}

impl Select {
    pub(super) fn source<'a>(&self, completed: &'a Completed<'_>) -> Result<Source<'a>, Failure> {
        let (stage_name, column) = self.params.by_parts();
        let stage = completed
            .stages
            .get(stage_name)
            .ok_or_else(|| permanent(format!("stage {stage_name} is not complete")))?;
        let is_weights = stage.kind == importance_weights::KIND;
        let model = match stage.facts.get(MODEL) {
            Some(facts) if is_weights => Some(ModelFacts::read(Some(facts), stage_name)?),
            _ => None,
        };
        let has = |name: &str| stage.schema.field_with_name(name).is_ok();
        let single = || {
            vec![TargetColumn {
                name: String::new(),
                column: column.to_owned(),
            }]
        };
        let targets = match &model {
            _ if has(column) => single(),
            Some(model) if model.mode == TargetMode::Separate => model
                .targets
                .iter()
                .map(|target| TargetColumn {
                    column: format!("{column}_{}", target.name),
                    name: target.name.clone(),
                })
                .collect(),
            _ => single(),
        };
        for name in targets.iter().map(|target| target.column.as_str()) {
            check_column(stage, stage_name, name)?;
        }
        let ordering = Ordering {
            method: self.params.method,
            seed: self.params.seed,
            temperature: self.params.temperature,
            targets,
            group_by: self.params.group_by.clone(),
        };
        self.check_columns(stage, stage_name, &has)?;
        Ok(Source {
            columns: ordering.columns(&stage.schema),
            shares: self.shares(stage, model.as_ref(), &ordering)?,
            stage,
            model,
            ordering,
        })
    }

    fn check_columns(
        &self,
        stage: &CompletedStage,
        stage_name: &str,
        has: &dyn Fn(&str) -> bool,
    ) -> Result<(), Failure> {
        let needs = |name: &str, why: &str| {
            if has(name) {
                return Ok(());
            }
            let known = stage
                .schema
                .fields()
                .iter()
                .map(|field| field.name().as_str());
            let hint = nearest(name, known)
                .map(|hint| format!("; {hint}"))
                .unwrap_or_default();
            Err(permanent(format!(
                "stage {} needs the column `{name}` of stage {stage_name} {why}{hint}",
                self.name
            )))
        };
        if !has(SEQUENCE_ID) {
            needs(DOC_ID, "to tell documents apart")?;
        }
        if let Some(group_by) = &self.params.group_by {
            needs(group_by, "for `group_by`")?;
        }
        match self.params.budget().map(Budget::unit) {
            Some(Unit::Tokens) => needs(N_TOKENS, "for a budget in tokens")?,
            Some(Unit::Bytes) => needs(N_BYTES, "for a budget in bytes")?,
            Some(Unit::Documents) | None => {}
        }
        if self.params.materialize {
            for name in [INPUT_FILE, INPUT_ROW] {
                needs(name, "for `materialize`")?;
            }
        }
        Ok(())
    }

    /// Share of each target: of this stage, of the stage of the scores, or by n-grams.
    fn shares(
        &self,
        stage: &CompletedStage,
        model: Option<&ModelFacts>,
        ordering: &Ordering,
    ) -> Result<Vec<u64>, Failure> {
        if ordering.targets.len() == 1 {
            if !self.params.proportions.is_empty() {
                return Err(permanent(format!(
                    "stage {}: `proportions` divide a selection among several targets, but {} is \
                     one column",
                    self.name, self.params.by
                )));
            }
            return Ok(vec![1]);
        }
        let mut proportions = self.params.proportions.clone();
        if let Some(of_stage) = stage
            .params
            .get("proportions")
            .filter(|_| proportions.is_empty())
        {
            proportions = read(of_stage)?;
        }
        if proportions.is_empty() {
            let targets = model
                .map(|model| model.targets.as_slice())
                .unwrap_or_default();
            return Ok(targets
                .iter()
                .map(|target| target.counted.n_ngrams)
                .collect());
        }
        let shares: Option<Vec<Ratio>> = ordering
            .targets
            .iter()
            .map(|target| proportions.get(&target.name).copied())
            .collect();
        let known: Vec<&str> = ordering.targets.iter().map(|it| it.name.as_str()).collect();
        shares
            .filter(|shares| shares.len() == proportions.len())
            .and_then(|shares| over_common_denominator(&shares))
            .ok_or_else(|| {
                permanent(format!(
                    "stage {}: `proportions` must give each target a share: {}",
                    self.name,
                    known.join(", ")
                ))
            })
    }
}

/// Integers in the proportions of the shares, if they fit.
fn over_common_denominator(shares: &[Ratio]) -> Option<Vec<u64>> {
    let mut denominator = 1_u64;
    for share in shares {
        let product = Ratio::new(denominator, share.denominator())?;
        denominator = product.numerator().checked_mul(share.denominator())?;
    }
    shares
        .iter()
        .map(|share| {
            share
                .numerator()
                .checked_mul(denominator / share.denominator())
        })
        .collect()
}

/// Whether a stage has a column of numbers of that name.
fn check_column(stage: &CompletedStage, stage_name: &str, column: &str) -> Result<(), Failure> {
    let is_number = |data_type: &DataType| {
        data_type.is_numeric() || matches!(data_type, DataType::Boolean | DataType::Null)
    };
    let fields = stage.schema.fields();
    match fields.iter().find(|field| field.name() == column) {
        Some(field) if is_number(field.data_type()) => Ok(()),
        Some(field) => Err(permanent(format!(
            "the column `{column}` of stage {stage_name} holds {}, no numbers",
            field.data_type()
        ))),
        None => {
            let numbers = fields.iter().filter(|field| is_number(field.data_type()));
            let names: Vec<&str> = numbers.map(|field| field.name().as_str()).collect();
            Err(permanent(format!(
                "stage {stage_name} has no column `{column}`; its columns of numbers are {}",
                names.join(", ")
            )))
        }
    }
}
