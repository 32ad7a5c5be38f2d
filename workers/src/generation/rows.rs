//! Columns that the tables of both stages of generation have in common, in the making.
//!
//! An input row gives several rows, which stand together. Each tells its own end in `status`:
//! `ok`, `rejected` (a reply came, and the text is not to be used, for `reason`) or `failed` (no
//! usable reply came). `lane` tells the end of the input row: ok if any of its rows is, ineligible
//! if all were rejected by rules of the method (checks, filters, a judge), rejected if the reply
//! could not be read, failed if there was none.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Int8Builder, ListBuilder, StringBuilder, UInt16Builder,
    UInt32Builder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field};
use gleaner_generation::Flags;
use gleaner_schemas::Lanes;
use gleaner_schemas::columns::{INPUT_FILE, INPUT_ROW, LANE, REASON, STATUS};

/// Flags that a text has.
pub(crate) const FLAGS: &str = "flags";
/// Grade that a judge gave.
pub(crate) const JUDGED_GRADE: &str = "judged_grade";

/// How a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    /// It can be used.
    Ok,
    /// A reply came, and it is not to be used.
    Rejected,
    /// No usable reply came.
    Failed,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn of(text: &str) -> Option<Self> {
        [Self::Ok, Self::Rejected, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// Where an input row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// At least one of its texts can be used. First, so that the best of several is the smallest.
    Ok,
    /// All were left out by rules of the method, or there was nothing to ask for.
    Ineligible,
    /// The reply, or the row itself, could not be read.
    Rejected,
    /// There was no reply.
    Failed,
}

impl Lane {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Ineligible => "ineligible",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn of(text: &str) -> Option<Self> {
        [Self::Ok, Self::Ineligible, Self::Rejected, Self::Failed]
            .into_iter()
            .find(|lane| lane.as_str() == text)
    }

    /// Counts an input row.
    pub(crate) fn count(self, lanes: &mut Lanes) {
        lanes.rows_in += 1;
        *match self {
            Self::Ok => &mut lanes.ok,
            Self::Ineligible => &mut lanes.ineligible,
            Self::Rejected => &mut lanes.rejected,
            Self::Failed => &mut lanes.failed,
        } += 1;
    }
}

/// What the rows of one completion have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    /// Name of the model.
    pub(crate) model: String,
    /// Id of the prompt.
    pub(crate) prompt_id: String,
    /// Which one of several completions for the same input.
    pub(crate) sample: u16,
    /// Tokens of all prompts that were sent for it.
    pub(crate) prompt_tokens: u64,
    /// Tokens of all replies.
    pub(crate) completion_tokens: u64,
    /// Replies that were needed: 1, or 2 where the first could not be read.
    pub(crate) attempts: u16,
    /// A server told no usage, or only a part: what is missing is estimated by the texts.
    pub(crate) is_estimated: bool,
    /// What the server took for the last reply.
    pub(crate) latency_ms: Option<u64>,
}

/// What a judge took for the rows of one request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Judged {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) is_estimated: bool,
}

/// Columns in the making, in the order of [`fields`].
#[derive(Debug, Default)]
pub(crate) struct CommonRows {
    judged_grade: Int8Builder,
    status: StringBuilder,
    reason: StringBuilder,
    flags: ListBuilder<StringBuilder>,
    lane: StringBuilder,
    model: StringBuilder,
    prompt_id: StringBuilder,
    sample: UInt16Builder,
    prompt_tokens: UInt32Builder,
    completion_tokens: UInt32Builder,
    attempts: UInt16Builder,
    latency_ms: UInt64Builder,
    judge_prompt_tokens: UInt32Builder,
    judge_completion_tokens: UInt32Builder,
    tokens_estimated: BooleanBuilder,
    input_file: StringBuilder,
    input_row: UInt64Builder,
}

