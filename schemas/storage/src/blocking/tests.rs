use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use gleaner_schemas::{ContentHash, FailureKind, FileFormat, Place};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::jsonl::Lines;
use crate::table::{self, TableReader};

/// A file of four bytes that is replaced by as many others while it is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_explains_bytes_that_make_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    std::fs::write(&path, "1234").unwrap();
    let io = BlockingIo::new(Stores::from_env(), Handle::current());
    let uri = url::Url::from_file_path(&path).unwrap().to_string();
    let (store, location) = io.stores.resolve(&uri).unwrap();
    let source = SourceFile {
        name: "a.parquet".to_owned(),
        uri,
        format: FileFormat::Parquet,
        bytes: 4,
        identity: String::new(),
        etag: store.head(&location).await.unwrap().e_tag,
    };
    let read = move || {
        let reader = RangeReader::open(&io, &source).unwrap();
        assert_eq!(reader.get_bytes(1, 2).unwrap(), "23");
        assert!(reader.take_cause().is_none());
        let other = path.with_extension("new");
        std::fs::write(&other, "5678").unwrap();
        std::fs::rename(&other, &path).unwrap();
        reader.take_cause().unwrap().to_string()
    };
    let cause = tokio::task::spawn_blocking(read).await.unwrap();
    assert!(cause.starts_with("a.parquet has changed since"), "{cause}");
}

/// A store that never answers.
#[derive(Debug)]
struct SilentStore;

impl std::fmt::Display for SilentStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("silent")
    }
}

#[async_trait]
impl ObjectStore for SilentStore {
    async fn put_opts(
        &self,
        _: &Path,
        _: PutPayload,
        _: PutOptions,
    ) -> object_store::Result<PutResult> {
        std::future::pending().await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        std::future::pending().await
    }

    async fn get_opts(&self, _: &Path, _: GetOptions) -> object_store::Result<GetResult> {
        std::future::pending().await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        locations
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        futures::stream::pending().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<ListResult> {
        std::future::pending().await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_never_answers_is_left_when_the_task_is_cancelled() {
    let stores = Stores::from_env().with("silent://s", Arc::new(SilentStore));
    let cancel = CancellationToken::new();
    let io = BlockingIo::new(stores, Handle::current()).until(cancel.clone());
    let source = SourceFile {
        name: "a.jsonl".to_owned(),
        uri: "silent://s/a.jsonl".to_owned(),
        format: FileFormat::Jsonl,
        bytes: 4,
        identity: String::new(),
        etag: None,
    };
    let reading = tokio::task::spawn_blocking(move || {
        let reader = RangeReader::open(&io, &source).unwrap();
        assert!(reader.get_bytes(1, 2).is_err());
        let object = table::read_whole(&io, "silent://s/b.parquet", &ContentHash::of(b""));
        [
            reader.take_cause().unwrap().into_failure(Place::file("a")),
            object.unwrap_err(),
            TableReader::open(&io, "silent://s/b.parquet", None).unwrap_err(),
        ]
    });
    cancel.cancel();
    for failure in reading.await.unwrap() {
        assert_eq!(failure.kind, FailureKind::Transient, "{failure}");
        assert!(failure.message.contains("cancelled"), "{failure}");
    }
}

/// No read fails, and no row comes out that somebody could count batches by.
#[tokio::test(flavor = "multi_thread")]
async fn reading_a_local_file_ends_soon_after_the_task_is_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, "{\"text\": \"one\"}\n".repeat(100_000)).unwrap();
    let cancel = CancellationToken::new();
    let io = BlockingIo::new(Stores::from_env(), Handle::current()).until(cancel.clone());
    let source = SourceFile {
        name: "a.jsonl".to_owned(),
        uri: url::Url::from_file_path(&path).unwrap().to_string(),
        format: FileFormat::Jsonl,
        bytes: std::fs::metadata(&path).unwrap().len(),
        identity: String::new(),
        etag: None,
    };
    let read = move || {
        let mut lines = Lines::open(&io, &source, 1000).unwrap();
        assert!(lines.next().unwrap().is_some());
        cancel.cancel();
        // What is in the buffer still comes.
        loop {
            match lines.next() {
                Ok(Some((row, _))) => assert!(row < 99_999, "the whole file was read"),
                Ok(None) => panic!("the whole file was read"),
                Err(error) => break error.into_failure(Place::file("a.jsonl")),
            }
        }
    };
    let failure = tokio::task::spawn_blocking(read).await.unwrap();
    assert_eq!(failure.kind, FailureKind::Transient, "{failure}");
}
