use std::sync::Arc;

use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;

use super::*;
use crate::stores::Stores;

/// A year that no file of these tests is changed in but by its use.
fn today() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000)
}

struct Scene {
    folder: tempfile::TempDir,
    store: Arc<InMemory>,
    runtime: tokio::runtime::Runtime,
    io: BlockingIo,
}

impl Scene {
    fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stores = Stores::from_env().with("test://store", Arc::clone(&store) as _);
        Self {
            folder: tempfile::tempdir().unwrap(),
            io: BlockingIo::new(stores, runtime.handle().clone()),
            store,
            runtime,
        }
    }

    fn copies(&self) -> LocalCopies {
        self.copies_of(u64::MAX)
    }

    fn copies_of(&self, bytes_max: u64) -> LocalCopies {
        LocalCopies::new(self.folder.path().join("cache"), bytes_max, today)
    }

    fn put(&self, name: &str, bytes: &str) {
        let path = name.into();
        let put = self.store.put(&path, bytes.to_owned().into());
        self.runtime.block_on(put).unwrap();
    }
}

fn side_input(uri: &str, bytes: &str) -> SideInput {
    SideInput {
        name: "file".to_owned(),
        uri: uri.to_owned(),
        content: ContentHash::of(bytes.as_bytes()),
    }
}

#[test]
fn a_directory_holds_objects_and_local_files_by_their_names() {
    let scene = Scene::new();
    scene.put("model/weights", "remote");
    let local = scene.folder.path().join("here.json");
    fs::write(&local, "local").unwrap();
    let remote = side_input("test://store/model/weights", "remote");
    let here = side_input(&format!("file://{}", local.display()), "local");
    let files = [("weights", &remote), ("config.json", &here)];
    let copies = scene.copies();
    let directory = copies.directory(&scene.io, &files).unwrap();
    assert_eq!(
        fs::read_to_string(directory.join("weights")).unwrap(),
        "remote"
    );
    assert_eq!(
        fs::read_to_string(directory.join("config.json")).unwrap(),
        "local"
    );
    // What was copied is not read again, by this process or another.
    let path = "model/weights".into();
    let deleted = scene.store.delete(&path);
    scene.runtime.block_on(deleted).unwrap();
    assert_eq!(
        scene.copies().directory(&scene.io, &files).unwrap(),
        directory
    );
    let (content, bytes) = copies.identify(&scene.io, &here.uri).unwrap();
    assert_eq!((content, bytes), (here.content.clone(), 5));
}

#[test]
fn other_bytes_than_planned_are_refused_wherever_they_lie() {
    let scene = Scene::new();
    scene.put("weights", "others");
    let local = scene.folder.path().join("here");
    fs::write(&local, "others").unwrap();
    for uri in [
        "test://store/weights".to_owned(),
        format!("file://{}", local.display()),
    ] {
        let planned = side_input(&uri, "planned");
        let failure = scene
            .copies()
            .directory(&scene.io, &[("weights", &planned)])
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Permanent);
        assert!(failure.message.contains("has other bytes"), "{failure}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_the_remedy() {
    let scene = Scene::new();
    scene.put("weights", "x");
    let file = scene.folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let copies = LocalCopies::new(file.join("below"), u64::MAX, today);
    let planned = side_input("test://store/weights", "x");
    let failure = copies
        .directory(&scene.io, &[("weights", &planned)])
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Transient);
    assert!(failure.message.contains(CACHE_VARIABLE), "{failure}");
}

#[test]
fn an_object_that_did_not_change_is_not_read_again() {
    let scene = Scene::new();
    scene.put("model/weights", "first");
    let uri = "test://store/model/weights";
    let identify = || scene.copies().identify(&scene.io, uri).unwrap();
    let first = (ContentHash::of(b"first"), 5);
    assert_eq!(identify(), first);
    // The copy is gone; what it was is remembered, also by another process.
    let objects = scene.folder.path().join("cache/objects");
    fs::remove_dir_all(&objects).unwrap();
    assert_eq!(identify(), first);
    assert!(!objects.exists(), "it was not read");
    // One of the same size that changed has another etag.
    scene.put("model/weights", "other");
    assert_eq!(identify(), (ContentHash::of(b"other"), 5));
}

#[test]
fn copies_stay_below_their_bound() {
    let scene = Scene::new();
    let text = |n: usize| format!("{n}").repeat(1000);
    let objects = scene.folder.path().join("cache/objects");
    let files = || -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(&objects).unwrap().map(Result::unwrap);
        entries
            .map(|it| (it.path(), it.metadata().unwrap().len()))
            .collect()
    };
    for n in 0..5 {
        let name = format!("weights-{n}");
        scene.put(&name, &text(n));
        // Long ago: all but the one that is copied now.
        for (path, _) in objects.exists().then(files).unwrap_or_default() {
            let file = File::open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n as u64))
                .unwrap();
        }
        let file = side_input(&format!("test://store/{name}"), &text(n));
        let directory = scene
            .copies_of(2500)
            .directory(&scene.io, &[("weights", &file)])
            .unwrap();
        assert_eq!(
            fs::read_to_string(directory.join("weights")).unwrap(),
            text(n)
        );
        assert!(
            files().iter().map(|it| it.1).sum::<u64>() <= 2500,
            "{:?}",
            files()
        );
    }
    // What was removed is copied again, and its directory is whole again.
    let file = side_input("test://store/weights-0", &text(0));
    let directory = scene
        .copies_of(2500)
        .directory(&scene.io, &[("weights", &file)]);
    assert_eq!(
        fs::read_to_string(directory.unwrap().join("weights")).unwrap(),
        text(0)
    );
}
