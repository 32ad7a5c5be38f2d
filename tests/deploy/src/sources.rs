//! What the programs' sources and the documents say, read as texts: the programs themselves
//! cannot be linked here, they would bring DataFusion with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regex::Regex;

use crate::overlay::Component;
use crate::read;

/// Where each bound of a worker's end stands, after its grace: it hands back what it has, writes
/// its last records, closes its connections, and ends its servers and threads.
const HANDING_BACK: [(&str, &str); 5] = [
    ("workers/src/runner.rs", "PASS_ON_MAX"),
    ("workers/src/runner.rs", "LAST_RECORDS_MAX"),
    ("schemas/queue/src/amqp/mod.rs", "CLOSE_TIMEOUT"),
    ("workers/telemetry/src/serving.rs", "CLOSE_MAX"),
    ("workers/program/src/app.rs", "THREADS_END_MAX"),
];

/// What is known.
#[derive(Debug)]
pub struct Facts {
    /// Options of `gleaner`, of all its commands.
    pub coordinator_options: BTreeSet<String>,
    /// Options of `gleaner-worker`.
    pub worker_options: BTreeSet<String>,
    /// Variables of the environment that begin with `GLEANER_`.
    pub variables: BTreeSet<String>,
    /// Exit codes of the programs but 0, as their sources have them.
    pub codes: BTreeMap<&'static str, BTreeSet<i64>>,
    /// Exit codes as deploy/README.md has them: what a Job does after them.
    pub documented_codes: Vec<DocumentedCode>,
    /// Secrets that users provide, with their keys, as deploy/README.md has them.
    pub secrets: BTreeMap<String, BTreeSet<String>>,
    /// How long a worker takes to end after its grace.
    pub handing_back: Duration,
    /// What `--health` answers to.
    pub health_paths: BTreeSet<String>,
    /// The version of the workspace.
    pub version: String,
    /// The user of the image.
    pub image_user: i64,
}

/// A row of the table of exit codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentedCode {
    /// The code.
    pub code: i64,
    /// Whose: `coordinator`, `worker`, or both.
    pub programs: Vec<&'static str>,
    /// Whether the Job tries again; it fails otherwise.
    pub is_tried_again: bool,
}

