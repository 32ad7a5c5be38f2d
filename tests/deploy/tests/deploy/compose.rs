//! The Compose file fits the programs, and each check of it finds what it is for.

use gleaner_deploy_tests::compose::findings;
use gleaner_deploy_tests::sources::Facts;
use gleaner_deploy_tests::{read, yaml};
use serde_json::{Value, json};

fn compose() -> Value {
    let documents = yaml::documents(&read("deploy/compose.yaml")).unwrap();
    let [compose] = <[Value; 1]>::try_from(documents).unwrap();
    compose
}

#[test]
fn nothing_is_wrong_with_it() {
    assert_eq!(findings(&compose(), &Facts::read()), [""; 0]);
}

#[test]
fn what_is_broken_is_found() {
    let facts = Facts::read();
    let check = |at: &str, value: Value, expect: &str| {
        let mut compose = compose();
        let (parent, last) = at.rsplit_once('/').unwrap();
        let parent = compose.pointer_mut(&format!("/services{parent}")).unwrap();
        match parent {
            Value::Object(entries) => {
                entries.insert(last.to_owned(), value);
            }
            Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
            other => panic!("{at} is within {other}"),
        }
        let found = findings(&compose, &facts);
        assert!(
            found.iter().any(|it| it.contains(expect)),
            "{at}: {expect:?} is not in {found:#?}"
        );
    };
    check(
        "/worker/command/0",
        json!("--slot"),
        "worker: there is no option --slot",
    );
    check(
        "/coordinator/command/2",
        json!("--out"),
        "coordinator: there is no option --out",
    );
    check("/coordinator/command/0", json!("plan"), "does not run");
    let job = json!("/usr/share/gleaner/examples/quick.yaml");
    check(
        "/coordinator/command/1",
        job,
        "the image has no example quick.yaml",
    );
    check(
        "/worker/stop_grace_period",
        json!("10s"),
        "stop_grace_period is shorter",
    );
    check(
        "/worker/command/3",
        json!("5min"),
        "stop_grace_period is shorter",
    );
    check("/worker/user", json!("root"), "user is \"root\"");
    check("/worker/read_only", json!(false), "read_only is false");
    check("/worker/cap_dropp", json!([]), "cap_dropp is not known");
    check(
        "/worker/environment/GLEANER_USER",
        json!("x"),
        "nobody reads the variable GLEANER_USER",
    );
    check(
        "/worker/environment/GLEANER_QUEUE_PASSWORD",
        json!("x"),
        "is not RABBITMQ_DEFAULT_PASS",
    );
    check(
        "/worker/environment/AWS_ACCESS_KEY_ID",
        json!("x"),
        "is not MINIO_ROOT_USER",
    );
    check(
        "/worker/environment/AWS_ENDPOINT_URL",
        json!("http://s3:9000"),
        "there is no such service",
    );
    check(
        "/worker/environment/GLEANER_QUEUE",
        json!("amqp://broker/x"),
        "is not of the vhost",
    );
    check("/worker/deploy/replicas", json!(1), "there are not two");
    check(
        "/worker/depends_on/bukket",
        json!({}),
        "it waits for bukket",
    );
    check("/broker/image", json!("rabbitmq"), "has no version");
    check("/broker/ports/0", json!("15672:15672"), "is open to others");
    check(
        "/broker/volumes/0",
        json!("./rabbit.conf:/x"),
        "./rabbit.conf is not there",
    );
    check(
        "/coordinator/build/dockerfile",
        json!("Dockerfile"),
        "its Dockerfile is not there",
    );
}
