//! Parameters of queries: `$name` stands for a value that comes from outside, so that a text with
//! quotes, or a script's number, needs no quoting into SQL.

use std::collections::{BTreeMap, HashMap};

use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;

use crate::sql::error::{SqlError, nearest};

/// Values by name, without the `$`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters(BTreeMap<String, ScalarValue>);

/// A parameter as a user writes it: `name=value`. Whole numbers, numbers, `true`, `false` and
/// `null` are what they look like; everything else is text, and so is what stands in single
/// quotes.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterArgument {
    name: String,
    value: ScalarValue,
}

impl std::str::FromStr for ParameterArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, value)) = text.split_once('=') else {
            return Err("write it as name=value; a query names it $name".to_owned());
        };
        let name = name.strip_prefix('$').unwrap_or(name);
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(format!(
                "{name:?} cannot name a parameter: take letters, digits and _"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            value: value_of(value),
        })
    }
}

fn value_of(text: &str) -> ScalarValue {
    let quoted = text.strip_prefix('\'').and_then(|it| it.strip_suffix('\''));
    if let Some(quoted) = quoted {
        return ScalarValue::from(quoted);
    }
    if let Ok(number) = text.parse::<i64>() {
        return ScalarValue::from(number);
    }
    // `inf` and `nan` are words.
    let looks_like_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    match text {
        "true" => ScalarValue::from(true),
        "false" => ScalarValue::from(false),
        "null" => ScalarValue::Null,
        _ => match text.parse::<f64>() {
            Ok(number) if looks_like_number && number.is_finite() => ScalarValue::from(number),
            _ => ScalarValue::from(text),
        },
    }
}

impl FromIterator<ParameterArgument> for Parameters {
    /// The last of several with one name counts.
    fn from_iter<I: IntoIterator<Item = ParameterArgument>>(arguments: I) -> Self {
        let values = arguments.into_iter().map(|it| (it.name, it.value));
        Self(values.collect())
    }
}

impl Parameters {
    /// The plan with values in place of names.
    pub(crate) fn fill(&self, plan: LogicalPlan) -> Result<LogicalPlan, SqlError> {
        let mut wanted: Vec<String> = plan.get_parameter_names()?.into_iter().collect();
        if wanted.is_empty() {
            return Ok(plan);
        }
        wanted.sort_unstable();
        let given = || self.0.keys().map(String::as_str);
        let missing = wanted
            .iter()
            .map(|name| name.trim_start_matches('$'))
            .find(|name| !self.0.contains_key(*name));
        if let Some(name) = missing {
            let hint = match nearest(name, given()) {
                Some(near) => format!("did you mean ${near}? "),
                None => String::new(),
            };
            return Err(SqlError::query(
                format!("the parameter ${name} has no value"),
                format!("{hint}give it one with --param {name}=value"),
            ));
        }
        let values: HashMap<String, ScalarAndMetadata> = self
            .0
            .iter()
            .map(|(name, value)| (name.clone(), ScalarAndMetadata::from(value.clone())))
            .collect();
        Ok(plan.with_param_values(ParamValues::Map(values))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_look_like() {
        let check = |text: &str, expected: ScalarValue| {
            let argument: ParameterArgument = text.parse().unwrap();
            assert_eq!(
                (argument.name.as_str(), argument.value),
                ("x", expected),
                "{text}"
            );
        };
        check("x=12", ScalarValue::from(12_i64));
        check("$x=-1.5e3", ScalarValue::from(-1500.0));
        check("x='12'", ScalarValue::from("12"));
        check("x=true", ScalarValue::from(true));
        check("x=null", ScalarValue::Null);
        check("x=it's a=b", ScalarValue::from("it's a=b"));
        check("x=inf", ScalarValue::from("inf"));
        check("x=", ScalarValue::from(""));
        check("x=1-2", ScalarValue::from("1-2"));
        for wrong in ["x", "=1", "1=2", "a b=1"] {
            assert!(wrong.parse::<ParameterArgument>().is_err(), "{wrong}");
        }
    }
}
