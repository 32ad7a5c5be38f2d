//! Commands of the documents for clusters and buckets: what they name is there.

use std::collections::BTreeSet;

use gleaner_deploy_tests::overlay::{Overlay, name};
use gleaner_deploy_tests::sources::all;
use gleaner_deploy_tests::{OVERLAYS, read, repository};

/// The blocks without a language.
fn commands(document: &str) -> String {
    let text = read(document);
    let blocks = text.split("```").skip(1).step_by(2);
    blocks
        .filter_map(|block| block.strip_prefix('\n'))
        .collect()
}

#[test]
fn commands_name_what_is_there() {
    let commands = ["README.md", "deploy/README.md"].map(commands).concat();
    let overlays = OVERLAYS.map(Overlay::rendered);
    let documents = overlays.iter().flat_map(|overlay| &overlay.documents);
    let made: BTreeSet<String> = documents.map(|it| name(it).to_lowercase()).collect();
    let objects = all(r"\b((?:job|cronjob|service)/[a-z-]+)", &commands);
    assert!(objects.len() >= 3, "{objects:?}");
    for object in objects {
        assert!(made.contains(&object), "there is no {object}: {made:?}");
    }
    let paths = r"(?: -k | -f |file://|file=)(deploy/[A-Za-z0-9./_-]+)";
    for path in all(paths, &commands) {
        assert!(repository(&path).exists(), "there is no {path}");
    }
    for label in all(r" -l (\S+)", &commands) {
        let (key, value) = label.split_once('=').unwrap();
        let label = format!("{key}: {value}");
        let rendered = OVERLAYS.map(|it| read(&format!("tests/deploy/rendered/{it}.yaml")));
        assert!(
            rendered.iter().any(|it| it.contains(&label)),
            "nothing has {label}"
        );
    }
}
