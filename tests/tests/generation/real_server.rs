//! A real language-model server, wherever one is: `GLEANER_TEST_LLM_URL` is its URL up to `/v1`,
//! `GLEANER_TEST_LLM_MODEL` a model that it has, `GLEANER_TEST_LLM_DIALECT` how it wants schemas
//! (`structured_output` of the job file), and `GLEANER_TEST_LLM_IS_RANDOM=1` says that the weights
//! of the model are random, so that its texts have nothing to do with what is asked.

use std::io::Write as _;

use serde_json::Value;

use super::{BOTH, count, job, statuses, workspace};

const DOCUMENTS: u64 = 12;
/// The share of pairs in the right order by chance is one half; how far it may be from there.
const CHANCE: std::ops::RangeInclusive<f64> = 0.4..=0.6;

#[test]
fn a_real_server_writes_queries_and_graded_documents() {
    let Ok(url) = std::env::var("GLEANER_TEST_LLM_URL") else {
        // Not `eprintln`, which the test harness hides where a test succeeds.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: tests on a real language-model server: GLEANER_TEST_LLM_URL is not set"
        );
        return;
    };
    let variable = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.into());
    let model = variable("GLEANER_TEST_LLM_MODEL", "tiny");
    let dialect = variable("GLEANER_TEST_LLM_DIALECT", "auto");
    let text = job(
        &url,
        &format!("concurrency: 4, structured_output: {dialect}"),
        BOTH,
    );
    let text = text.replace("model: any", &format!("model: {model}"));
    let workspace = workspace(DOCUMENTS as usize, &text);
    let summary = workspace.summary(&[]);
    // Texts may be rejected by filters; nothing that was asked for may be lost.
    let queries = statuses(&workspace, "queries");
    assert_eq!(queries.get("failed"), None, "{queries:?}");
    assert_eq!(count(&workspace, "queries"), DOCUMENTS * 4);
    let graded = statuses(&workspace, "graded");
    assert_eq!(graded.get("failed"), None, "{graded:?}");
    assert!(count(&workspace, "graded") > 0);
    let stages = summary["stages"].as_array().unwrap();
    let measures: Vec<&Value> = stages.iter().map(|stage| &stage["generation"]).collect();
    assert_eq!(measures.len(), 2, "{summary}");
    let again = workspace.summary(&[]);
    assert_eq!(again["is_new"], Value::Bool(false), "{again}");
    if std::env::var_os("GLEANER_TEST_LLM_IS_RANDOM").is_some() {
        for measure in measures {
            let Some(monotonicity) = measure["monotonicity"]["mean"].as_f64() else {
                panic!("{measure}");
            };
            assert!(CHANCE.contains(&monotonicity), "{measure}");
        }
    }
}
