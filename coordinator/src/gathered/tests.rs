use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{AsArray as _, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use gleaner_schemas::{ContentHash, Fingerprint, PinnedAttempt};
use gleaner_storage::Stores;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::runtime::Handle;

use super::*;
use crate::hooked::{Hooked, Request};

const N_OBJECTS: usize = 100;

/// The numbers that an object holds; some hold none, and one more than lie together.
fn numbers(object: usize, change: u64) -> Vec<u64> {
    let n = match object {
        7 => 2 * BATCH_ROWS as u64 + 5,
        _ => (object as u64 + change) % 4,
    };
    (0..n)
        .map(|row| object as u64 * 1_000_000 + change + row)
        .collect()
}

fn object(numbers: Vec<u64>) -> bytes::Bytes {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::UInt64, false)]));
    let column = Arc::new(UInt64Array::from(numbers));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
    let mut encoder = TableEncoder::new(schema, u64::MAX).unwrap();
    encoder.write(&batch).unwrap();
    encoder.finish(&Lanes::default(), &json!({})).unwrap()
}

/// A phase whose objects were changed so often, in their order.
async fn phase(output: &Output, changes: &[u64]) -> PhaseManifest {
    let mut attempts = Vec::new();
    for (idx, change) in changes.iter().enumerate() {
        let bytes = object(numbers(idx, *change));
        let pinned = PinnedAttempt {
            task: Fingerprint::of("task", &(idx, change)).into(),
            attempt: AttemptId::new(1, &ContentHash::of(&bytes)),
            folder: layout::inner_folder("chosen", "count").into(),
            rows: 0,
            bytes: bytes.len() as u64,
            lanes: Lanes::default(),
            inputs: Vec::new(),
        };
        output.put(&layout::pinned(&pinned), bytes).await.unwrap();
        attempts.push(pinned);
    }
    PhaseManifest {
        stage: "chosen".to_owned(),
        phase: "count".to_owned(),
        plan: Fingerprint::of("plan", &changes).into(),
        attempts,
        quarantined: Vec::new(),
        lanes: Lanes::default(),
    }
}

/// What is read of a phase, by object.
async fn read(
    phases: &GatheredPhases,
    output: &Output,
    manifest: &PhaseManifest,
) -> BTreeMap<usize, Vec<u64>> {
    let store = Arc::clone(output.store()) as Arc<dyn ObjectStore>;
    let stores = Stores::from_env().with("memory://m", store);
    let io = BlockingIo::new(stores, Handle::current());
    let (phases, output, manifest) = (phases.clone(), output.clone(), manifest.clone());
    let read = move || {
        let mut read: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        let mut last = 0;
        phases
            .for_each(&output, &io, &manifest, &mut |object, batch| {
                assert!(object >= last, "objects come in order");
                last = object;
                let numbers = batch.column(0).as_primitive::<UInt64Type>().values();
                read.entry(object).or_default().extend_from_slice(numbers);
                Ok(())
            })
            .unwrap();
        read
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

fn expected(changes: &[u64]) -> BTreeMap<usize, Vec<u64>> {
    let objects = changes.iter().enumerate();
    let objects = objects.map(|(idx, change)| (idx, numbers(idx, *change)));
    objects.filter(|(_, numbers)| !numbers.is_empty()).collect()
}

fn counted() -> (Arc<AtomicUsize>, Arc<InMemory>, Output) {
    let n_gets = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_gets);
    let (store, output) = Hooked::output(move |request| {
        if matches!(request, Request::Get(_)) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Box::pin(async { Ok(()) })
    });
    (n_gets, store, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_read_once_by_all_runs() {
    let (n_gets, _, output) = counted();
    let gets = || n_gets.swap(0, Ordering::SeqCst);
    let mut changes = vec![0; N_OBJECTS];
    let first = phase(&output, &changes).await;
    let phases = GatheredPhases::default();
    gets();
    assert_eq!(read(&phases, &output, &first).await, expected(&changes));
    assert_eq!(
        gets(),
        N_OBJECTS + 1,
        "copies are looked for, and objects read"
    );
    assert_eq!(read(&phases, &output, &first).await, expected(&changes));
    assert_eq!(gets(), 0, "a second reduce of the run");
    // Another run, over objects of which two are others and one is gone.
    changes[0] = 3;
    changes[50] = 9;
    changes.pop();
    let second = phase(&output, &changes).await;
    let again = GatheredPhases::default();
    assert_eq!(read(&again, &output, &second).await, expected(&changes));
    assert_eq!(gets(), 3, "the copies, and what has none");
    assert_eq!(read(&again, &output, &second).await, expected(&changes));
    assert_eq!(gets(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_copies_are_as_good_as_none() {
    let (n_gets, store, output) = counted();
    let changes = vec![0; N_OBJECTS];
    let manifest = phase(&output, &changes).await;
    let _ = read(&GatheredPhases::default(), &output, &manifest).await;
    let path = output.path_of(&layout::copies("chosen", "count"));
    let of_others = object(vec![1, 2, 3]);
    for damaged in ["no Parquet".into(), of_others] {
        use object_store::ObjectStoreExt as _;
        store.put(&path, damaged.into()).await.unwrap();
        n_gets.store(0, Ordering::SeqCst);
        let read = read(&GatheredPhases::default(), &output, &manifest).await;
        assert_eq!(read, expected(&changes));
        assert_eq!(n_gets.load(Ordering::SeqCst), N_OBJECTS + 1);
    }
}
