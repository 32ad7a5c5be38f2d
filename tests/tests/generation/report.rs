//! What a report and a dataset card say of generated texts is what the tables say.

use gleaner_tests::program::{number, text};
use serde_json::Value;

use super::{Server, job, workspace};

const DOCUMENTS: usize = 12;
const STAGES: &str = "
  queries: {kind: synthetic_queries, endpoint: llm, judge: {endpoint: llm}}
  graded: {kind: graded_documents, input: queries, endpoint: llm}
";

#[test]
fn the_report_and_the_card_have_the_figures_of_the_tables() {
    let server = Server::answering();
    let workspace = workspace(DOCUMENTS, &job(&server.url(), "", STAGES));
    let _ = workspace.run(&[]).expect(0);
    let report = workspace
        .gleaner(&["report", "out", "--json", "--to", "report.html"])
        .expect(0);
    let report = report.events().remove(0);
    for stage in ["queries", "graded"] {
        let sections = report["sections"].as_array().unwrap().iter();
        let mut of_stage =
            sections.filter(|it| it["section"] == "generation" && it["stage"] == stage);
        let measures = &of_stage.next().unwrap()["numbers"]["measures"];
        let grades = workspace.sql(&format!(
            "SELECT grade, label, count(*) AS n, count(*) FILTER (WHERE status = 'ok') AS ok
             FROM {stage} WHERE grade IS NOT NULL GROUP BY 1, 2 ORDER BY grade DESC"
        ));
        let found = measures["grades"].as_array().unwrap();
        assert_eq!(found.len(), grades.len(), "{stage}");
        for (found, expected) in found.iter().zip(&grades) {
            for key in ["grade", "label", "n", "ok"] {
                assert_eq!(found[key], expected[key], "{stage}: {key}");
            }
        }
        let sums = workspace.sql(&format!(
            "SELECT sum(prompt_tokens) AS prompt, sum(completion_tokens) AS completion FROM {stage}"
        ));
        assert_eq!(
            measures["cost"]["prompt_tokens"], sums[0]["prompt"],
            "{stage}"
        );
        assert_eq!(
            measures["cost"]["completion_tokens"], sums[0]["completion"],
            "{stage}"
        );
        let order = measures["monotonicity"]["mean"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&order), "{stage}: {order}");
    }
    // What the judge said of the queries, cell by cell.
    let sections = report["sections"].as_array().unwrap();
    let is_it = |it: &&Value| it["section"] == "generation" && it["stage"] == "queries";
    let queries = sections.iter().find(is_it).unwrap();
    let confusion = &queries["numbers"]["measures"]["judge"]["confusion"];
    let judged = workspace.sql(
        "SELECT grade, judged_grade, count(*) AS n FROM queries WHERE judged_grade IS NOT NULL
         GROUP BY 1, 2",
    );
    assert!(!judged.is_empty());
    for row in &judged {
        let (asked, judged) = (row["grade"].to_string(), row["judged_grade"].to_string());
        assert_eq!(confusion[&asked][&judged], row["n"], "{asked} as {judged}");
    }
    let html = std::fs::read_to_string(workspace.path().join("report.html")).unwrap();
    assert!(html.contains("the grade that the judge gave"));
    // The card names models and prompts.
    let card = std::fs::read_to_string(workspace.path().join("out/README.md")).unwrap();
    let prompts: Vec<Value> = workspace.sql(
        "SELECT model, prompt_id, count(*) AS n, count(*) FILTER (WHERE status = 'ok') AS ok
         FROM queries GROUP BY 1, 2",
    );
    for row in &prompts {
        let line = format!(
            "| `queries` | `{}` | `{}` | {} | {} |",
            text(row, "model"),
            text(row, "prompt_id"),
            number(row, "n"),
            number(row, "ok")
        );
        assert!(card.contains(&line), "{line}\n{card}");
    }
}