impl Facts {
    /// Reads them.
    ///
    /// # Panics
    ///
    /// If a source does not look as it did.
    #[must_use]
    pub fn read() -> Self {
        let coordinator = read("coordinator/src/cli.rs");
        let worker = read("workers/program/src/cli.rs");
        let readme = read("deploy/README.md");
        let copies = read("schemas/storage/src/local_copies.rs");
        let variables =
            [&coordinator, &worker, &copies].map(|source| all(r#""(GLEANER_[A-Z_]+)""#, source));
        let bound = |(path, name): (&str, &str)| Duration::from_secs(seconds(&read(path), name));
        Self {
            coordinator_options: options(&coordinator),
            worker_options: options(&worker),
            variables: variables.into_iter().flatten().collect(),
            codes: BTreeMap::from([
                ("coordinator", codes(&read("coordinator/src/run_error.rs"))),
                ("worker", worker_codes(&read("workers/program/src/end.rs"))),
            ]),
            documented_codes: documented_codes(&readme),
            secrets: secrets(&readme),
            handing_back: HANDING_BACK.map(bound).into_iter().sum(),
            health_paths: all(
                r#"\.route\("([^"]+)""#,
                &read("workers/telemetry/src/health.rs"),
            ),
            version: one(r#"(?m)^version = "([^"]+)""#, &read("Cargo.toml")),
            image_user: one(r"(?m)^USER (\d+):\d+$", &read("deploy/Dockerfile"))
                .parse()
                .unwrap(),
        }
    }

    /// The options of a program.
    #[must_use]
    pub fn options(&self, component: Component) -> &BTreeSet<String> {
        match component {
            Component::Worker => &self.worker_options,
            _ => &self.coordinator_options,
        }
    }
}

/// What the group of a pattern matches, wherever it does.
///
/// # Panics
///
/// If it is nowhere, as nothing is to be checked against nothing.
#[must_use]
pub fn all(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    let found = pattern.captures_iter(text).map(|it| it[1].to_owned());
    let found: BTreeSet<String> = found.collect();
    assert!(!found.is_empty(), "{pattern} is nowhere");
    found
}

/// What the group of a pattern matches first.
///
/// # Panics
///
/// If it is nowhere.
#[must_use]
pub fn one(pattern: &str, text: &str) -> String {
    let found = Regex::new(pattern).unwrap();
    let found = found.captures(text).map(|it| it[1].to_owned());
    found.unwrap_or_else(|| panic!("{pattern} is nowhere"))
}

/// Long options of a clap definition: fields under `#[arg(long ...)]`, by their own names or by
/// those that the attribute gives.
fn options(source: &str) -> BTreeSet<String> {
    let attribute = r"(?s)#\[arg\(((?:[^()]|\([^()]*\))*)\)\]\s*(?:pub(?:\(crate\))? )?(\w+):";
    let attribute = Regex::new(attribute).unwrap();
    let long = Regex::new(r#"\blong\b(?: = "([^"]+)")?"#).unwrap();
    let mut found = BTreeSet::from(["help".to_owned(), "version".to_owned()]);
    for captures in attribute.captures_iter(source) {
        let (arguments, field) = (&captures[1], &captures[2]);
        if let Some(long) = long.captures(arguments) {
            let named = long.get(1).map(|name| name.as_str().to_owned());
            found.insert(named.unwrap_or_else(|| field.replace('_', "-")));
        }
    }
    found
}

/// Codes of a `match` in `fn exit_code`.
fn codes(source: &str) -> BTreeSet<i64> {
    let body = one(r"(?s)fn exit_code\(&self\) -> u8 \{(.*?)\n    \}\n", source);
    let codes = all(r"=> (\d+),", &body);
    codes.iter().map(|code| code.parse().unwrap()).collect()
}

fn worker_codes(source: &str) -> BTreeSet<i64> {
    let mut found = codes(source);
    found.insert(
        one(r"const WORK_IS_LEFT: u8 = (\d+);", source)
            .parse()
            .unwrap(),
    );
    found
}

fn seconds(source: &str, name: &str) -> u64 {
    let pattern = format!(r"const {name}: Duration = Duration::from_secs\((\d+)\);");
    one(&pattern, source).parse().unwrap()
}

/// The rows of tables whose first cell is a code in backquotes.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().map(str::trim);
    let rows = lines.filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
}

fn documented_codes(readme: &str) -> Vec<DocumentedCode> {
    let row = |cells: Vec<&str>| {
        let code = cells[0].trim_matches('`').parse().ok()?;
        let programs = match cells[1] {
            "both" => vec!["coordinator", "worker"],
            "coordinator" => vec!["coordinator"],
            "worker" => vec!["worker"],
            other => panic!("{other:?} is no program"),
        };
        let is_tried_again = match cells[3] {
            "again" => true,
            "fails" => false,
            other => panic!("{other:?} is neither `again` nor `fails`"),
        };
        Some(DocumentedCode {
            code,
            programs,
            is_tried_again,
        })
    };
    rows(readme).filter_map(row).collect()
}

fn secrets(readme: &str) -> BTreeMap<String, BTreeSet<String>> {
    let row = |cells: Vec<&str>| {
        let name = cells[0].trim_matches('`');
        let keys = cells
            .get(1)?
            .split(',')
            .map(|key| key.trim().trim_matches('`').to_owned());
        name.starts_with("gleaner-")
            .then(|| (name.to_owned(), keys.collect()))
    };
    rows(readme).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_programs() {
        let facts = Facts::read();
        let has = |options: &BTreeSet<String>, expect: &[&str]| {
            for option in expect {
                assert!(options.contains(*option), "{option} in {options:?}");
            }
        };
        let worker = [
            "queue",
            "queue-ca",
            "slots",
            "stages",
            "resources",
            "grace",
            "until-idle",
        ];
        has(&facts.worker_options, &worker);
        has(
            &facts.worker_options,
            &[
                "health",
                "consumer-timeout",
                "log-format",
                "broker-patience",
            ],
        );
        let coordinator = [
            "set",
            "output",
            "workers",
            "patience",
            "health",
            "queue",
            "log-format",
        ];
        has(&facts.coordinator_options, &coordinator);
        // Arguments are no options.
        assert!(!facts.coordinator_options.contains("job"));
        assert!(!facts.coordinator_options.contains("document"));
    }

    #[test]
    fn facts_are_those_of_today() {
        let facts = Facts::read();
        assert!(facts.codes["worker"].is_superset(&BTreeSet::from([1, 2, 4, 75])));
        assert!(facts.codes["coordinator"].is_superset(&BTreeSet::from([1, 2, 3, 4, 130])));
        assert!(facts.variables.contains("GLEANER_QUEUE_PASSWORD"));
        assert!(facts.variables.contains("GLEANER_CACHE"));
        assert!(facts.health_paths.contains("/live"));
        assert!(facts.handing_back >= Duration::from_secs(5));
        assert!(facts.secrets["gleaner-broker"].contains("username"));
        assert!(facts.documented_codes.len() >= 8);
    }
}
