//! A broker that is not there, goes, comes back, or is silent.

use super::*;

/// Connects in vain; returns the message.
async fn unreachable(options: AmqpOptions) -> String {
    match AmqpQueue::connect(options).await {
        Err(QueueError::Unreachable(message)) => message,
        other => panic!("reached: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://127.0.0.1:{}", listener.local_addr().unwrap().port());
    // It accepts, and says nothing.
    let silent = AmqpOptions {
        connect_timeout: Duration::from_secs(1),
        ..options(url.clone(), 0)
    };
    let began = Instant::now();
    let message = unreachable(silent).await;
    assert!(message.contains(&url), "{message}");
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    // Nothing is left behind: the other side sees the end.
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.set_read_timeout(Some(SOON)).unwrap();
    std::io::Read::read_to_end(&mut accepted, &mut Vec::new()).unwrap();
    drop(accepted);
    drop(listener);
    let message = unreachable(options(url.clone(), 0)).await;
    assert!(
        message.contains(&url) && message.contains("refused"),
        "{message}"
    );
    unreachable(options("amqp://gleaner.invalid", 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_with_an_authority_of_ones_own() {
    let settings = Settings {
        tls: true,
        ..Settings::default()
    };
    let Some(broker) = RabbitMq::start_with(&settings) else {
        return;
    };
    let with_ca = |url: String, ca_file: &Path| AmqpOptions {
        ca_file: Some(ca_file.to_owned()),
        ..options(url, 1)
    };
    let url = broker.tls_url();
    let queue = AmqpQueue::connect(with_ca(url.clone(), &broker.ca_file()))
        .await
        .unwrap();
    queue.publish(&[message(0)]).await.unwrap();
    receive(&queue).await.ack().await.unwrap();

    let message = unreachable(options(url.clone(), 0)).await;
    assert!(message.contains("CA file"), "{message}");
    let by_address = url.replace("localhost", "127.0.0.1");
    let message = unreachable(with_ca(by_address, &broker.ca_file())).await;
    assert!(message.contains("another host name"), "{message}");
    let plain_port = url.replace(&url_port(&url), &broker.port().to_string());
    let message = unreachable(with_ca(plain_port, &broker.ca_file())).await;
    assert!(message.contains("speak TLS"), "{message}");
    let plain = url.replace("amqps:", "amqp:");
    let message = unreachable(options(plain, 0)).await;
    assert!(message.contains("without TLS"), "{message}");
    for (file, expect) in [
        ("/nowhere/ca.pem", "cannot be read"),
        ("/dev/null", "no cert"),
    ] {
        let (message, _) = refused(with_ca(url.clone(), Path::new(file))).await;
        assert!(message.contains(expect), "{message}");
    }
}

fn url_port(url: &str) -> String {
    let (_, rest) = url.rsplit_once(':').unwrap();
    rest.split('/').next().unwrap().to_owned()
}

/// Something that happens to a broker.
type Break = (&'static str, fn(&mut RabbitMq));

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back() {
    let Some(mut broker) = RabbitMq::start() else {
        return;
    };
    let coordinator = connect(broker.url(), 0).await;
    let worker = connect(broker.url(), 2).await;
    let all: HashSet<u64> = (0..20).collect();
    let tasks: Vec<_> = all.iter().copied().map(message).collect();
    let breaks: [Break; 4] = [
        ("connections cut", |broker| broker.close_all_connections()),
        ("restarted", |broker| {
            broker.stop();
            broker.start_again();
        }),
        ("killed", |broker| {
            broker.kill();
            broker.start_again();
        }),
        ("wiped", |broker| {
            broker.kill();
            broker.wipe();
            broker.start_again();
        }),
    ];
    for (what, fault) in breaks {
        publish(&coordinator, &tasks).await;
        let held = [receive(&worker).await, receive(&worker).await];
        fault(&mut broker);
        for delivery in held {
            let acked = delivery.ack().await;
            assert!(
                matches!(acked, Err(QueueError::Unreachable(_))),
                "{what}: {acked:?}"
            );
        }
        if what == "wiped" {
            publish(&coordinator, &tasks).await;
        }
        let mut seen = HashSet::new();
        while seen != all {
            let delivery = receive(&worker).await;
            seen.insert(delivery.task.task_idx);
            delivery.ack().await.unwrap();
        }
        eventually(&coordinator, Route::default(), |state| {
            state.n_waiting == 0 && state.n_slots == Some(2)
        })
        .await;
        assert_silent(&worker).await;
        assert!(worker.is_well(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_answer_hangs_nobody() {
    let Some(broker) = RabbitMq::start() else {
        return;
    };
    let impatient = AmqpOptions {
        confirm_timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(20),
        heartbeat: Duration::from_secs(2),
        ..options(broker.url(), 1)
    };
    let queue = AmqpQueue::connect(impatient).await.unwrap();
    queue.publish(&[message(0)]).await.unwrap();
    receive(&queue).await.ack().await.unwrap();

    // Out of memory: it reads no more from who publishes.
    broker.ctl(["set_vm_memory_high_watermark", "absolute", "1MB"]);
    let began = Instant::now();
    let published = queue.publish(&[message(1)]).await;
    assert!(
        matches!(&published, Err(QueueError::Unreachable(text)) if text.contains("short of memory")),
        "{published:?}"
    );
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    // Looking is not hindered.
    queue.state(Route::default()).await.unwrap();
    broker.ctl(["set_vm_memory_high_watermark", "0.6"]);
    publish(&queue, &[message(2)]).await;
    let mut numbers = Vec::new();
    while !numbers.contains(&2) {
        let delivery = receive(&queue).await;
        numbers.push(delivery.task.task_idx);
        delivery.ack().await.unwrap();
    }

    // Frozen: connections stay, nothing answers.
    broker.freeze();
    for _ in 0..2 {
        let published = queue.publish(&[message(3)]).await;
        assert!(matches!(published, Err(QueueError::Unreachable(_))));
        let state = queue.state(Route::default()).await;
        assert!(
            matches!(state, Err(QueueError::Unreachable(_))),
            "{state:?}"
        );
    }
    broker.thaw();
    publish(&queue, &[message(4)]).await;
    loop {
        let delivery = receive(&queue).await;
        let task_idx = delivery.task.task_idx;
        delivery.ack().await.unwrap();
        if task_idx == 4 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_kept_for_too_long_comes_again() {
    let settings = Settings {
        consumer_timeout: Some(Duration::from_secs(2)),
        ..Settings::default()
    };
    let Some(broker) = RabbitMq::start_with(&settings) else {
        return;
    };
    let queue = connect(broker.url(), 2).await;
    queue.publish(&[message(0)]).await.unwrap();
    let kept = receive(&queue).await;
    let again = receive(&queue).await;
    assert_eq!(again.task, kept.task);
    let acked = kept.ack().await;
    assert!(
        matches!(acked, Err(QueueError::Unreachable(_))),
        "{acked:?}"
    );
    again.ack().await.unwrap();
    // Both slots are there again.
    eventually(&queue, Route::default(), |state| state.n_slots == Some(2)).await;
    queue.publish(&[message(1), message(2)]).await.unwrap();
    let (first, second) = (receive(&queue).await, receive(&queue).await);
    first.ack().await.unwrap();
    second.ack().await.unwrap();
    assert_silent(&queue).await;
}

/// A broker that is killed right after queues were declared may come back with some that have no
/// leader. All that wait for such a queue find out at the same time, and only one may mend it: else
/// the broker could not declare it any more.
#[tokio::test(flavor = "multi_thread")]
async fn queues_without_a_leader_are_mended_by_one_of_many() {
    const N_WORKERS: usize = 4;
    let Some(mut broker) = RabbitMq::start() else {
        return;
    };
    // Several vhosts are several chances to meet such a queue.
    let urls: Vec<String> = (0..3).map(|_| broker.new_vhost_url()).collect();
    for url in &urls {
        let queue = connect(url.clone(), 0).await;
        queue.close().await;
    }
    broker.kill();
    broker.start_again();
    for url in urls {
        let mut connecting = tokio::task::JoinSet::new();
        for _ in 0..N_WORKERS {
            let options = AmqpOptions {
                resources: Resource::ALL.to_vec(),
                ..options(url.clone(), 1)
            };
            connecting.spawn(connect_at_last(options));
        }
        let workers = connecting.join_all().await;
        let coordinator = connect(url.clone(), 0).await;
        for route in [Priority::High, Priority::Normal, Priority::Low]
            .into_iter()
            .flat_map(|priority| Resource::ALL.map(|resource| Route { resource, priority }))
        {
            let all = Some(N_WORKERS as u64);
            eventually(&coordinator, route, |state| state.n_slots >= all).await;
        }
        drop(workers);
        coordinator.close().await;
    }
}

/// Connects again and again, as a worker does.
async fn connect_at_last(options: AmqpOptions) -> AmqpQueue {
    let deadline = Instant::now() + 2 * SOON;
    loop {
        match AmqpQueue::connect(options.clone()).await {
            Ok(queue) => return queue,
            Err(error) => assert!(Instant::now() < deadline, "cannot connect: {error}"),
        }
    }
}
