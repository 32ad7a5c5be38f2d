//! Jobs over object stores: a real one, and one that misbehaves in every way that stores do. The
//! tables must be those of a run over a local disk, byte for byte.
#![cfg(unix)]

mod azure;
mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use gleaner_schemas::FailureKind;
use gleaner_storage::{Created, Output, OutputError, Stores, layout};
use gleaner_tests::program::{Ended, Workspace, command_in, ended, files, program};
use gleaner_tests::servers::ceph::Ceph;
use gleaner_tests::servers::fake_s3::{FakeS3, Faults, hasty, impatient, variables};
use gleaner_tests::servers::proxy::{Mode, Proxy};
use gleaner_tests::servers::tls::TlsServer;
use gleaner_tests::small;

type Variables = Vec<(String, String)>;

/// Runs the program with the environment of a store and no other.
fn gleaner(workspace: &Workspace, variables: &Variables, arguments: &[&str]) -> Ended {
    let mut command = command_in(workspace.path(), program());
    for (name, _) in std::env::vars() {
        if ["AWS_", "AZURE_", "GOOGLE_"]
            .iter()
            .any(|own| name.starts_with(own))
        {
            command.env_remove(name);
        }
    }
    let variables = variables.iter().map(|(name, value)| (name, value));
    ended(command.args(arguments).envs(variables))
}

/// Hashes of the objects of all tables, by table and task: what is random in a name is left out.
fn tables(objects: &BTreeMap<String, Bytes>) -> BTreeMap<String, BTreeSet<String>> {
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (key, bytes) in objects {
        if key.contains(layout::PRIVATE) {
            continue;
        }
        if let Some((task, _)) = layout::parse_attempt(key) {
            let (table, _) = key.split_once('/').unwrap();
            let hash = blake3::hash(bytes).to_hex().to_string();
            tables
                .entry(format!("{table} {task}"))
                .or_default()
                .insert(hash);
        }
    }
    assert!(!tables.is_empty());
    tables
}

fn local_objects(folder: &Path) -> BTreeMap<String, Bytes> {
    files(folder)
        .into_iter()
        .map(|path| {
            let key = path.strip_prefix(folder).unwrap().display().to_string();
            (key, std::fs::read(path).unwrap().into())
        })
        .collect()
}

/// The job of [`small`] with its inputs in the store at `s3://<bucket>`, and a Delta table, which
/// `verify` compares with the version.
fn job_in(workspace: &Workspace, bucket: &str) -> Vec<(String, Vec<u8>)> {
    let job = std::fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let job = job
        .replace("'corpus/*'", &format!("'s3://{bucket}/corpus/*'"))
        .replace("[target.jsonl]", &format!("['s3://{bucket}/target.jsonl']"))
        .replace("kind: select,", "kind: select, publish: delta,");
    workspace.write("job.yaml", job);
    let corpus = local_objects(&workspace.path().join("corpus"));
    let mut inputs: Vec<(String, Vec<u8>)> = corpus
        .into_iter()
        .map(|(key, bytes)| (format!("corpus/{key}"), bytes.to_vec()))
        .collect();
    let target = std::fs::read(workspace.path().join("target.jsonl")).unwrap();
    inputs.push(("target.jsonl".to_owned(), target));
    inputs
}

/// A run whose output lies on the misbehaving store, its inputs too; the same job before, with its
/// output on a local disk and a store that behaves.
fn survives(faults: Faults) -> gleaner_tests::servers::fake_s3::Counts {
    survives_as("s3", faults)
}

