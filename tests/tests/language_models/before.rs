//! What is found before anything runs: by `validate`, by `plan` and by `run` alike.

use std::fs;

use gleaner_tests::corpus::{example_documents, write_parquet};
use gleaner_tests::program::Workspace;
use serde_json::Value;

use super::{GOLDEN, JOB, golden, workspace};

#[test]
fn models_that_cannot_be_used_are_told_of_with_place_and_remedy() {
    let workspace = Workspace::new();
    let _ = golden(&workspace);
    let check = |stages: &str, expected: &[&str]| {
        let head = GOLDEN.split("stages:").next().unwrap();
        workspace.write("job.yaml", format!("{head}stages:\n{stages}"));
        // Whatever looks at the job finds it, before anything runs or is written.
        for command in ["validate", "plan", "run"] {
            let mut ended = workspace.gleaner(&[command, "job.yaml"]).expect(2);
            for text in expected {
                ended = ended.says(text);
            }
            let stages = workspace.path().join("out/losses");
            assert!(!stages.exists(), "{command}");
        }
    };
    let losses = |models: &str| format!("  losses: {{kind: loss_reduction, {models}}}\n");
    check(
        &losses("unit: document"),
        &["there is no model", "give `prior` and `conditional`"],
    );
    check(
        &losses("prior: models/none"),
        &["there is no model in", "models/none"],
    );
    check(
        &losses("prior: train(7m)"),
        &[
            "there is no size \"7m\"",
            "1m, 5m, 20m, 125m",
            // The place is that of the value, not of the stage that it implies.
            "loss_reduction, prior: train(7m)",
            "^^^^^^^^^",
        ],
    );
    check(
        &losses("prior: train(125m)"),
        &[
            "training this model takes",
            "GiB",
            "a slot has 2GiB",
            "raise `memory` to",
        ],
    );
    check(
        &losses("prior: train(1m), context: 400"),
        &["the context of 400 tokens is longer than the 128 that the model prior"],
    );
    check(
        "  some: {kind: query, sql: 'SELECT text FROM corpus'}\n  losses: {kind: loss_reduction, \
         input: some, prior: models/llama_prior}\n",
        &["the table of stage `some` does not hold documents"],
    );
    check(
        &losses("prior: models/llama_prior, device: cuda:0"),
        &["cuda:0", "`device: cpu`", "--queue"],
    );
    check(
        &losses("prior: 'train(1m, 2)'"),
        &["too few or too many arguments"],
    );
    check(
        &losses("prior: models/llama_prior, conditional: 'continue(prior, nowhere)'"),
        &["there is no dataset `nowhere`"],
    );
    check(
        &losses("prior: models/llama_prior, context: 5000"),
        &["the context of 5000 tokens is longer than"],
    );
    check(
        &losses("prior: models/llama_prior, device: gpu"),
        &["is no device", "`auto`, `cpu` or `cuda:N`"],
    );
    let path = workspace
        .path()
        .join("models/llama_prior/model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    check(
        &losses("prior: models/llama_prior"),
        &["models/llama_prior", "model.safetensors"],
    );
    fs::write(&path, &whole).unwrap();
    let config = workspace.path().join("models/llama_prior/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("LlamaForCausalLM", "MambaForCausalLM")
            .replace("\"llama\"", "\"mamba\""),
    )
    .unwrap();
    check(
        &losses("prior: models/llama_prior"),
        &[
            "not supported",
            "llama",
            "gpt2",
            "prior: models/llama_prior",
        ],
    );
    let mut values: Value = serde_json::from_str(&text).unwrap();
    values["vocab_size"] = 100.into();
    fs::write(&config, values.to_string()).unwrap();
    check(
        &losses("prior: models/llama_prior"),
        &["has ids up to 2047, the model knows 100 tokens"],
    );
    values["vocab_size"] = 2048.into();
    values.as_object_mut().unwrap().remove("eos_token_id");
    fs::write(&config, values.to_string()).unwrap();
    let settings = workspace
        .path()
        .join("models/llama_prior/tokenizer_config.json");
    let of_tokenizer = fs::read(&settings).unwrap();
    fs::write(&settings, "{}").unwrap();
    check(
        &losses("prior: models/llama_prior"),
        &[
            "the files of the model prior do not tell which token ends",
            "eos: ",
        ],
    );
    check(
        &losses("prior: models/llama_prior, eos: <end>"),
        &["\"<end>\" is no token of the model prior"],
    );
    fs::write(&settings, of_tokenizer).unwrap();
    fs::write(&config, text).unwrap();
    let tokenizer = workspace.path().join("models/llama_cond/tokenizer.json");
    let text = fs::read_to_string(&tokenizer).unwrap();
    fs::write(&tokenizer, text.replace("\"NFC\"", "\"NFKC\"")).unwrap();
    check(
        &losses("prior: models/llama_prior, conditional: models/llama_cond"),
        &["different tokenizers"],
    );
}

#[test]
fn a_plan_tells_what_memory_tasks_take_and_which_may_not_end_in_time() {
    let workspace = workspace(JOB);
    let plan = workspace.gleaner(&["plan", "job.yaml"]).expect(0).stdout;
    for expected in [
        "memory of a task",
        "weights, moments and gradients",
        "buffers of its threads",
    ] {
        assert!(plan.contains(expected), "{plan}");
    }
    assert!(!plan.contains("may take"), "{plan}");
    // Row groups are not cut: one that is too large for so slow a model is told of.
    let documents = example_documents();
    write_parquet(
        &workspace.path().join("corpus/large.parquet"),
        &documents,
        documents.len(),
    );
    let large = "
name: large
output: out
corpus: {paths: [corpus/large.parquet], columns: {id: id, text: text, source: source}}
memory: 64GiB
stages: {losses: {kind: loss_reduction, prior: train(125m)}}
";
    workspace.write("large.yaml", large);
    let plan = workspace.gleaner(&["plan", "large.yaml"]).expect(0).stdout;
    for expected in [
        "tokens per second, which is told low",
        "`task_timeout` (15 min",
        "hours on",
    ] {
        assert!(plan.contains(expected), "{expected}: {plan}");
    }
    // In row groups of a few documents they are cut as small as that.
    write_parquet(
        &workspace.path().join("corpus/large.parquet"),
        &documents,
        20,
    );
    let cut = workspace
        .gleaner(&["plan", "large.yaml", "--json"])
        .expect(0)
        .stdout;
    let cut: Value = serde_json::from_str(&cut).unwrap();
    let phases = |stage: &str| -> Value {
        let stages = cut["stages"].as_array().unwrap();
        let stage = stages.iter().find(|it| it["name"] == stage).unwrap();
        stage["phases"].clone()
    };
    let n_tasks = phases("losses")[0]["n_tasks"].as_u64().unwrap();
    assert!(n_tasks > 50, "{cut:#}");
}
