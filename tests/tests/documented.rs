//! The documentation is run as a reader would run it: each document from its beginning to its end,
//! in a folder of its own with the data of the project.
//!
//! - A block `sh` is run by a shell; blocks of one document follow each other.
//! - A block `text` right behind it is what it prints: `...` stands for lines, `[..]` for words.
//! - A block `yaml title=NAME` is written to that file.
//! - Port 8000 is another one here, so that documents can be run beside each other.

mod commands;
mod formats;
mod reference;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;

use gleaner_tests::program::{
    Workspace, command_in, ended, program, repository, scripted_endpoint_program, worker_program,
};
use gleaner_tests::small;

/// Documents that are made, not written, and who tests them.
const MADE: [&str; 1] = ["job-file.md"];

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    /// What stands behind the fence.
    info: String,
    text: String,
    /// Whether only blank lines stand between it and the block before.
    follows: bool,
}

fn read(document: &str) -> String {
    fs::read_to_string(repository().join("docs").join(document)).unwrap()
}

fn blocks_of(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut follows = false;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => {
                blocks.extend(open.take());
                follows = true;
            }
            (Some(info), None) => {
                open = Some(Block {
                    info: info.trim().to_owned(),
                    text: String::new(),
                    follows,
                });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => follows &= line.trim().is_empty(),
        }
    }
    assert_eq!(open, None, "a block without an end");
    blocks
}

/// What a shell prints between blocks.
const BORDER: &str = "-- the next block of the document --";

/// Runs the blocks of a document here, and compares what they print.
fn run(workspace: &Workspace, document: &str, port: u16) {
    let text = read(document).replace("8000", &port.to_string());
    let blocks = blocks_of(&text);
    let programs = program().parent().unwrap().to_owned();
    let old = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(programs).chain(std::env::split_paths(&old));
    // What is started in the background ends with the shell.
    let mut script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    let mut expected: Vec<Option<&str>> = Vec::new();
    for (idx, block) in blocks.iter().enumerate() {
        if let Some(name) = block.info.strip_prefix("yaml title=") {
            // In its turn: a file may be written anew.
            let delimiter = format!("END_OF_{idx}");
            script += &format!("cat > {name} <<'{delimiter}'\n{}{delimiter}\n", block.text);
        } else if block.info == "sh" {
            script += &format!("echo '{BORDER}'\n{}", block.text);
            let next = blocks.get(idx + 1);
            let shown = next.filter(|next| next.info == "text" && next.follows);
            expected.push(shown.map(|block| block.text.as_str()));
        } else if block.info == "text" {
            let before = idx
                .checked_sub(1)
                .map(|before| blocks[before].info.as_str());
            assert_eq!(
                before,
                Some("sh"),
                "{document}: output of nothing:\n{}",
                block.text
            );
        }
    }
    // A file: a pipe would stay open as long as anything runs in the background.
    let printed = workspace.path().join("printed.txt");
    let script = format!("exec > {}\n{script}", printed.display());
    let mut command = command_in(workspace.path(), Path::new("bash"));
    command.args(["-c", &script]);
    command.env("PATH", std::env::join_paths(paths).unwrap());
    command.stderr(fs::File::create(workspace.path().join("errors.txt")).unwrap());
    let ended = ended(&mut command);
    let printed = fs::read_to_string(printed).unwrap();
    let errors = fs::read_to_string(workspace.path().join("errors.txt")).unwrap();
    assert_eq!(ended.code, Some(0), "{document}:\n{printed}\n{errors}");
    let border = format!("{BORDER}\n");
    let parts: Vec<&str> = printed.split(&border).skip(1).collect();
    assert_eq!(parts.len(), expected.len(), "{document}");
    for (part, expected) in parts.iter().zip(expected) {
        if let Some(expected) = expected {
            assert!(
                is_like(part, expected),
                "{document} shows\n{expected}\nand it prints\n{part}\n{errors}"
            );
        }
    }
}

/// Whether a text is what is shown of it.
fn is_like(text: &str, shown: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let lines = text.trim_end().lines();
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    lines_match(&lines(text), &lines(shown))
}

fn lines_match(text: &[String], shown: &[String]) -> bool {
    match shown.split_first() {
        None => text.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=text.len()).any(|n_left_out| lines_match(&text[n_left_out..], rest))
        }
        Some((first, rest)) => text
            .split_first()
            .is_some_and(|(line, others)| line_matches(line, first) && lines_match(others, rest)),
    }
}

