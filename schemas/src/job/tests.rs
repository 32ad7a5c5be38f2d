use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

const MINIMAL: &str = "\
name: demo
output: out
corpus: {paths: data/*.parquet}
stages:
  weights: {kind: importance_weights, target: t}
  a_later_one: {kind: select}
";

fn source(text: &str) -> JobSource {
    JobSource {
        name: "job.yaml".to_owned(),
        text: text.to_owned(),
    }
}

fn parse(text: &str) -> Result<Job, Vec<JobError>> {
    Job::parse(source(text))
}

fn check(text: &str, expect: &Expect) {
    let rendered = match parse(text) {
        Ok(_) => "no error".to_owned(),
        Err(errors) => errors
            .iter()
            .map(|error| error.render_plain("job.yaml", text))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    expect.assert_eq(&rendered);
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let file = parse(MINIMAL).unwrap().file;
    assert_eq!(file.task_bytes.to_string(), "256MiB");
    assert_eq!(file.memory.to_string(), "2GiB");
    assert_eq!(file.task_timeout.to_string(), "15min");
    assert_eq!(file.allow.rejected_rows.to_string(), "1%");
    assert_eq!(file.corpus.columns.text, "text");
    assert_eq!(&*file.corpus.paths, ["data/*.parquet"]);
}

#[test]
fn stages_keep_their_order() {
    let text = MINIMAL.replace("weights:", "zz:");
    let job = parse(&text).unwrap();
    let names: Vec<_> = job.file.stages.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["zz", "a_later_one"]);
    let before: Vec<_> = job.file.stages.before("a_later_one").collect();
    assert_eq!(before, ["zz"]);
}

#[test]
fn unknown_keys_name_the_line_and_the_nearest_key() {
    check(
        &MINIMAL.replace("output:", "outptu:"),
        &expect![[r#"
            job.yaml:2:1: there is no key `outptu` here
              outptu: out
              ^^^^^^
              help: did you mean `output`?"#]],
    );
    check(
        &MINIMAL.replace("{paths:", "{path: x, paths:"),
        &expect![[r#"
            job.yaml:3:10: there is no key `path` here
              corpus: {path: x, paths: data/*.parquet}
                       ^^^^
              help: did you mean `paths`?"#]],
    );
}

#[test]
fn wrong_values_name_the_place_and_the_remedy() {
    check(
        &format!("{MINIMAL}memory: 12 parsecs\n"),
        &expect![[r#"
            job.yaml:7:9: "12 parsecs" is not a size: write a number with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), for example 256MiB
              memory: 12 parsecs
                      ^^^^^^^^^^"#]],
    );
    check(
        &format!("{MINIMAL}task_bytes: 256\n"),
        &expect![[r#"
            job.yaml:7:13: "256" is not a size: write a number with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), for example 256MiB
              task_bytes: 256
                          ^^^"#]],
    );
    check(
        &format!("{MINIMAL}allow: {{rejected_rows: -1}}\n"),
        &expect![[r#"
            job.yaml:7:24: "-1" is not a limit: write a count (10) or a share (1%, 1/100)
              allow: {rejected_rows: -1}
                                     ^^"#]],
    );
    check(
        &format!("{MINIMAL}priority: urgent\n"),
        &expect![[r#"
            job.yaml:7:11: `urgent` is not possible here
              priority: urgent
                        ^^^^^^
              help: known here: high, normal, low"#]],
    );
}

#[test]
fn missing_keys_and_empty_lists_are_errors() {
    check(
        "name: x\noutput: y\ncorpus: {paths: []}\nstages: {a: {kind: b}}\n",
        &expect![[r#"
            job.yaml:3:17: the list is empty
              corpus: {paths: []}
                              ^"#]],
    );
    check(
        "name: x\noutput: y\ncorpus: {paths: a}\nstages: {a: {kin: b}}\n",
        &expect![[r#"
            job.yaml:4:10: the key `kind` is missing
              stages: {a: {kin: b}}
                       ^"#]],
    );
    check(
        "name: x\n",
        &expect!["job.yaml: the key `output` is missing"],
    );
    check("", &expect!["job.yaml:1:1: the job file is empty\n  \n  ^"]);
}

#[test]
fn what_is_not_yaml_names_line_and_column() {
    let rendered = |text: &str| parse(text).unwrap_err()[0].clone();
    let unclosed = rendered("name: \"x\noutput: y\n");
    assert!(
        unclosed.message.starts_with("this is not YAML"),
        "{unclosed}"
    );
    assert!(unclosed.span.is_some());
    let twice = rendered("name: x\nname: y\n");
    assert_eq!(twice.message, "the key `name` stands here twice");
    assert_eq!(twice.span.unwrap().line, 2);
}

#[test]
fn reserved_stage_names_are_refused() {
    for name in [
        "corpus",
        "gleaner",
        "x_model",
        "x_demonstrations",
        "Weights",
        "1st",
    ] {
        let errors = parse(&MINIMAL.replace("weights:", &format!("{name}:"))).unwrap_err();
        assert!(errors[0].message.contains("name of a stage"), "{name}");
        assert_eq!(errors[0].span.unwrap().line, 5);
    }
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Params {
    target: String,
    #[serde(default)]
    ngrams: u8,
}

#[test]
fn stage_parameters_are_read_with_places() {
    let job = parse(MINIMAL).unwrap();
    let params: Params = job.stage_params("weights").unwrap();
    assert_eq!(params.target, "t");
    let text = MINIMAL.replace("target: t", "target: t, ngrams: 2.5");
    let error = parse(&text)
        .unwrap()
        .stage_params::<Params>("weights")
        .unwrap_err();
    assert_eq!(error.span.unwrap().line, 5);
    let text = MINIMAL.replace("target: t", "targte: t");
    let error = parse(&text)
        .unwrap()
        .stage_params::<Params>("weights")
        .unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `target`?"));
    assert_eq!(error.span.unwrap().column, 39);
    let error = job.error_at("stages.weights.nothing.here", "m", None);
    assert_eq!(error.span.unwrap().line, 5);
}

#[test]
fn overrides_replace_and_create() {
    let overrides = |path: &str, value: &str| {
        Job::parse_with(source(MINIMAL), &[(path.to_owned(), value.to_owned())])
    };
    let job = overrides("stages.weights.ngrams", "3").unwrap();
    assert_eq!(job.stage_params::<Params>("weights").unwrap().ngrams, 3);
    let job = overrides("corpus.where", "lang = 'en'").unwrap();
    assert_eq!(job.file.corpus.predicate.as_deref(), Some("lang = 'en'"));
    assert_eq!(overrides("corpus.paths.0", "x").unwrap_err().len(), 1);
    let error = &overrides("memory", "7").unwrap_err()[0];
    assert!(error.message.contains("--set memory"), "{error}");
    assert_eq!(error.span, None);
}

#[test]
fn the_file_reads_back_from_its_json() {
    let file = parse(MINIMAL).unwrap().file;
    let json = serde_json::to_string(&file).unwrap();
    assert_eq!(parse(&json).unwrap().file, file);
}

#[test]
fn a_password_in_the_queue_is_refused_and_not_shown() {
    let with =
        |url: &str| parse(&MINIMAL.replacen("output:", &format!("queue: '{url}'\noutput:"), 1));
    for url in [
        "amqp://broker:5672",
        "amqp://user@broker/vhost",
        "amqp://[::1]:5672",
    ] {
        assert!(with(url).is_ok(), "{url}");
    }
    let errors = with("amqp://user:s3cret@broker").unwrap_err();
    assert_eq!(errors.len(), 1);
    let shown = format!(
        "{errors:?}{}",
        errors[0].render_plain("job.yaml", "queue: s3cret")
    );
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("GLEANER_QUEUE"), "{shown}");
}

#[test]
fn the_schema_knows_the_kinds() {
    let schema = json_schema(vec![("demo", schemars::schema_for!(crate::units::Limit))]);
    let kind = schema.pointer("/$defs/Stages/additionalProperties/oneOf/0/properties/kind/const");
    assert_eq!(kind, Some(&serde_json::json!("demo")));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in r"([a-z: \n\-\[\]{}'&*#|>!%,0-9\t]|\PC){0,80}") {
        if let Err(errors) = parse(&text) {
            for error in errors {
                let _ = error.render_plain("job.yaml", &text);
            }
        }
    }
}

#[test]
fn publish_is_a_key_of_every_stage() {
    let job = |key: &str| {
        let text = format!(
            "name: x\noutput: y\ncorpus: {{paths: a}}\nstages:\n  a: {{kind: b, {key}, more: 1}}\n"
        );
        Job::parse(JobSource {
            name: "job.yaml".to_owned(),
            text,
        })
    };
    let parsed = job("publish: delta").unwrap();
    let spec = parsed.file.stages.get("a").unwrap();
    assert_eq!(spec.publish, Some(Publish::Delta));
    assert!(!spec.params.contains_key("publish"));
    let written = serde_json::to_value(&parsed.file).unwrap();
    assert_eq!(
        written["stages"]["a"],
        serde_json::json!({"kind": "b", "publish": "delta", "more": 1})
    );

    let errors = job("publish: iceberg").unwrap_err();
    assert_eq!(errors[0].message, "`iceberg` is not possible here");
    assert_eq!(errors[0].span.unwrap().line, 5);
    assert_eq!(errors[0].span.unwrap().column, 25);
    let errors = job("publish: 1").unwrap_err();
    assert_eq!(errors[0].span.unwrap().column, 25, "{errors:?}");

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        #[allow(dead_code)]
        more: u32,
    }
    let error = job("publsh: delta")
        .unwrap()
        .stage_params::<Params>("a")
        .unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `publish`?"));
}
