//! The examples of the documentation are run as a reader would run them.

use std::fs;
use std::process::Command;

use gleaner_tests::program::{Workspace, command_in, ended, program, repository};
use gleaner_tests::small;

/// Code blocks of a language, in order.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let path = repository().join("docs").join(document);
    let text = fs::read_to_string(path).unwrap();
    let start = format!("```{language}\n");
    let blocks = text.split(start.as_str()).skip(1);
    blocks
        .map(|block| block.split_once("\n```").unwrap().0.to_owned())
        .collect()
}

/// Two versions, as the document has them.
fn workspace() -> Workspace {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    let _ = workspace
        .run(&["--set", "stages.chosen.documents=30"])
        .expect(0);
    workspace
}

#[test]
fn queries_of_the_documentation_are_answered() {
    let workspace = workspace();
    let queries = blocks("sql.md", "sql");
    assert!(queries.len() >= 10, "{}", queries.len());
    for query in &queries {
        let rows = workspace.sql(query);
        let has_none = ["HAVING count(*) > 1", "'quarantined'"];
        let may_be_empty = has_none.iter().any(|it| query.contains(it));
        assert_eq!(rows.is_empty(), may_be_empty, "{query}");
    }
}

#[test]
fn commands_of_the_documentation_run() {
    let workspace = workspace();
    let commands = blocks("sql.md", "sh");
    assert!(commands.len() >= 4, "{}", commands.len());
    let programs = program().parent().unwrap().to_owned();
    let old = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(programs).chain(std::env::split_paths(&old));
    let path = std::env::join_paths(paths).unwrap();
    for script in &commands {
        let mut command: Command = command_in(workspace.path(), "sh".as_ref());
        command.env("PATH", &path).args(["-euc", script]);
        let ended = ended(&mut command).expect(0);
        assert!(!ended.stdout.trim().is_empty(), "{script}");
    }
}
