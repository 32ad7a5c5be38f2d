//! What may be other than one thinks, of a training that is complete.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::DATASET_BYTES_MAX;
use super::task::TrainTaskParams;
use super::train::SampleFacts;
use crate::forecast::size;

/// Sentences for the summary, of what a task tells of its training.
pub(super) fn of(task: &TrainTaskParams, is_continued: bool, training: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    let sample = SampleFacts::deserialize(&training["sample"]).unwrap_or_default();
    let wanted = task.bytes_wanted();
    if sample.bytes < sample.bytes_read && task.text_bytes_max < wanted {
        notes.push(format!(
            "trained on {} of the {} of text that were read: an eighth of `memory`, which can be \
             raised",
            size(sample.bytes),
            size(sample.bytes_read)
        ));
    } else if wanted == DATASET_BYTES_MAX && sample.bytes_read >= DATASET_BYTES_MAX {
        notes.push(format!(
            "trained on {} of text: no training takes more",
            size(sample.bytes)
        ));
    }
    if let Some(refused) = &sample.refused {
        let n_refused = sample.n_refused;
        notes.push(format!("{n_refused} texts were left out: {refused}"));
    }
    if is_continued && training["best_step"] == json!(0) {
        notes.push(
            "training further never lowered the held-out loss: the model is the one that it \
             started from, and every loss reduction between the two is 0; give more text, or \
             another `learning_rate`"
                .to_owned(),
        );
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::job;
    use crate::train_language_model::TrainParams;

    #[test]
    fn samples_that_were_cut_and_trainings_in_vain_are_told_of() {
        let check = |params: &str, memory: u64, training: Value, expected: &[&str]| {
            let job = job(&format!("  t: {{kind: train_language_model, {params}}}\n"));
            let params = TrainParams::of(&job, "t").unwrap();
            let is_continued = params.from.is_some();
            let task = TrainTaskParams::of(&params, memory);
            let notes = of(&task, is_continued, &training);
            assert_eq!(notes.len(), expected.len(), "{notes:?}");
            for (note, expected) in notes.iter().zip(expected) {
                assert!(note.contains(expected), "{note}");
            }
        };
        let sample = |bytes: u64, bytes_read: u64| {
            json!({
                "best_step": 7,
                "sample": {"bytes": bytes, "bytes_read": bytes_read, "n_refused": 0, "refused": null},
            })
        };
        const MIB: u64 = 1 << 20;
        let size = "size: 1m, tokens: 4000000";
        // 32 million bytes are wanted; an eighth of the memory is 8 MiB.
        check(
            size,
            64 * MIB,
            sample(8 * MIB, 20 * MIB),
            &["trained on 8.0 MiB of the 20.0 MiB of text that were read: an eighth of `memory`"],
        );
        check(size, 64 * MIB, sample(5 * MIB, 5 * MIB), &[]);
        // More was read than was wanted, since row groups are read as a whole.
        check(size, 1024 * MIB, sample(31 * MIB, 40 * MIB), &[]);
        check(
            "from: a, dataset: one",
            64 << 30,
            sample(1024 * MIB, 1025 * MIB),
            &["trained on 1.0 GiB of text: no training takes more"],
        );
        let mut in_vain = sample(1, 1);
        in_vain["best_step"] = json!(0);
        check(
            "from: a, dataset: one",
            64 << 30,
            in_vain.clone(),
            &["never lowered"],
        );
        check(size, 64 << 30, in_vain, &[]);
        let mut refused = sample(1, 1);
        refused["sample"]["n_refused"] = json!(3);
        refused["sample"]["refused"] = json!("no token");
        check(
            size,
            64 << 30,
            refused,
            &["3 texts were left out: no token"],
        );
    }

    #[test]
    fn memory_is_a_part_of_a_training_only_where_it_cuts_its_text() {
        let job = job("  t: {kind: train_language_model, size: 1m, tokens: 1000}\n");
        let params = TrainParams::of(&job, "t").unwrap();
        let of = |memory| TrainTaskParams::of(&params, memory);
        assert_eq!(of(64 << 20), of(1 << 40));
        assert_ne!(of(1 << 10), of(1 << 40));
    }
}
