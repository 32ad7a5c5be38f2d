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

/// The broker does not answer to acknowledgements: one that is on its way when the connection breaks is
/// lost, and nobody can know. The task comes once more.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_is_lost_with_its_connection_brings_the_task_once_more() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let proxy = Proxy::start(([127, 0, 0, 1], broker.port()).into());
    let url = broker.new_vhost_url();
    let port = proxy.address().port().to_string();
    let worker = connect(url.replace(&broker.port().to_string(), &port), 1).await;
    let coordinator = connect(url, 0).await;
    coordinator.publish(&[message(0)]).await.unwrap();
    let delivery = receive(&worker).await;
    assert_eq!(worker.n_losses(), 0);
    proxy.set(Mode::BlackHole);
    delivery.ack().await.unwrap();
    proxy.set(Mode::Reset);
    let deadline = Instant::now() + SOON;
    while worker.n_losses() == 0 {
        assert!(Instant::now() < deadline, "the connection does not break");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.set(Mode::Pass);
    let again = receive(&worker).await;
    assert_eq!(again.task, message(0));
    again.ack().await.unwrap();
    assert_silent(&worker).await;
    eventually(&coordinator, Route::default(), |state| state.n_waiting == 0).await;
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

/// Where a queue does not answer, the broker is asked about it; it may not answer that either.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_is_not_asked_for_long_whether_a_queue_is_lost() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let proxy = Proxy::start(([127, 0, 0, 1], broker.port()).into());
    let port = proxy.address().port().to_string();
    let url = broker.new_vhost_url();
    // Only the missing answers tell that nobody is there.
    let without_heartbeat = AmqpOptions {
        confirm_timeout: Duration::from_secs(1),
        heartbeat: 10 * SOON,
        ..options(url.replace(&broker.port().to_string(), &port), 0)
    };
    let queue = AmqpQueue::connect(without_heartbeat).await.unwrap();
    publish(&queue, &[message(0)]).await;
    proxy.set(Mode::BlackHole);
    let published = tokio::time::timeout(SOON, queue.publish(&[message(1)])).await;
    assert!(
        matches!(published, Ok(Err(QueueError::Unreachable(_)))),
        "{published:?}"
    );
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
    // Only its channel was at fault: what other slots have in hand is theirs still.
    assert_eq!(queue.n_losses(), 0);
    // Both slots are there again.
    eventually(&queue, Route::default(), |state| state.n_slots == Some(2)).await;
    queue.publish(&[message(1), message(2)]).await.unwrap();
    let (first, second) = (receive(&queue).await, receive(&queue).await);
    first.ack().await.unwrap();
    second.ack().await.unwrap();
    assert_silent(&queue).await;
}

/// All that wait for a queue without a leader find out at the same time, and only one may mend it: else
/// the broker could not declare it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_a_leader_is_mended_by_one_of_many() {
    const N_WORKERS: usize = 3;
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let target = ([127, 0, 0, 1], broker.port()).into();
    let queue = Arc::new(LeaderlessQueue::start(target, "gleaner.cpu.normal"));
    let url = broker.new_vhost_url();
    let port = queue.address().port().to_string();
    let through = url.replace(&broker.port().to_string(), &port);
    // Those who found it lost, from the beginning to the end, while another one was mending it.
    let gave_up: Arc<Mutex<HashSet<usize>>> = Arc::default();
    let mut connecting = tokio::task::JoinSet::new();
    for worker in 0..N_WORKERS {
        let (options, queue) = (options(through.clone(), 1), Arc::clone(&queue));
        let gave_up = Arc::clone(&gave_up);
        connecting.spawn(async move {
            loop {
                let began = Instant::now();
                match AmqpQueue::connect(options.clone()).await {
                    Ok(connected) => return connected,
                    Err(QueueError::Unreachable(_)) => {
                        if queue.first_deletion_at().is_some_and(|at| at < began) {
                            gave_up.lock().unwrap().insert(worker);
                        }
                    }
                    Err(error) => panic!("cannot connect: {error}"),
                }
            }
        });
    }
    let deadline = Instant::now() + 2 * SOON;
    while gave_up.lock().unwrap().len() < N_WORKERS - 1 {
        assert!(queue.n_deletions() <= 1, "several mend the queue");
        assert!(Instant::now() < deadline, "nobody leaves it to another");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    queue.release();
    let workers = connecting.join_all().await;
    assert_eq!(queue.n_deletions(), 1);
    let coordinator = connect(url, 0).await;
    eventually(&coordinator, Route::default(), |state| {
        state.n_slots == Some(N_WORKERS as u64)
    })
    .await;
    drop(workers);
}

/// A broker that is killed right after queues were declared may come back with some that have no
/// leader.
#[tokio::test(flavor = "multi_thread")]
async fn queues_that_a_kill_left_without_a_leader_are_mended() {
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
