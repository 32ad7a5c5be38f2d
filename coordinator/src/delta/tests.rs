use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use arrow::json::ReaderBuilder;
use bytes::Bytes;
use gleaner_schemas::{ContentHash, Lanes, RunId, TableFile, TableVersion, VersionStage};
use gleaner_storage::Stores;
use object_store::memory::InMemory;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use super::actions::Line;
use super::commit::{Refusal, next};
use super::*;
use crate::progress::Silent;

const TABLE: &str = "chosen";

fn version(number: u64, files: &[(&str, u64)], fields: Vec<Field>) -> Version {
    let files: Vec<TableFile> = files
        .iter()
        .map(|(name, rows)| TableFile {
            path: format!("{TABLE}/{name}"),
            rows: *rows,
            bytes: rows * 100,
            checksum: ContentHash::of(name.as_bytes()),
            task: None,
            lanes: Lanes::default(),
            inputs: Vec::new(),
        })
        .collect();
    let table = TableVersion {
        schema: Schema::new(fields),
        rows: files.iter().map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
        since_version: number,
        since: String::new(),
        figures: None,
    };
    let stage = VersionStage {
        kind: "select".to_owned(),
        code_version: 1,
        params: Value::Null,
        tables: vec![TABLE.to_owned()],
        lanes: Lanes::default(),
        quarantined: Vec::new(),
        facts: BTreeMap::new(),
    };
    Version {
        format: Version::FORMAT,
        number,
        job: "tests".to_owned(),
        job_file: json!({"stages": {TABLE: {"kind": "select", "publish": "delta"}}}),
        run: RunId::new(number),
        published_at: "2026-01-02T03:04:05.678Z".to_owned(),
        gleaner_version: String::new(),
        stage_order: vec![TABLE.to_owned()],
        stages: BTreeMap::from([(TABLE.to_owned(), stage)]),
        tables: BTreeMap::from([(TABLE.to_owned(), table)]),
        corpus: Vec::new(),
        checks: Vec::new(),
    }
}

fn fields() -> Vec<Field> {
    vec![
        Field::new("doc_id", DataType::Utf8, false),
        Field::new("input_row", DataType::UInt64, true),
    ]
}

/// A log in memory, with what has been committed to it.
struct Table {
    output: Output,
}

impl Table {
    fn new() -> Self {
        let stores = Stores::from_env().with("memory://m", Arc::new(InMemory::new()));
        let output = Output::open(&stores, "memory://m/out").unwrap();
        Self { output }
    }

    async fn log(&self) -> Log {
        Log::read(&self.output, TABLE).await.unwrap()
    }

    async fn commit(&self, version: &Version) -> Result<Vec<Line>, Refusal> {
        let log = self.log().await;
        let commit = next(&log, TABLE, version)?;
        self.put(log.next_number(), commit.bytes.clone()).await;
        let lines = serde_json::Deserializer::from_slice(&commit.bytes).into_iter();
        Ok(lines.collect::<Result<_, _>>().unwrap())
    }

    async fn put(&self, number: u64, bytes: Bytes) {
        let key = layout::delta_commit(TABLE, number);
        self.output.put(&key, bytes).await.unwrap();
    }

    async fn paths(&self) -> Vec<String> {
        self.log().await.files.into_keys().collect()
    }
}

