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

/// Code blocks of the README without a language.
fn readme_blocks() -> Vec<String> {
    let text = fs::read_to_string(repository().join("README.md")).unwrap();
    let parts: Vec<&str> = text.split("```").collect();
    // Every second part is a block; its first line is the language.
    let blocks = parts.into_iter().skip(1).step_by(2);
    let plain = blocks.filter_map(|block| block.strip_prefix('\n'));
    plain.map(str::to_owned).collect()
}

/// The README's first command, then the queries that it says are worth running, as they stand there.
#[test]
fn the_readme_shows_what_happens() {
    let workspace = Workspace::new();
    let examples = repository().join("examples");
    let job = fs::read(examples.join("quickstart.yaml")).unwrap();
    workspace.write("examples/quickstart.yaml", job);
    let data = workspace.path().join("examples/data");
    std::os::unix::fs::symlink(examples.join("data"), data).unwrap();
    let ended = workspace
        .gleaner(&["run", "examples/quickstart.yaml"])
        .expect(0);
    let blocks = readme_blocks();
    let shown = blocks
        .iter()
        .find(|block| block.starts_with("chosen (select)"));
    for line in shown.unwrap().lines().filter(|line| line.trim() != "...") {
        assert!(
            ended.stdout.contains(line),
            "{line:?} is not in\n{}",
            ended.stdout
        );
    }
    let queries: Vec<&String> = blocks
        .iter()
        .filter(|block| block.starts_with("gleaner sql examples/quickstart-output"))
        .collect();
    assert_eq!(queries.len(), 3);
    let [by_source, sentences, passages] = [0, 1, 2].map(|idx| shell(&workspace, queries[idx]));
    // The documents of the target's kind are clearly on top.
    let first = by_source.lines().find(|line| line.contains("science_plos"));
    assert!(first.is_some(), "{by_source}");
    let nats = |part: &str| -> f64 {
        let line = sentences.lines().find(|line| line.contains(part)).unwrap();
        let cells = line.split(|c: char| c.is_whitespace() || c == '|');
        let value = cells.filter_map(|cell| cell.parse().ok()).next_back();
        value.unwrap_or_else(|| panic!("{sentences}"))
    };
    assert!(nats("aspirin") > nats("the door"), "{sentences}");
    assert!(nats("aspirin") > 0.0, "{sentences}");
    let n_passages = passages
        .lines()
        .filter(|line| line.contains("fiction/"))
        .count();
    assert_eq!(n_passages, 5, "{passages}");
}

/// What a shell command with the program on its path prints.
fn shell(workspace: &Workspace, script: &str) -> String {
    let programs = program().parent().unwrap().to_owned();
    let old = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(programs).chain(std::env::split_paths(&old));
    let mut command: Command = command_in(workspace.path(), "sh".as_ref());
    command.env("PATH", std::env::join_paths(paths).unwrap());
    command.args(["-euc", script]);
    let ended = ended(&mut command).expect(0);
    assert!(!ended.stdout.trim().is_empty(), "{script}");
    ended.stdout
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
    for script in &commands {
        let _ = shell(&workspace, script);
    }
}