/// The same with URIs of this scheme: the server speaks both dialects.
fn survives_as(scheme: &str, faults: Faults) -> gleaner_tests::servers::fake_s3::Counts {
    let server = FakeS3::start(&["data", "runs"]);
    let (workspace, _) = small::workspace();
    for (key, bytes) in job_in(&workspace, "data") {
        server.put("data", &key, bytes);
    }
    let variables = match scheme {
        "gs" => server.google_variables(),
        _ => server.variables(),
    };
    let job = std::fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    workspace.write("job.yaml", job.replace("s3://", &format!("{scheme}://")));
    let _ = gleaner(&workspace, &variables, &["run", "job.yaml"]).expect(0);
    let expected = tables(&local_objects(&workspace.path().join("out")));

    server.set(faults);
    let uri = format!("{scheme}://runs/a b");
    let arguments = ["run", "job.yaml", "--output", &uri];
    let _ = gleaner(&workspace, &variables, &arguments).expect(0);
    let counts = server.counts();
    server.set(Faults::default());
    let found = server.objects("runs", "a b/");
    let found = found
        .into_iter()
        .map(|(key, bytes)| (key["a b/".len()..].to_owned(), bytes))
        .collect();
    assert_eq!(tables(&found), expected);
    let _ = gleaner(&workspace, &variables, &["verify", &uri]).expect(0);
    counts
}

#[test]
fn a_job_on_googles_store_survives_throttling_and_lost_answers() {
    let counts = survives_as(
        "gs",
        Faults {
            throttle_every: 7,
            fail_after_put_every: 3,
            silent_after_put_every: 4,
            cut_every: 5,
            ..Faults::default()
        },
    );
    assert!(counts.throttled > 3 && counts.failed_puts > 3, "{counts:?}");
}

#[test]
fn conditional_puts_of_googles_store_have_one_winner() {
    let server = FakeS3::start(&["runs"]);
    let stores = Stores::from_variables(server.google_variables());
    let output = Output::open(&stores, "gs://runs/race").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(race(&output));
}

#[test]
fn a_job_survives_throttling() {
    let counts = survives(Faults {
        throttle_every: 4,
        ..Faults::default()
    });
    assert!(counts.throttled > 10, "{counts:?}");
}

#[test]
fn a_job_survives_errors_and_silence_after_puts_that_were_stored() {
    let counts = survives(Faults {
        fail_after_put_every: 3,
        silent_after_put_every: 4,
        ..Faults::default()
    });
    assert!(counts.failed_puts > 10, "{counts:?}");
}

#[test]
fn a_job_survives_bodies_that_are_cut() {
    let counts = survives(Faults {
        cut_every: 3,
        ..Faults::default()
    });
    assert!(counts.cut > 10, "{counts:?}");
}

#[test]
fn a_job_survives_a_slow_store() {
    let counts = survives(Faults {
        delay: Duration::from_millis(30),
        ..Faults::default()
    });
    assert!(counts.requests > 30, "{counts:?}");
}

#[test]
fn a_store_that_ignores_conditions_is_refused_unless_one_coordinator_is_promised() {
    let server = FakeS3::start(&["runs"]);
    server.set(Faults {
        ignores_conditions: true,
        ..Faults::default()
    });
    let (workspace, _) = small::workspace();
    let arguments = ["run", "job.yaml", "--output", "s3://runs/out"];
    let _ = gleaner(&workspace, &server.variables(), &arguments)
        .expect(2)
        .says("does not honour conditional puts")
        .says("single_coordinator: true");
    assert_eq!(server.objects("runs", "out/_gleaner/probe").len(), 0);
    let promise = [&arguments[..], &["--set", "single_coordinator=true"]].concat();
    let _ = gleaner(&workspace, &server.variables(), &promise).expect(0);
}

