//! What is told to broker and bucket fits what the programs expect of them.

use std::time::Duration;

use gleaner_deploy_tests::read;
use gleaner_deploy_tests::sources::one;
use gleaner_queue::{AmqpOptions, DEAD, DELIVERY_LIMIT, queue_name};
use gleaner_schemas::job::{Job, JobSource, Priority};
use gleaner_schemas::units::HumanDuration;
use gleaner_schemas::{Resource, Route};
use regex::Regex;
use serde_json::{Value, json};

fn json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

/// A broker that follows these settings lets tasks run that take as long as they may.
#[test]
fn the_consumer_timeout_is_that_of_the_programs() {
    let settings = read("deploy/rabbitmq/rabbitmq.conf");
    let milliseconds = one(r"(?m)^consumer_timeout = (\d+)$", &settings);
    let broker = Duration::from_millis(milliseconds.parse().unwrap());
    let worker = read("workers/program/src/cli.rs");
    let usual = one(
        r#"default_value = "([^"]+)"[^\]]*\]\s*pub\(crate\) consumer_timeout"#,
        &worker,
    );
    assert_eq!(usual.parse::<HumanDuration>().unwrap().duration(), broker);
    let options = AmqpOptions {
        consumer_timeout: Some(broker),
        ..AmqpOptions::new("amqp://x")
    };
    let source = JobSource {
        name: "job.yaml".to_owned(),
        text: read("deploy/kubernetes/base/job.yaml"),
    };
    let job = Job::parse(source).unwrap();
    options
        .check_task_timeout(job.file.task_timeout.duration())
        .unwrap();
}

/// Where a policy and the arguments of a queue differ, the lower limit counts.
#[test]
fn the_policy_covers_the_queues_of_work_with_their_limit() {
    let definitions = json("deploy/rabbitmq/definitions.json");
    let policy = &definitions["policies"][0];
    assert_eq!(policy["definition"]["delivery-limit"], DELIVERY_LIMIT);
    assert_eq!(policy["vhost"], definitions["vhosts"][0]["name"]);
    let pattern = Regex::new(policy["pattern"].as_str().unwrap()).unwrap();
    for resource in Resource::ALL {
        for priority in Priority::ALL {
            let queue = queue_name(Route { resource, priority });
            assert!(pattern.is_match(&queue), "{queue}");
        }
    }
    assert!(!pattern.is_match(DEAD), "what is dead is looked at often");
    let readme = read("deploy/README.md");
    assert!(readme.contains(&format!("`{DEAD}`")));
}

#[test]
fn buckets_drop_unfinished_uploads_and_nothing_else() {
    assert_eq!(
        json("deploy/buckets/s3-lifecycle.json"),
        json!({"Rules": [{
            "ID": "unfinished-uploads", "Status": "Enabled", "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
        }]})
    );
    assert_eq!(
        json("deploy/buckets/gcs-lifecycle.json"),
        json!({"rule": [{
            "action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 2},
        }]})
    );
}