#[tokio::test]
async fn a_commit_is_the_difference_to_the_version() {
    let table = Table::new();
    let first = version(1, &[("a.parquet", 1), ("b.parquet", 2)], fields());
    let lines = table.commit(&first).await.unwrap();
    let metadata = lines.iter().find_map(|it| it.meta_data.as_ref()).unwrap();
    assert_eq!(metadata.id.len(), 36);
    assert!(metadata.schema_string.contains("doc_id"));
    assert!(!metadata.schema_string.contains("input_row"));
    let description = metadata.description.as_deref().unwrap();
    assert!(description.contains("input_row (UInt64)"), "{description}");
    let add = lines.iter().find_map(|it| it.add.as_ref()).unwrap();
    assert_eq!((add.path.as_str(), add.size), ("a.parquet", 100));
    assert_eq!(add.stats.as_deref(), Some(r#"{"numRecords":1}"#));
    assert_eq!(table.paths().await, ["a.parquet", "b.parquet"]);
    assert!(table.log().await.is_of(&first));

    let second = version(2, &[("b.parquet", 2), ("c.parquet", 3)], fields());
    let log = table.log().await;
    assert!(!log.is_of(&second));
    assert!(
        log.difference(TABLE, &second)
            .unwrap()
            .contains("version 1")
    );
    let lines = table.commit(&second).await.unwrap();
    let removed: Vec<_> = lines.iter().filter_map(|it| it.remove.as_ref()).collect();
    assert_eq!((removed[0].path.as_str(), removed.len()), ("a.parquet", 1));
    assert!(
        lines
            .iter()
            .all(|it| it.meta_data.is_none() && it.protocol.is_none())
    );
    assert_eq!(table.paths().await, ["b.parquet", "c.parquet"]);
    let log = table.log().await;
    assert!(log.is_of(&second) && !log.is_of(&first));
    assert_eq!(log.difference(TABLE, &second), None);
}

/// The numbers of versions start again where an output was removed and its Delta log was not.
#[tokio::test]
async fn a_version_of_the_same_number_and_another_run_is_another_one() {
    let table = Table::new();
    table
        .commit(&version(1, &[("a.parquet", 1)], fields()))
        .await
        .unwrap();
    let mut again = version(1, &[("b.parquet", 1)], fields());
    again.run = RunId::new(77);
    assert!(!table.log().await.is_of(&again));
    table.commit(&again).await.unwrap();
    assert_eq!(table.paths().await, ["b.parquet"]);
    assert!(table.log().await.is_of(&again));
}

#[tokio::test]
async fn times_without_a_zone_are_announced_to_readers() {
    let table = Table::new();
    table.commit(&version(1, &[], fields())).await.unwrap();
    assert_eq!(table.log().await.protocol.unwrap().min_reader_version, 1);
    let mut with_time = fields();
    let local = DataType::Timestamp(TimeUnit::Microsecond, None);
    with_time.push(Field::new("seen", local, true));
    for number in [2, 3] {
        let version = version(number, &[], with_time.clone());
        let lines = table.commit(&version).await.unwrap();
        let is_upgrade = lines.iter().any(|it| it.protocol.is_some());
        assert_eq!(is_upgrade, number == 2, "version {number}");
    }
    let protocol = table.log().await.protocol.unwrap();
    assert_eq!(
        (protocol.min_reader_version, protocol.min_writer_version),
        (3, 7)
    );
    assert_eq!(protocol.reader_features.unwrap(), ["timestampNtz"]);
    // A table stays one for such readers, even when the column is gone.
    let lines = table.commit(&version(4, &[], fields())).await.unwrap();
    assert!(lines.iter().all(|it| it.protocol.is_none()));
    assert!(lines.iter().any(|it| it.meta_data.is_some()));
}

#[tokio::test]
async fn what_other_programs_wrote_is_kept_or_refused() {
    let table = Table::new();
    table
        .commit(&version(1, &[("a.parquet", 1)], fields()))
        .await
        .unwrap();
    // Small files were put together by somebody, and others were told to keep out.
    let foreign = concat!(
        r#"{"commitInfo":{"operation":"OPTIMIZE","operationParameters":{"zOrderBy":[]}}}"#,
        "\n",
        r#"{"remove":{"path":"a.parquet","deletionTimestamp":1,"dataChange":false}}"#,
        "\n",
        r#"{"add":{"path":"part-0.parquet","partitionValues":{},"size":7,"modificationTime":1,"dataChange":false}}"#,
        "\n",
        r#"{"txn":{"appId":"another","version":99}}"#,
        "\n",
        r#"{"domainOfSomebody":{"key":1}}"#,
    );
    table.put(1, foreign.into()).await;
    let log = table.log().await;
    assert!(log.is_of(&version(1, &[], fields())), "{log:?}");
    assert!(
        log.difference(TABLE, &version(1, &[("a.parquet", 1)], fields()))
            .is_some()
    );
    table
        .commit(&version(2, &[("a.parquet", 1)], fields()))
        .await
        .unwrap();
    assert_eq!(table.paths().await, ["a.parquet"]);

    for (line, what) in [
        (
            r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}"#,
            "deletionVectors",
        ),
        (
            r#"{"protocol":{"minReaderVersion":2,"minWriterVersion":5}}"#,
            "version 2",
        ),
        (
            r#"{"metaData":{"id":"x","format":{"provider":"parquet","options":{}},"schemaString":"{}","partitionColumns":["p"],"configuration":{}}}"#,
            "partitioned",
        ),
        (
            r#"{"metaData":{"id":"x","format":{"provider":"parquet","options":{}},"schemaString":"{}","partitionColumns":[],"configuration":{"delta.appendOnly":"true"}}}"#,
            "appendOnly",
        ),
    ] {
        table.put(3, line.into()).await;
        let refused = table.commit(&version(3, &[], fields())).await.unwrap_err();
        let Refusal::Foreign(message) = &refused else {
            panic!("{refused:?}");
        };
        assert!(message.contains(what), "{message}");
    }
}

#[tokio::test]
async fn a_log_with_a_gap_is_no_log() {
    let table = Table::new();
    table.commit(&version(1, &[], fields())).await.unwrap();
    table.put(2, "{}".into()).await;
    let error = Log::read(&table.output, TABLE).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("00000000000000000001.json"), "{message}");
}