/// A store behind TLS whose authority nobody knows is refused, until its file is named.
#[test]
fn an_authority_of_ones_own_is_trusted_when_it_is_named() {
    let (workspace, _) = small::workspace();
    let Some(server) = TlsServer::start(workspace.path()) else {
        return;
    };
    let endpoint = format!("https://localhost:{}", server.port());
    let unknown = impatient(variables(&endpoint, "key", "secret"));
    let run = ["run", "job.yaml", "--output", "s3://runs/out"];
    let _ = gleaner(&workspace, &unknown, &run)
        .expect(2)
        .says("the store's certificate cannot be trusted")
        .says("SSL_CERT_FILE");
    let authority = workspace.path().join("ca.pem").display().to_string();
    for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        let mut known = unknown.clone();
        known.push((name.to_owned(), authority.clone()));
        // The server is no store: it is enough that its answer was heard.
        let _ = gleaner(&workspace, &known, &run)
            .expect(4)
            .says("Content-Length Header missing");
    }
}

/// What each refusal says, and with which exit code.
#[test]
fn refusals_say_what_to_do() {
    let server = FakeS3::start(&["runs"]);
    let (workspace, _) = small::workspace();
    let variables = hasty(server.variables());
    let region = "<Region>eu-west-1</Region><StringToSign>hunter2</StringToSign>";
    let cases = [
        (403, "AccessDenied", "", 2, "the store denies access"),
        (
            403,
            "InvalidAccessKeyId",
            "<AWSAccessKeyId>hunter2</AWSAccessKeyId>",
            2,
            "does not know the access key",
        ),
        (
            301,
            "PermanentRedirect",
            region,
            2,
            "set AWS_REGION=eu-west-1",
        ),
        (400, "ExpiredToken", "", 4, "the session token has expired"),
        (
            403,
            "RequestTimeTooSkewed",
            "",
            4,
            "the clock of this machine",
        ),
        (503, "SlowDown", "", 4, "asks for fewer requests"),
        (500, "InternalError", "", 4, "the store failed by itself"),
        (404, "NoSuchBucket", "", 2, "the bucket does not exist"),
    ];
    for (status, code, more, exit, sentence) in cases {
        server.set(Faults {
            refuse: Some((status, code, more)),
            ..Faults::default()
        });
        let run = ["run", "job.yaml", "--output", "s3://runs/out"];
        let ended = gleaner(&workspace, &variables, &run)
            .expect(exit)
            .says(sentence);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
        let read = ["sql", "s3://runs/out", "SELECT 1"];
        let ended = gleaner(&workspace, &variables, &read)
            .expect(exit)
            .says(sentence);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
}

#[test]
fn stores_that_cannot_be_reached_say_why() {
    let (workspace, _) = small::workspace();
    let run = ["run", "job.yaml", "--output", "s3://runs/out"];
    let server = FakeS3::start(&["runs"]);
    let proxy = Proxy::start(server.address());
    let endpoint = format!("http://{}", proxy.address());
    let through = variables(&endpoint, "key", "hunter2");
    let refused = "nothing listens at the store's address";
    let modes = [
        (Mode::Refuse, hasty(through.clone()), refused),
        (
            Mode::BlackHole,
            impatient(through.clone()),
            "did not answer in time",
        ),
        (
            Mode::Reset,
            hasty(through),
            "the connection to the store broke",
        ),
    ];
    for (mode, through, sentence) in modes {
        proxy.set(mode);
        let ended = gleaner(&workspace, &through, &run).expect(4).says(sentence);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
    let nowhere = hasty(variables("http://no-such-host.invalid", "key", "secret"));
    let _ = gleaner(&workspace, &nowhere, &run)
        .expect(4)
        .says("cannot be resolved");
}

#[test]
fn credentials_in_uris_are_refused_without_repeating_them() {
    let (workspace, _) = small::workspace();
    let job = std::fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let corpora = [
        "https://user:hunter2@host/x.parquet",
        "https://host/x.parquet?X-Amz-Signature=hunter2",
    ];
    for uri in corpora {
        workspace.write("bad.yaml", job.replace("corpus/*", uri));
        for arguments in [
            &["run", "bad.yaml"][..],
            &["plan", "bad.yaml"],
            &["validate", "bad.yaml", "--json"],
            &[
                "run",
                "job.yaml",
                "--json",
                "--output",
                "s3://key:hunter2@bucket/x",
            ],
            &["verify", "s3://key:hunter2@bucket/x"],
        ] {
            let ended = workspace.gleaner(arguments).expect(2).says("environment");
            let all = ended.stdout + &ended.stderr;
            assert!(!all.contains("hunter2"), "{all}");
        }
    }
}

/// Sixteen writers, twenty objects: one writer of each wins, and everybody knows who.
async fn race(output: &Output) {
    for round in 0..20 {
        let key = format!("race/{round}.json");
        let racers = (0..16_u8).map(|racer| output.create(&key, Bytes::from(vec![racer; 100])));
        let results = futures::future::join_all(racers).await;
        let stored = output.get(&key).await.unwrap().unwrap();
        let mut n_winners = 0;
        for (racer, result) in results.into_iter().enumerate() {
            match result.unwrap() {
                Created::Stored => {
                    n_winners += 1;
                    assert_eq!(usize::from(stored[0]), racer);
                }
                Created::Exists(bytes) => assert_eq!(bytes, stored),
            }
        }
        assert_eq!(n_winners, 1, "round {round}");
    }
}

#[tokio::test]
async fn one_creator_wins_on_a_store_that_misbehaves() {
    let server = FakeS3::start(&["b"]);
    server.set(Faults {
        throttle_every: 5,
        fail_after_put_every: 3,
        silent_after_put_every: 4,
        cut_every: 6,
        ..Faults::default()
    });
    let stores = Stores::from_variables(server.variables());
    let output = Output::open(&stores, "s3://b/run").unwrap();
    race(&output).await;
    let counts = server.counts();
    assert!(counts.failed_puts > 0 && counts.cut > 0, "{counts:?}");
}

/// Keys that climb, that are absolute or encoded stay below the output, in the store and on disk.
#[tokio::test]
async fn no_key_leaves_its_output() {
    let server = FakeS3::start(&["b"]);
    let stores = Stores::from_variables(server.variables());
    let folder = tempfile::tempdir().unwrap();
    let local = format!("file://{}/a/run", folder.path().display());
    let keys = [
        "../outside",
        "x/../../outside",
        "/etc/outside",
        "%2e%2e/outside",
        "..%2foutside",
        "./x",
        "x//y",
        "y/..",
        "a\\..\\b",
        "ü #?",
    ];
    for uri in ["s3://b/a/run", &local] {
        let output = Output::open(&stores, uri).unwrap();
        for key in keys {
            output.put(key, Bytes::from(key)).await.unwrap();
            assert_eq!(output.get(key).await.unwrap().unwrap(), key, "{key}");
            // The URI leads to the same object.
            let uri = output.uri_of(key);
            assert!(uri.starts_with(output.uri()), "{uri}");
            let (store, path) = stores.resolve(&uri).unwrap();
            let found = object_store::ObjectStoreExt::get(&store, &path).await;
            assert_eq!(found.unwrap().bytes().await.unwrap(), key, "{key}: {uri}");
        }
        assert_eq!(output.list("").await.unwrap().len(), keys.len());
    }
    assert_eq!(server.objects("b", "").len(), keys.len());
    assert_eq!(server.objects("b", "a/run/").len(), keys.len());
    let run = folder.path().join("a/run");
    assert!(
        files(folder.path())
            .iter()
            .all(|file| file.starts_with(&run))
    );
}

#[tokio::test]
async fn errors_of_outputs_keep_their_kind() {
    let server = FakeS3::start(&[]);
    let stores = Stores::from_variables(server.variables());
    let output = Output::open(&stores, "s3://b/run").unwrap();
    let error = output.get("x").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent);
    assert!(matches!(error, OutputError::Store { .. }));
    assert!(output.list("").await.is_err());
    assert!(
        output
            .create("x", Bytes::new())
            .await
            .unwrap_err()
            .is_write()
    );
}
