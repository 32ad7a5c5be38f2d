//! The Dockerfiles build what there is, out of what they are given.

use gleaner_deploy_tests::sources::{all, one};
use gleaner_deploy_tests::{read, repository};

const DOCKERFILES: [&str; 2] = ["deploy/Dockerfile", "deploy/Dockerfile.cuda"];

/// Instructions, with continued lines as one.
fn instructions(path: &str) -> Vec<String> {
    let text = read(path).replace("\\\n", " ");
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|it| !it.is_empty() && !it.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn versions_are_those_of_the_workspace() {
    let workspace = read("Cargo.toml");
    let rust = one(r#"rust-version = "([^"]+)""#, &workspace);
    let version = one(r#"(?m)^version = "([^"]+)""#, &workspace);
    for path in DOCKERFILES {
        let text = read(path);
        assert_eq!(one(r"FROM rust:([\d.]+)-", &text), rust, "{path}");
        assert_eq!(one(r"(?m)^ARG VERSION=(.+)$", &text), version, "{path}");
    }
}

#[test]
fn programs_are_those_of_the_workspace() {
    let binaries = |path: &str| all(r"target/release/(gleaner[a-z-]*)", &read(path));
    let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
    assert_eq!(
        binaries("deploy/Dockerfile"),
        names(&["gleaner", "gleaner-worker"])
    );
    assert_eq!(
        binaries("deploy/Dockerfile.cuda"),
        names(&["gleaner-worker"])
    );
    assert_eq!(
        one(
            r#"\[\[bin\]\]\nname = "([^"]+)""#,
            &read("coordinator/Cargo.toml")
        ),
        "gleaner"
    );
    let worker = read("workers/program/Cargo.toml");
    assert_eq!(one(r#"(?m)^name = "([^"]+)""#, &worker), "gleaner-worker");
    assert!(worker.contains("\ncuda = ["));
    assert!(read("deploy/Dockerfile.cuda").contains("--features gleaner-worker/cuda"));
}

#[test]
fn images_run_as_a_number_with_labels_and_a_place_to_write() {
    for path in DOCKERFILES {
        let instructions = instructions(path);
        let last_from = instructions
            .iter()
            .rposition(|it| it.starts_with("FROM "))
            .unwrap();
        let runtime = instructions[last_from..].join("\n");
        let user = one(r"(?m)^USER (\d+):\d+$", &runtime);
        assert_eq!(user, "65532", "{path}");
        for label in [
            "title",
            "description",
            "source",
            "licenses",
            "version",
            "revision",
        ] {
            assert!(
                runtime.contains(&format!("org.opencontainers.image.{label}=")),
                "{path}: {label}"
            );
        }
        assert!(runtime.contains("GLEANER_CACHE=/cache"), "{path}");
        // As a list, so that signals reach the program and not a shell.
        assert!(runtime.contains("ENTRYPOINT [\"/usr/local/bin/"), "{path}");
        // Builders and caches stay behind.
        assert!(!runtime.contains("cargo"), "{path}");
    }
}

/// What is copied in, and all that Cargo reads, must get past `.dockerignore`.
#[test]
fn what_is_needed_is_sent_to_the_builder() {
    let ignore = read(".dockerignore");
    let kept: Vec<&str> = ignore
        .lines()
        .filter_map(|it| it.strip_prefix('!'))
        .collect();
    assert!(
        ignore.lines().any(|line| line == "*"),
        "nothing else is to be sent"
    );
    let manifest = read("Cargo.toml");
    let members = one(r"(?s)members = \[(.*?)\]", &manifest);
    let members = all(r#"(?m)^\s*"([^"/]+)"#, &members);
    let copied = DOCKERFILES.iter().flat_map(|path| instructions(path));
    let copied = copied.filter_map(|it| it.strip_prefix("COPY ").map(str::to_owned));
    let copied: Vec<String> = copied
        .filter(|it| !it.starts_with("--from") && !it.starts_with(". "))
        .map(|it| it.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert!(copied.contains(&"examples".to_owned()));
    let more = ["Cargo.toml", "Cargo.lock"].map(str::to_owned);
    for path in members.iter().chain(&copied).chain(&more) {
        assert!(kept.contains(&path.as_str()), "{path} is not sent");
        assert!(repository(path).exists(), "{path} is not there");
    }
    for path in &kept {
        assert!(repository(path).exists(), "{path} is not there");
    }
}

/// Also those that a trial runs.
#[test]
fn jobs_that_name_files_of_the_image_find_them_there() {
    let job = read("deploy/kubernetes/overlays/local/job.yaml");
    for path in all(r"/usr/share/gleaner/(examples/[^\]\s*]+)", &job) {
        let path = path.trim_end_matches('/');
        assert!(repository(path).exists(), "{path}");
    }
    // The trial is the example that the documents begin with.
    let example = read("examples/quickstart.yaml");
    let stages = |text: &str| one(r"(?s)\nstages:\n(.*)", text);
    assert_eq!(stages(&job), stages(&example));
}