/// One row.
#[derive(Debug, Clone)]
pub(crate) struct CommonRow<'a> {
    pub(crate) judged_grade: Option<i8>,
    pub(crate) status: Status,
    pub(crate) reason: Option<&'a str>,
    pub(crate) flags: Flags,
    pub(crate) lane: Lane,
    pub(crate) made: &'a Made,
    /// What the judge took, on the first row of each of its requests.
    pub(crate) judged: Judged,
    /// Tokens are counted on the first row of a completion, so that their sums are right.
    pub(crate) is_first_of_completion: bool,
    pub(crate) input_file: &'a str,
    pub(crate) input_row: u64,
}

/// The fields of the common columns.
pub(crate) fn fields() -> Vec<Field> {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    vec![
        Field::new(JUDGED_GRADE, DataType::Int8, true),
        text(STATUS, false),
        text(REASON, true),
        Field::new_list(FLAGS, Field::new_list_field(DataType::Utf8, false), false),
        text(LANE, false),
        text("model", false),
        text("prompt_id", false),
        Field::new("sample", DataType::UInt16, false),
        Field::new("prompt_tokens", DataType::UInt32, false),
        Field::new("completion_tokens", DataType::UInt32, false),
        Field::new("attempts", DataType::UInt16, false),
        Field::new("latency_ms", DataType::UInt64, true),
        Field::new("judge_prompt_tokens", DataType::UInt32, false),
        Field::new("judge_completion_tokens", DataType::UInt32, false),
        Field::new("tokens_estimated", DataType::Boolean, false),
        text(INPUT_FILE, false),
        Field::new(INPUT_ROW, DataType::UInt64, false),
    ]
}

impl CommonRows {
    pub(crate) fn new() -> Self {
        let items = Field::new_list_field(DataType::Utf8, false);
        Self {
            flags: ListBuilder::new(StringBuilder::new()).with_field(items),
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, row: &CommonRow<'_>) {
        let whole = |n_tokens: u64| u32::try_from(n_tokens).unwrap_or(u32::MAX);
        let tokens = |n_tokens: u64| {
            if row.is_first_of_completion {
                whole(n_tokens)
            } else {
                0
            }
        };
        self.judged_grade.append_option(row.judged_grade);
        self.status.append_value(row.status.as_str());
        self.reason.append_option(row.reason);
        for flag in row.flags.iter() {
            self.flags.values().append_value(flag.as_str());
        }
        self.flags.append(true);
        self.lane.append_value(row.lane.as_str());
        self.model.append_value(&row.made.model);
        self.prompt_id.append_value(&row.made.prompt_id);
        self.sample.append_value(row.made.sample);
        self.prompt_tokens
            .append_value(tokens(row.made.prompt_tokens));
        self.completion_tokens
            .append_value(tokens(row.made.completion_tokens));
        self.attempts.append_value(row.made.attempts);
        let latency_ms = row.made.latency_ms.filter(|_| row.is_first_of_completion);
        self.latency_ms.append_option(latency_ms);
        self.judge_prompt_tokens
            .append_value(whole(row.judged.prompt_tokens));
        self.judge_completion_tokens
            .append_value(whole(row.judged.completion_tokens));
        let is_estimated = row.made.is_estimated && row.is_first_of_completion;
        self.tokens_estimated
            .append_value(is_estimated || row.judged.is_estimated);
        self.input_file.append_value(row.input_file);
        self.input_row.append_value(row.input_row);
    }

    /// The columns, in the order of [`fields`].
    pub(crate) fn finish(mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.judged_grade.finish()),
            Arc::new(self.status.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.flags.finish()),
            Arc::new(self.lane.finish()),
            Arc::new(self.model.finish()),
            Arc::new(self.prompt_id.finish()),
            Arc::new(self.sample.finish()),
            Arc::new(self.prompt_tokens.finish()),
            Arc::new(self.completion_tokens.finish()),
            Arc::new(self.attempts.finish()),
            Arc::new(self.latency_ms.finish()),
            Arc::new(self.judge_prompt_tokens.finish()),
            Arc::new(self.judge_completion_tokens.finish()),
            Arc::new(self.tokens_estimated.finish()),
            Arc::new(self.input_file.finish()),
            Arc::new(self.input_row.finish()),
        ]
    }
}
