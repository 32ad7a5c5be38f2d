//! A broker that does not want to: credentials, permissions, queues of other arguments.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_says_why() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let vhost = broker.new_vhost();
    broker.ctl(["add_user", "nobody", "s3cret"]);
    let as_nobody = |n_slots| options(broker.url_of("nobody", "s3cret", &vhost), n_slots);
    let check = |found: (String, String), message: &str, help: &str| {
        assert!(found.0.contains(message), "{found:?} has no {message:?}");
        assert!(found.1.contains(help), "{found:?} has no {help:?}");
    };

    let wrong_password = options(broker.url_of("guest", "s3cret", &vhost), 0);
    check(
        refused(wrong_password).await,
        "user or its password",
        "check user",
    );
    let wrong_password = AmqpOptions {
        password: Some("s3cret".to_owned()),
        ..options(broker.url_of("guest", "guest", &vhost), 0)
    };
    check(
        refused(wrong_password).await,
        "user or its password",
        "check user",
    );
    let no_vhost = options(broker.url_of("guest", "guest", "nowhere"), 0);
    check(refused(no_vhost).await, "no such vhost", "add_vhost");
    check(
        refused(as_nobody(0)).await,
        "into the vhost",
        "set_permissions",
    );

    let permit = |configure: &str, write: &str, read: &str| {
        broker.ctl([
            "set_permissions",
            "-p",
            &vhost,
            "nobody",
            configure,
            write,
            read,
        ]);
    };
    permit("^$", ".*", ".*");
    let found = refused(as_nobody(0)).await;
    check(found, "does not permit to declare the queues", "configure");
    permit("^gleaner\\.", "^gleaner\\.", "^gleaner\\.");
    let found = refused(as_nobody(0)).await;
    check(found, "does not permit to declare the queues", "amq");
    permit("^gleaner\\.", "^(gleaner\\.|amq\\.default)", "^$");
    let found = refused(as_nobody(0)).await;
    check(found, "does not permit", "read");
    permit("^gleaner\\.", "^(gleaner\\.|amq\\.default)", "^gleaner\\.");
    let queue = AmqpQueue::connect(as_nobody(1)).await.unwrap();
    assert!(!format!("{queue:?}").contains("s3cret"));
    queue.publish(&[message(0)]).await.unwrap();
    // The permission goes while it works. A channel remembers it, a new one does not.
    permit("^$", "^$", "^$");
    broker.ctl(["close_all_connections", "-p", &vhost, "by a test"]);
    let is_refused = |error: &QueueError| match error {
        QueueError::Refused { message, .. } => message.contains("does not permit"),
        _ => false,
    };
    let deadline = Instant::now() + SOON;
    loop {
        let published = queue.publish(&[message(1)]).await.map(|()| "published");
        let received = tokio::time::timeout(SILENCE, queue.receive()).await;
        let received = received.map(|received| received.map(|_| "received"));
        match (&published, &received) {
            (Err(one), Ok(Err(other))) if is_refused(one) && is_refused(other) => break,
            _ => assert!(Instant::now() < deadline, "{published:?}, {received:?}"),
        }
    }
    assert!(!queue.is_well());
    // And comes back.
    permit(".*", ".*", ".*");
    while !queue.is_well() {
        assert!(Instant::now() < deadline, "it stays refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    publish(&queue, &[message(2)]).await;
    receive(&queue).await.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_named() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let (_connection, channel) = plain_client(&url).await;
    let durable = lapin::options::QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare("gleaner.cpu.low".into(), durable, Default::default())
        .await
        .unwrap();
    let (message, help) = refused(options(url, 1)).await;
    assert!(message.contains("gleaner.cpu.low"), "{message}");
    assert!(help.contains("delete_queue"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_is_declared_again() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let coordinator = connect(url.clone(), 0).await;
    coordinator.publish(&[message(0)]).await.unwrap();
    let (_connection, channel) = plain_client(&url).await;
    let delete = async || {
        let queue = "gleaner.cpu.normal".into();
        channel
            .queue_delete(queue, Default::default())
            .await
            .unwrap()
    };
    assert_eq!(delete().await, 1);
    // The broker acknowledges it, and returns it.
    let lost = coordinator.publish(&[message(1)]).await;
    assert!(
        matches!(&lost, Err(QueueError::Unreachable(text)) if text.contains("lost a queue")),
        "{lost:?}"
    );
    coordinator.publish(&[message(2)]).await.unwrap();
    let worker = connect(url, 1).await;
    let delivery = receive(&worker).await;
    assert_eq!(delivery.task.task_idx, 2);
    delivery.ack().await.unwrap();
    // Those who consume notice by themselves.
    delete().await;
    eventually(&coordinator, Route::default(), |state| {
        state.n_slots == Some(1)
    })
    .await;
    publish(&coordinator, &[message(3)]).await;
    assert_eq!(receive(&worker).await.task.task_idx, 3);
}
