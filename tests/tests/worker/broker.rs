//! A worker and a broker that is away, refuses, or wants a password.

use super::*;

#[test]
fn a_broker_that_stays_away_ends_the_worker_with_4() {
    let Some(mut broker) = RabbitMq::start() else {
        return;
    };
    let workspace = Workspace::new();
    let url = broker.url();
    let port = free_port().to_string();
    let arguments = [
        "--queue",
        &url,
        "--health",
        &port,
        "--broker-patience",
        "5s",
    ];
    let mut worker = Worker::start(&workspace, &arguments);
    worker.until_answers(port.parse().unwrap(), "/ready", "200 OK");
    broker.kill();
    worker.until_answers(
        port.parse().unwrap(),
        "/ready",
        "not connected to the broker",
    );
    worker.until_answers(port.parse().unwrap(), "/live", "200 OK");
    let ended = worker.ended().expect(4).says("gave up after 5s");
    let address = format!("127.0.0.1:{}", broker.port());
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    assert!(!ended.stderr.contains("guest:guest"), "{}", ended.stderr);
}

#[test]
fn a_broker_that_was_never_there_ends_the_worker_with_4() {
    let workspace = Workspace::new();
    let url = format!("amqp://me:hunter2@127.0.0.1:{}", free_port());
    let arguments = ["--queue", &url, "--broker-patience", "2s"];
    let ended = Worker::start(&workspace, &arguments).ended().expect(4);
    let ended = ended.says("gave up after 2s").says("127.0.0.1");
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    // Told to stop before it ever connected, it has nothing in hand.
    let worker = Worker::start(&workspace, &["--queue", &url]);
    let deadline = Instant::now() + SOON;
    while !worker.log().contains("trying again") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    worker.terminate();
    let _ = worker.ended().expect(0);
}

#[test]
fn a_broker_that_refuses_ends_the_worker_with_2() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let workspace = Workspace::new();
    for url in [
        broker.url_of("guest", "hunter2", "%2f"),
        broker.url_of("guest", "guest", "missing"),
    ] {
        let ended = Worker::start(&workspace, &["--queue", &url])
            .ended()
            .expect(2);
        assert!(ended.stderr.contains("error: "), "{}", ended.stderr);
        assert!(ended.stderr.contains("help: "), "{}", ended.stderr);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
}

#[test]
fn credentials_come_from_the_environment() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let workspace = Workspace::new();
    let port = free_port().to_string();
    let mut command = command_in(workspace.path(), worker_program());
    let stderr = workspace.path().join("worker.log");
    command.stderr(File::create(&stderr).unwrap());
    command.args(["--health", &port]);
    command.env(
        "GLEANER_QUEUE",
        format!("amqp://127.0.0.1:{}", broker.port()),
    );
    command.env("GLEANER_QUEUE_USER", "guest");
    command.env("GLEANER_QUEUE_PASSWORD", "guest");
    let child = command.spawn().unwrap();
    let mut worker = Worker { child, stderr };
    worker.until_answers(port.parse().unwrap(), "/ready", "200 OK");
    worker.terminate();
    let _ = worker.ended().expect(0);
}
