//! Jobs over a real store.

use super::*;

#[test]
fn a_job_on_a_real_store_gives_the_tables_of_a_local_run() {
    let Some(ceph) = Ceph::shared() else { return };
    let bucket = ceph.new_bucket();
    let (workspace, _) = small::workspace();
    let inputs = job_in(&workspace, &bucket);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stores = Stores::from_variables(ceph.variables());
    let data = Output::open(&stores, &format!("s3://{bucket}")).unwrap();
    for (key, bytes) in inputs {
        runtime.block_on(data.put(&key, bytes.into())).unwrap();
    }
    let variables = ceph.variables();
    let _ = gleaner(&workspace, &variables, &["run", "job.yaml"]).expect(0);
    let expected = tables(&local_objects(&workspace.path().join("out")));

    let uri = format!("s3://{bucket}/runs/one");
    let run = ["run", "job.yaml", "--output", &uri];
    let _ = gleaner(&workspace, &variables, &run).expect(0);
    let output = Output::open(&stores, &uri).unwrap();
    let found = runtime.block_on(async {
        let mut found = BTreeMap::new();
        for object in output.list("").await.unwrap() {
            let bytes = output.get(&object.path).await.unwrap().unwrap();
            found.insert(object.path, bytes);
        }
        found
    });
    assert_eq!(tables(&found), expected);
    let _ = gleaner(&workspace, &variables, &["verify", &uri]).expect(0);
    let rows = gleaner(
        &workspace,
        &variables,
        &[
            "sql",
            &uri,
            "SELECT count(*) AS n FROM chosen",
            "--format",
            "json",
        ],
    );
    assert_eq!(rows.expect(0).events()[0]["n"], small::CHOSEN);
}

#[test]
fn a_real_store_refuses_in_words_that_help() {
    let Some(ceph) = Ceph::shared() else { return };
    let bucket = ceph.new_bucket();
    let (workspace, _) = small::workspace();
    let run = |variables: &Variables, bucket: &str| {
        let uri = format!("s3://{bucket}/x");
        gleaner(
            &workspace,
            variables,
            &["run", "job.yaml", "--output", &uri],
        )
    };
    let _ = run(&ceph.variables(), "no-such-bucket")
        .expect(2)
        .says("the bucket does not exist");
    let stranger = variables(&ceph.endpoint(), "stranger", "hunter2");
    let _ = run(&stranger, &bucket)
        .expect(2)
        .says("does not know the access key");
    let liar = variables(&ceph.endpoint(), "testaccess", "hunter2");
    let ended = run(&liar, &bucket).expect(2).says("check the secret");
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    let missing = ["status", "s3://no-such-bucket/x"];
    let _ = gleaner(&workspace, &ceph.variables(), &missing)
        .expect(2)
        .says("the bucket does not exist");
}

#[test]
fn one_creator_wins_on_a_real_store_also_through_breaking_connections() {
    let Some(ceph) = Ceph::shared() else { return };
    let bucket = ceph.new_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stores = Stores::from_variables(ceph.variables());
    let output = Output::open(&stores, &format!("s3://{bucket}/x")).unwrap();
    runtime.block_on(race(&output));

    let address = ceph.endpoint()["http://".len()..].parse().unwrap();
    let proxy = Proxy::start(address);
    let broken = variables(
        &format!("http://{}", proxy.address()),
        "testaccess",
        "testsecret",
    );
    let stores = Stores::from_variables(broken);
    let output = Output::open(&stores, &format!("s3://{bucket}/y")).unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                proxy.set(Mode::CutAfter(2000));
                std::thread::sleep(Duration::from_millis(50));
                proxy.set(Mode::Reset);
                proxy.set(Mode::Pass);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        runtime.block_on(race(&output));
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // Sixteen racers share few connections while none breaks.
    assert!(proxy.n_connections() > 16, "{}", proxy.n_connections());
}
