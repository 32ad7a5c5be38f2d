//! Messages that are delivered too often, or that nobody can read.

use super::*;

/// As often as a message may be delivered, and a few times more.
const BEYOND_THE_LIMIT: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_never_settled_is_given_up() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let queue = connect(broker.new_vhost_url(), 2).await;
    let other_run = TaskMessage {
        run: RunId::new(2),
        ..message(1)
    };
    queue
        .publish(&[message(0), other_run.clone()])
        .await
        .unwrap();
    let mut n_deliveries = 0;
    while let Ok(delivery) = tokio::time::timeout(4 * SILENCE, queue.receive()).await {
        drop(delivery.unwrap());
        n_deliveries += 1;
        assert!(
            n_deliveries < 2 * BEYOND_THE_LIMIT,
            "it is delivered for ever"
        );
    }
    assert_eq!(n_deliveries, 2 * 4);
    let mut found = given_up(&queue, RunId::new(1)).await;
    assert_eq!(found.len(), 1);
    // Dropped before it is settled, it is still there.
    assert_eq!(found.pop().unwrap().task, message(0));
    for delivery in given_up(&queue, RunId::new(1)).await {
        delivery.ack().await.unwrap();
    }
    assert!(queue.given_up(&RunId::new(1)).await.unwrap().is_empty());
    // That of the other run is still there, however often it was looked at; and can be revived.
    for _ in 0..BEYOND_THE_LIMIT {
        assert!(queue.given_up(&RunId::new(1)).await.unwrap().is_empty());
    }
    let mut found = given_up(&queue, RunId::new(2)).await;
    assert_eq!(found.len(), 1);
    found.pop().unwrap().pass_on().await.unwrap();
    let revived = receive(&queue).await;
    assert_eq!(revived.task, other_run);
    revived.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_uses_up_no_attempts() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let coordinator = connect(url.clone(), 0).await;
    coordinator.publish(&[message(0)]).await.unwrap();
    for _ in 0..BEYOND_THE_LIMIT {
        let worker = connect(url.clone(), 1).await;
        eventually(&coordinator, Route::default(), |state| state.n_waiting == 0).await;
        worker.close().await;
        eventually(&coordinator, Route::default(), |state| state.n_waiting == 1).await;
    }
    let worker = connect(url, 1).await;
    receive(&worker).await.ack().await.unwrap();
    // A broker under load may give a message twice that came back with a channel that closed:
    // whoever takes tasks must bear that. It is not given up, and not given for ever.
    let again = tokio::time::timeout(SILENCE, worker.receive()).await;
    if let Ok(again) = again {
        again.unwrap().ack().await.unwrap();
        assert_silent(&worker).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_put_aside_once() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let worker = connect(url.clone(), 1).await;
    let (_connection, channel) = plain_client(&url).await;
    let mut future = serde_json::to_value(message(0)).unwrap();
    future["format"] = 99.into();
    let bodies = [future.to_string(), "no JSON".to_owned()];
    for body in &bodies {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let queue = "gleaner.cpu.normal".into();
        channel
            .basic_publish("".into(), queue, options, body.as_bytes(), properties)
            .await
            .unwrap();
    }
    worker.publish(&[message(7)]).await.unwrap();
    let delivery = receive(&worker).await;
    assert_eq!(delivery.task.task_idx, 7);
    delivery.ack().await.unwrap();
    assert_silent(&worker).await;
    // They do not hide anything, and stay where somebody can look at them.
    assert!(worker.given_up(&RunId::new(1)).await.unwrap().is_empty());
    let mut aside = Vec::new();
    let deadline = Instant::now() + SOON;
    while aside.len() < bodies.len() {
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get("gleaner.dead".into(), options).await;
        match got.unwrap() {
            Some(got) => aside.push(String::from_utf8(got.delivery.data).unwrap()),
            None => assert!(Instant::now() < deadline, "only {aside:?} were put aside"),
        }
    }
    aside.sort_unstable();
    let mut bodies = bodies;
    bodies.sort_unstable();
    assert_eq!(aside, bodies);
}
