//! Datasets as OpenLineage names them: the store is the namespace, the place in it the name.

use arrow::datatypes::Schema;
use gleaner_storage::redact;
use serde_json::{Map, Value, json};
use url::Url;

use super::facet;

/// Characters that make a path a pattern.
const PATTERN: [char; 4] = ['*', '?', '[', '{'];

/// A dataset of an event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dataset {
    pub(super) namespace: String,
    pub(super) name: String,
    facets: Map<String, Value>,
    read: Option<Size>,
    written: Option<Size>,
}

/// How much of a dataset was read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: Option<u64>,
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl Dataset {
    /// The dataset at an absolute URI.
    pub(super) fn at(uri: &str) -> Self {
        let uri = redact::redact(uri.trim_end_matches('/'));
        let (scheme, rest) = uri.split_once("://").unwrap_or(("file", &uri));
        let (namespace, name) = match rest.split_once('/') {
            _ if scheme == "file" => ("file".to_owned(), file_path(&uri, rest)),
            Some((authority, name)) => (format!("{scheme}://{authority}"), name.to_owned()),
            // A bucket as a whole.
            None => (format!("{scheme}://{rest}"), "/".to_owned()),
        };
        Self {
            namespace,
            name,
            facets: Map::new(),
            read: None,
            written: None,
        }
    }

    /// The dataset of the files that match an absolute URI: what lies above the first pattern.
    pub(super) fn matching(uri: &str) -> Self {
        let begin = uri.find("://").map_or(0, |at| at + 3);
        let fixed = match uri[begin..].find(PATTERN) {
            Some(at) => {
                let before = &uri[..begin + at];
                before.rfind('/').map_or(before, |slash| &before[..slash])
            }
            None => uri,
        };
        Self::at(fixed)
    }

    pub(super) fn with_schema(mut self, schema: &Schema) -> Self {
        let fields = schema.fields().iter();
        let fields: Vec<Value> = fields
            .map(|field| json!({"name": field.name(), "type": field.data_type().to_string()}))
            .collect();
        let schema = facet("1-1-1/SchemaDatasetFacet", json!({ "fields": fields }));
        self.facets.insert("schema".to_owned(), schema);
        self
    }

    pub(super) fn with_version(mut self, version: u64) -> Self {
        let version = json!({"datasetVersion": version.to_string()});
        let version = facet("1-0-1/DatasetVersionDatasetFacet", version);
        self.facets.insert("version".to_owned(), version);
        self
    }

    pub(super) fn with_read(mut self, size: Size) -> Self {
        self.read = Some(size);
        self
    }

    pub(super) fn with_written(mut self, size: Size) -> Self {
        self.written = Some(size);
        self
    }

    pub(super) fn to_json(&self) -> Value {
        let mut dataset = json!({
            "namespace": self.namespace,
            "name": self.name,
            "facets": self.facets,
        });
        if let Some(size) = &self.read {
            let facet = facet("1-0-0/InputStatisticsInputDatasetFacet", size.to_json());
            dataset["inputFacets"] = json!({ "inputStatistics": facet });
        }
        if let Some(size) = &self.written {
            let facet = facet("1-0-2/OutputStatisticsOutputDatasetFacet", size.to_json());
            dataset["outputFacets"] = json!({ "outputStatistics": facet });
        }
        dataset
    }
}

impl Size {
    fn to_json(self) -> Value {
        let mut size = json!({"size": self.bytes, "fileCount": self.files});
        if let Some(rows) = self.rows {
            size["rowCount"] = json!(rows);
        }
        size
    }
}

/// The path of a local file, as the file system has it.
fn file_path(uri: &str, rest: &str) -> String {
    let path = Url::parse(uri).ok().and_then(|url| url.to_file_path().ok());
    path.map_or_else(|| rest.to_owned(), |path| path.display().to_string())
}

/// Each dataset once, in order.
pub(super) fn distinct(datasets: Vec<Dataset>) -> Vec<Dataset> {
    let mut found: Vec<Dataset> = Vec::new();
    for dataset in datasets {
        let is_known = |other: &Dataset| {
            (&other.namespace, &other.name) == (&dataset.namespace, &dataset.name)
        };
        if !found.iter().any(is_known) {
            found.push(dataset);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_by_store_and_path() {
        let check = |uri: &str, namespace: &str, name: &str| {
            let found = Dataset::matching(uri);
            let found = (found.namespace.as_str(), found.name.as_str());
            assert_eq!(found, (namespace, name), "{uri}");
        };
        check("s3://b/corpus/*.parquet", "s3://b", "corpus");
        check("s3://b/corpus/part-?/x.parquet", "s3://b", "corpus");
        check("s3://b/one.parquet", "s3://b", "one.parquet");
        check("s3://b/*.parquet", "s3://b", "/");
        check("file:///data/a%20b/**/*.jsonl", "file", "/data/a b");
        check(
            "https://me:hidden@h/x/y.jsonl",
            "https://[redacted]@h",
            "x/y.jsonl",
        );
    }

    #[test]
    fn a_dataset_is_named_once() {
        let datasets = ["s3://b/a/*.parquet", "s3://b/a/*.jsonl", "s3://b/c"];
        let found = distinct(datasets.map(Dataset::matching).to_vec());
        let names: Vec<&str> = found.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
    }
}