fn line_matches(line: &str, shown: &str) -> bool {
    let mut parts = shown.split("[..]");
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A folder with the data of the project, as a reader has it.
fn project() -> Workspace {
    // They are on the path beside each other.
    let _ = (worker_program(), scripted_endpoint_program());
    let workspace = Workspace::new();
    copy(
        &repository().join("examples/data"),
        &workspace.path().join("examples/data"),
    );
    workspace
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn run_in_project(document: &str) {
    run(&project(), document, free_port());
}

#[test]
fn importance_weights() {
    run_in_project("importance-weights.md");
}

#[test]
fn loss_reduction() {
    run_in_project("loss-reduction.md");
}

#[test]
fn synthetic_queries() {
    run_in_project("synthetic-queries.md");
}

#[test]
fn graded_documents() {
    run_in_project("graded-documents.md");
}

#[test]
fn operators_guide() {
    run_in_project("operators-guide.md");
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
    let mut command = command_in(workspace.path(), "sh".as_ref());
    command.env("PATH", std::env::join_paths(paths).unwrap());
    command.args(["-euc", script]);
    let ended = ended(&mut command).expect(0);
    assert!(!ended.stdout.trim().is_empty(), "{script}");
    ended.stdout
}

/// Two versions, as the document has them.
fn with_two_versions() -> Workspace {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    let _ = workspace
        .run(&["--set", "stages.chosen.documents=30"])
        .expect(0);
    workspace
}

#[test]
fn queries_of_the_documentation_are_answered() {
    let workspace = with_two_versions();
    let blocks = blocks_of(&read("sql.md"));
    let queries: Vec<&str> = blocks
        .iter()
        .filter(|block| block.info == "sql")
        .map(|block| block.text.as_str())
        .collect();
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
    let workspace = with_two_versions();
    run(&workspace, "sql.md", free_port());
    for option in [
        "--param",
        "--attach",
        "EXPLAIN",
        "--version",
        "--allow-paths",
    ] {
        let blocks = blocks_of(&read("sql.md"));
        let is_run = |block: &&Block| ["sh", "sql"].contains(&block.info.as_str());
        let mut run = blocks.iter().filter(is_run);
        assert!(run.any(|block| block.text.contains(option)), "{option}");
    }
}

/// A document that nobody runs, or a kind of block that nobody knows, would rot.
#[test]
fn no_document_is_left_out_and_no_block() {
    let own = include_str!("documented.rs");
    let mut links: BTreeMap<String, String> = BTreeMap::new();
    for entry in fs::read_dir(repository().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if MADE.contains(&name.as_str()) {
            continue;
        }
        let text = read(&name);
        let blocks = blocks_of(&text);
        let is_run = |block: &Block| block.info == "sh" || block.info == "sql";
        if blocks.iter().any(is_run) {
            assert!(own.contains(&format!("\"{name}\"")), "{name} is not run");
        }
        for block in &blocks {
            let info = block.info.split(' ').next().unwrap();
            assert!(
                ["", "python", "sh", "sql", "text", "yaml"].contains(&info),
                "{name}: {info}"
            );
            assert!(
                !info.is_empty() || !block.text.contains("gleaner "),
                "{name}: a command that is not run:\n{}",
                block.text
            );
        }
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap().to_owned();
            links.insert(target, name.clone());
        }
    }
    for (link, document) in links.iter().filter(|(link, _)| !link.contains("://")) {
        let path = link.split('#').next().unwrap();
        let exists = path.is_empty() || repository().join("docs").join(path).exists();
        assert!(exists, "{document}: {link}");
    }
}

#[test]
fn what_is_shown_is_compared() {
    for (text, shown, expected) in [
        ("a\nb\n", "a\nb\n", true),
        ("a\nb\n", "a\n", false),
        ("a\nb\nc\n", "a\n...\n", true),
        ("a\nb\nc\n", "...\nc\n", true),
        ("a\nb\nc\n", "...\nb\n", false),
        ("a 12 b\n", "a [..] b\n", true),
        ("a 12 c\n", "a [..] b\n", false),
        ("n 1 of 2\n", "n [..] of [..]\n", true),
        ("n 1\n", "[..] of [..]\n", false),
    ] {
        assert_eq!(is_like(text, shown), expected, "{text} {shown}");
    }
}
