//! From the bytes of a message to a task.

use gleaner_schemas::TaskMessage;
use serde_json::Value;

/// The task in a message, or why there is none.
pub(super) fn parse(body: &[u8]) -> Result<TaskMessage, String> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| format!("it is not JSON: {error}"))?;
    match value.get("format").and_then(Value::as_u64) {
        Some(format) if format == u64::from(TaskMessage::FORMAT) => {}
        Some(format) => {
            let ours = TaskMessage::FORMAT;
            return Err(format!(
                "it has version {format} of the format, this program reads version {ours}"
            ));
        }
        None => return Err("it does not say its version".to_owned()),
    }
    serde_json::from_value(value).map_err(|error| format!("it is not a task: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::message;

    #[test]
    fn only_tasks_of_this_version_are_read() {
        let task = message(3);
        let good = serde_json::to_value(&task).expect("JSON");
        assert_eq!(parse(good.to_string().as_bytes()), Ok(task));
        let check = |change: fn(&mut Value), expect: &str| {
            let mut value = good.clone();
            change(&mut value);
            let error = parse(value.to_string().as_bytes()).expect_err(expect);
            assert!(error.contains(expect), "{error}");
        };
        check(|task| task["format"] = 99.into(), "version 99");
        check(|task| task["format"] = Value::Null, "does not say");
        check(|task| task["new"] = 1.into(), "not a task");
        check(|task| *task = Value::Null, "does not say");
        assert!(parse(b"\xff").is_err());
    }
}
