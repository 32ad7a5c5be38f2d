//! Commands outside of `docs/`: those of the README, of `deploy/README.md`, and at the top of the
//! examples. Each is run here, or does what the test that is named with it does.

use super::*;

/// Commands that need a machine of their own, by how their block begins, with the test that does the
/// same or checks what they name: file and function.
const ELSEWHERE: [(&str, &str, &str); 10] = [
    (
        "cargo run --locked --bin gleaner -- run examples/quickstart.yaml",
        "tests/documented.rs",
        "the_readme_shows_what_happens",
    ),
    (
        "gleaner sql examples/quickstart-output",
        "tests/documented.rs",
        "the_readme_shows_what_happens",
    ),
    // All tests, this one too; the script refuses a machine that lacks a server.
    (
        "tests/run.sh",
        "tests/documented/commands.rs",
        "every_command_is_run_somewhere",
    ),
    // Broker and store as `deploy/local` starts them; workers that are killed.
    (
        "apt-get install",
        "tests/stores/real.rs",
        "a_job_on_a_real_store_gives_the_tables_of_a_local_run",
    ),
    (
        "gleaner-worker --slots 1 & first=$!",
        "tests/chaos.rs",
        "whatever_is_killed_the_tables_are_those_of_an_undisturbed_run",
    ),
    (
        "kubectl ",
        "deploy/tests/deploy/documented.rs",
        "commands_name_what_is_there",
    ),
    (
        "kind create cluster",
        "deploy/tests/deploy/documented.rs",
        "commands_name_what_is_there",
    ),
    (
        "docker compose",
        "deploy/tests/deploy/compose.rs",
        "nothing_is_wrong_with_it",
    ),
    (
        "docker build",
        "deploy/tests/deploy/images.rs",
        "programs_are_those_of_the_workspace",
    ),
    (
        "aws s3api put-bucket-lifecycle-configuration",
        "deploy/tests/deploy/documented.rs",
        "commands_name_what_is_there",
    ),
];
/// How the block of the README begins that is run below.
const SYNTHETIC: &str = "cargo run --locked --bin gleaner-scripted-endpoint";
/// Blocks that are no commands: what a command prints.
const PRINTED: [&str; 1] = ["chosen (select)"];

fn blocks_without_language(document: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let blocks = blocks_of(&text).into_iter();
    let plain = blocks.filter(|block| block.info.is_empty());
    plain.map(|block| block.text).collect()
}

#[test]
fn every_command_is_run_somewhere() {
    let blocks: Vec<String> = ["README.md", "deploy/README.md"]
        .into_iter()
        .flat_map(blocks_without_language)
        .filter(|block| !PRINTED.iter().any(|it| block.starts_with(it)))
        .filter(|block| !block.starts_with(SYNTHETIC))
        .collect();
    for block in &blocks {
        let is_named = ELSEWHERE.iter().any(|(start, ..)| block.starts_with(start));
        assert!(is_named, "nobody runs\n{block}");
    }
    for (start, file, function) in ELSEWHERE {
        let is_there = blocks.iter().any(|block| block.starts_with(start));
        assert!(is_there, "no document has {start:?}");
        let place = match file.strip_prefix("deploy/") {
            Some(file) => format!("tests/deploy/{file}"),
            None => format!("tests/{file}"),
        };
        let source = fs::read_to_string(repository().join(&place)).unwrap();
        assert!(
            source.contains(&format!("fn {function}(")),
            "{place} has no {function}"
        );
    }
}

/// A project with the jobs that come with it, which ask a server at `port`.
fn with_examples(port: u16) -> Workspace {
    let workspace = project();
    for entry in fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            workspace.write(
                &format!("examples/{name}"),
                text.replace(":8000", &format!(":{port}")),
            );
        }
    }
    workspace
}

/// The README's block about generation, with the server that comes with Gleaner.
#[test]
fn the_readme_generates() {
    let port = free_port();
    let workspace = with_examples(port);
    let blocks = blocks_without_language("README.md");
    let block = blocks.iter().find(|it| it.starts_with(SYNTHETIC)).unwrap();
    let script = block
        .replace("cargo run --locked --bin ", "")
        .replace("endpoint -- ", "endpoint ")
        .replace("8000", &port.to_string());
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}");
    let printed = shell_with_jobs(&workspace, &script);
    assert!(printed.contains("graded"), "{printed}");
    assert!(workspace.path().join("beir").is_dir(), "{printed}");
    // And what the example says of itself.
    for command in commands_of("synthetic.yaml") {
        if command.starts_with("gleaner sql") {
            let _ = shell(&workspace, &command);
        }
    }
}

/// As [`shell`], where something runs in the background: a pipe would stay open as long.
fn shell_with_jobs(workspace: &Workspace, script: &str) -> String {
    let printed = workspace.path().join("printed.txt");
    let script = format!("exec > {} 2>&1\n{script}", printed.display());
    let programs = program().parent().unwrap().to_owned();
    let old = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(programs).chain(std::env::split_paths(&old));
    let mut command = command_in(workspace.path(), "bash".as_ref());
    command.env("PATH", std::env::join_paths(paths).unwrap());
    command.args(["-euc", &script]);
    let ended = ended(&mut command);
    let printed = fs::read_to_string(printed).unwrap();
    assert_eq!(ended.code, Some(0), "{script}\n{printed}");
    printed
}

/// The commands in the comment at the top of an example.
fn commands_of(example: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join("examples").join(example)).unwrap();
    let mut commands: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        let Some(line) = line.strip_prefix("#     ") else {
            continue;
        };
        let line = line.trim();
        match commands.last_mut().filter(|_| is_open) {
            Some(command) => {
                command.pop();
                command.push_str(line);
            }
            None => commands.push(line.to_owned()),
        }
        is_open = line.ends_with('\\');
    }
    commands
}

fn run_example(example: &str) {
    let workspace = with_examples(free_port());
    let commands = commands_of(example);
    assert!(!commands.is_empty(), "{example} tells no command");
    for command in commands {
        assert!(command.starts_with("gleaner "), "{command}");
        let _ = shell(&workspace, &command);
    }
}

#[test]
fn the_quickstart() {
    run_example("quickstart.yaml");
}

#[test]
fn the_best_by_weight() {
    run_example("top_k.yaml");
}

#[test]
fn two_targets() {
    run_example("two_targets.yaml");
}

#[test]
fn quotas_of_groups() {
    run_example("group_quotas.yaml");
}

#[test]
fn a_model_of_another_output() {
    run_example("frozen_model.yaml");
}

/// Training takes minutes: all of it among the long tests, and what can be known before else.
#[test]
fn losses_of_models_that_are_trained_in_place() {
    if std::env::var_os("GLEANER_LONG_TESTS").is_some() {
        return run_example("loss_reduction.yaml");
    }
    let workspace = with_examples(free_port());
    let _ = shell(&workspace, "gleaner validate examples/loss_reduction.yaml");
    let plan = shell(&workspace, "gleaner plan examples/loss_reduction.yaml");
    assert!(plan.contains("losses_prior"), "{plan}");
}

/// Every example is one of those above, or needs a store.
#[test]
fn no_example_is_left_out() {
    let own = include_str!("commands.rs");
    for entry in fs::read_dir(repository().join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // Its store is nobody's; jobs on a real one are run by `tests/stores/real.rs`.
        if !name.ends_with(".yaml") || name == "s3.yaml" {
            continue;
        }
        assert!(own.contains(&format!("\"{name}\"")), "{name} is not run");
    }
}