#[test]
fn a_table_without_columns_is_refused() {
    let fields = vec![Field::new("input_row", DataType::UInt64, true)];
    let refused = next(&Log::default(), TABLE, &version(1, &[], fields)).unwrap_err();
    assert_eq!(refused, Refusal::NoColumns);
}

/// Several coordinators, some of which know a newer version: one commit each at most, and the table
/// ends at the newest.
#[tokio::test]
async fn however_many_commit_at_once_each_version_is_committed_once() {
    for n_first in 1..5 {
        let table = Table::new();
        let first = version(1, &[("a.parquet", 1)], fields());
        let second = version(2, &[("b.parquet", 1)], fields());
        let publish = async |version: &Version| {
            let key = layout::version(version.number);
            let bytes = serde_json::to_vec(version).unwrap();
            table.output.put(&key, bytes.into()).await.unwrap();
        };
        let shutdown = Shutdown::new();
        let commit = |version| bring_up_to_date(&table.output, &shutdown, &Silent, version);
        publish(&first).await;
        let early = (0..n_first).map(|_| commit(&first));
        let late = async {
            publish(&second).await;
            futures::future::join_all((0..3).map(|_| commit(&second))).await
        };
        let (early, late) = tokio::join!(futures::future::join_all(early), late);
        for ended in early.into_iter().chain(late) {
            ended.unwrap();
        }
        let log = table.log().await;
        assert!(log.is_of(&second));
        assert_eq!(log.difference(TABLE, &second), None);
        assert!(log.next_number() <= 2, "{log:?}");
        assert!(is_up_to_date(&table.output, &second).await.unwrap());
    }
}

