//! Jobs over Azure's emulator.

use gleaner_tests::servers::azurite::Azurite;

use super::*;

#[test]
fn a_job_on_azure_gives_the_tables_of_a_local_run() {
    let Some(azurite) = Azurite::start("runs") else {
        return;
    };
    let variables = azurite.variables();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stores = Stores::from_variables(variables.clone());
    let output = Output::open(&stores, "az://runs/race").unwrap();
    runtime.block_on(race(&output));
    let (workspace, _) = small::workspace();
    let inputs = Output::open(&stores, "az://runs/inputs").unwrap();
    for (key, bytes) in job_in(&workspace, "runs/inputs") {
        runtime.block_on(inputs.put(&key, bytes.into())).unwrap();
    }
    let job = std::fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    workspace.write("job.yaml", job.replace("s3://", "az://"));
    let _ = gleaner(&workspace, &variables, &["run", "job.yaml"]).expect(0);
    let expected = tables(&local_objects(&workspace.path().join("out")));
    // The probe of conditional puts at the start lets it through.
    let uri = "az://runs/a b";
    let _ = gleaner(
        &workspace,
        &variables,
        &["run", "job.yaml", "--output", uri],
    )
    .expect(0);
    let output = Output::open(&stores, uri).unwrap();
    let found = runtime.block_on(async {
        let mut found = BTreeMap::new();
        for object in output.list("").await.unwrap() {
            let bytes = output.get(&object.path).await.unwrap().unwrap();
            found.insert(object.path, bytes);
        }
        found
    });
    assert_eq!(tables(&found), expected);
    let _ = gleaner(&workspace, &variables, &["verify", uri]).expect(0);
}

#[test]
fn azure_refuses_in_words_that_help() {
    let Some(azurite) = Azurite::start("runs") else {
        return;
    };
    let (workspace, _) = small::workspace();
    let run = |variables: &Variables, uri: &str| {
        gleaner(&workspace, variables, &["run", "job.yaml", "--output", uri])
    };
    let _ = run(&azurite.variables(), "az://nowhere/x")
        .expect(2)
        .says("the bucket does not exist");
    let mut liar = azurite.variables();
    for (name, value) in &mut liar {
        if name.ends_with("_KEY") {
            *value = "aHVudGVyMg==".to_owned();
        }
    }
    let ended = run(&liar, "az://runs/x").expect(2).says("check the secret");
    assert!(!ended.stderr.contains("aHVudGVyMg"), "{}", ended.stderr);
}