/// Another program commits after ours: what is ours is found before it.
#[tokio::test]
async fn a_table_is_at_its_version_whoever_committed_last() {
    let table = Table::new();
    let version = version(1, &[("a.parquet", 1)], fields());
    assert!(!is_up_to_date(&table.output, &version).await.unwrap());
    table.commit(&version).await.unwrap();
    table.put(1, r#"{"commitInfo":{}}"#.into()).await;
    assert!(is_up_to_date(&table.output, &version).await.unwrap());
}

/// Rows as other programs write them into checkpoints, with a column whose type JSON has not.
fn checkpoint(lines: &[Value]) -> Bytes {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let map = |name: &str| {
        let (key, value) = (Field::new("key", DataType::Utf8, false), text("value"));
        Field::new_map(name, "key_value", key, value, false, true)
    };
    let of = |name: &str, fields: Vec<Field>| Field::new_struct(name, fields, true);
    let items = Arc::new(Field::new("element", DataType::Utf8, true));
    let format = of("format", vec![text("provider"), map("options")]);
    let parsed = of(
        "stats_parsed",
        vec![Field::new("at", DataType::Binary, true)],
    );
    let schema = Schema::new(Fields::from(vec![
        of(
            "txn",
            vec![text("appId"), number("version"), number("lastUpdated")],
        ),
        of(
            "add",
            vec![text("path"), map("partitionValues"), number("size"), parsed],
        ),
        of("remove", vec![text("path")]),
        of(
            "metaData",
            vec![
                text("id"),
                text("name"),
                text("description"),
                format,
                text("schemaString"),
                Field::new("partitionColumns", DataType::List(items), true),
                map("configuration"),
                number("createdTime"),
            ],
        ),
        of(
            "protocol",
            vec![number("minReaderVersion"), number("minWriterVersion")],
        ),
    ]));
    let schema = Arc::new(schema);
    let mut decoder = ReaderBuilder::new(Arc::clone(&schema))
        .build_decoder()
        .unwrap();
    decoder.serialize(lines).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    writer.write(&decoder.flush().unwrap().unwrap()).unwrap();
    writer.close().unwrap();
    bytes.into()
}

#[tokio::test]
async fn a_checkpoint_stands_for_the_commits_before_it() {
    let table = Table::new();
    let first = version(1, &[("a.parquet", 1)], fields());
    let lines = table.commit(&first).await.unwrap();
    let metadata = lines.into_iter().find_map(|line| line.meta_data).unwrap();
    let add = |path: &str| json!({"add": {"path": path, "partitionValues": {}, "size": 100}});
    let state = [
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"metaData": metadata}),
        json!({"txn": {"appId": "gleaner", "version": 1}}),
        json!({"remove": {"path": "long-gone.parquet"}}),
        add("a.parquet"),
    ];
    let name = |rest: &str| format!("{}/{:020}.checkpoint{rest}", layout::delta_log(TABLE), 0);
    let put = async |key: String, bytes| table.output.put(&key, bytes).await.unwrap();
    put(name(".parquet"), checkpoint(&state)).await;
    // The first of two parts: not complete, so it is none.
    let later = name("").replace("0.checkpoint", "7.checkpoint");
    let part = format!("{later}.0000000001.0000000002.parquet");
    put(part, checkpoint(&[add("b.parquet")])).await;
    table.put(1, add("c.parquet").to_string().into()).await;
    table
        .output
        .delete(&layout::delta_commit(TABLE, 0))
        .await
        .unwrap();

    let log = table.log().await;
    assert!(log.is_of(&first), "{log:?}");
    assert_eq!(log.metadata, Some(metadata));
    assert_eq!(table.paths().await, ["a.parquet", "c.parquet"]);
    let second = version(2, &[("b.parquet", 1)], fields());
    let lines = table.commit(&second).await.unwrap();
    assert!(lines.iter().all(|line| line.meta_data.is_none()));
    assert_eq!(table.paths().await, ["b.parquet"]);

    // In two parts, and nothing else.
    let (state, files) = state.split_at(4);
    let name = |part: u32| {
        let log = layout::delta_log(TABLE);
        format!("{log}/{:020}.checkpoint.{part:010}.0000000002.parquet", 9)
    };
    put(name(1), checkpoint(state)).await;
    put(name(2), checkpoint(files)).await;
    assert!(table.log().await.is_of(&first));
    assert_eq!(table.log().await.next_number(), 10);
    assert_eq!(table.paths().await, ["a.parquet"]);
}
