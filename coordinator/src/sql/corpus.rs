//! The table `corpus`: all columns of all files of the job's corpus, whatever their formats.
//!
//! Opened when a query names it. `input_file` and `input_row` tell the place of each row, unless
//! the corpus has columns of these names. Columns that a file lacks are null.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableType;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_schemas::{FileFormat, SourceFile};
use gleaner_storage::Stores;
use gleaner_storage::footer::{self, Footer};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::OnceCell;

use crate::sql::error::SqlError;
use crate::sql::jsonl::{JsonlFile, JsonlTable};
use crate::sql::pinned::PinnedStore;
use crate::sql::table::{File, FilesTable, place_fields, without_metadata};

/// Footers read at a time.
const FOOTER_READS: usize = 64;

/// The reading of a footer; it gives the file's name too.
type FooterRead<'a> = BoxFuture<'a, Result<Option<(&'a str, Footer)>>>;

/// The corpus of a job, not yet opened.
#[derive(Debug)]
pub(crate) struct Corpus {
    stores: Stores,
    schema: Option<SchemaRef>,
    groups: Vec<StoreGroup>,
    leaves_out_broken: bool,
    opened: OnceCell<Arc<dyn TableProvider>>,
}

/// Files in one store.
#[derive(Debug)]
struct StoreGroup {
    url: ObjectStoreUrl,
    store: Arc<dyn ObjectStore>,
    files: Vec<(SourceFile, Path)>,
}

impl Corpus {
    /// The corpus that consists of `files`. Without a `schema`, their footers are read when it is
    /// opened.
    pub(crate) fn new(
        stores: &Stores,
        register: impl Fn(&str, Arc<dyn ObjectStore>) -> Result<ObjectStoreUrl, SqlError>,
        files: &[Arc<SourceFile>],
        schema: Option<&SchemaRef>,
    ) -> Result<Self, SqlError> {
        let mut by_authority: BTreeMap<&str, Vec<&SourceFile>> = BTreeMap::new();
        for file in files {
            by_authority
                .entry(authority(&file.uri))
                .or_default()
                .push(file);
        }
        let mut groups = Vec::new();
        for (number, files) in by_authority.into_values().enumerate() {
            let mut etags = HashMap::new();
            let mut placed = Vec::with_capacity(files.len());
            let mut shared: Option<Arc<dyn ObjectStore>> = None;
            for file in files {
                let (store, path) = stores.resolve(&file.uri).map_err(|error| SqlError::Query {
                    message: gleaner_schemas::failure::error_chain(&error),
                    help: None,
                })?;
                if let Some(etag) = &file.etag {
                    etags.insert(path.clone(), etag.clone());
                }
                shared.get_or_insert(store);
                placed.push((file.clone(), path));
            }
            let Some(store) = shared else { continue };
            let store: Arc<dyn ObjectStore> = Arc::new(PinnedStore::new(store, etags));
            let url = register(&format!("corpus-{number}"), Arc::clone(&store))?;
            groups.push(StoreGroup {
                url,
                store,
                files: placed,
            });
        }
        Ok(Self {
            stores: stores.clone(),
            schema: schema.cloned(),
            groups,
            leaves_out_broken: true,
            opened: OnceCell::new(),
        })
    }

    /// The same, with an error for a file that cannot be read instead of leaving it out.
    pub(crate) fn complete(mut self) -> Self {
        self.leaves_out_broken = false;
        self
    }

    /// The table.
    pub(crate) async fn open(&self) -> Result<Arc<dyn TableProvider>> {
        let table = self
            .opened
            .get_or_try_init(|| async {
                let (schema, readable) = match &self.schema {
                    Some(schema) => (schema.as_ref().clone(), None),
                    None => {
                        let (schema, readable) = self.read_footers().await?;
                        (schema, Some(readable))
                    }
                };
                let table = self.table(&schema, readable.as_ref());
                Ok::<_, DataFusionError>(Arc::new(table) as Arc<dyn TableProvider>)
            })
            .await?;
        Ok(Arc::clone(table))
    }

    /// The columns of all files, and the rows of those files that can be read.
    async fn read_footers(&self) -> Result<(Schema, HashMap<String, u64>)> {
        // Boxed: a closure over borrowed files is not general enough for a stream that is sent.
        let mut reads: Vec<FooterRead<'_>> = Vec::new();
        for (file, _) in self.groups.iter().flat_map(|group| &group.files) {
            reads.push(Box::pin(self.read_footer(file)));
        }
        let footers: Vec<_> = futures::stream::iter(reads)
            .buffered(FOOTER_READS)
            .try_collect()
            .await?;
        let footers: Vec<(&str, Footer)> = footers.into_iter().flatten().collect();
        let schemas = footers.iter().map(|(name, footer)| (*name, &footer.schema));
        let schema = footer::unify_schemas(schemas)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let rows = footers
            .iter()
            .map(|(name, footer)| {
                let rows = footer.row_groups.iter().map(|group| group.n_rows).sum();
                ((*name).to_owned(), rows)
            })
            .collect();
        Ok((schema, rows))
    }

    /// A footer by the file's name, unless the file is not what its name says.
    async fn read_footer<'a>(&self, file: &'a SourceFile) -> Result<Option<(&'a str, Footer)>> {
        match footer::read_footer(&self.stores, file).await {
            Ok(footer) => Ok(Some((file.name.as_str(), footer))),
            Err(error) if error.is_about_contents() && self.leaves_out_broken => {
                tracing::warn!(%error, "a file of the corpus cannot be read, left out");
                Ok(None)
            }
            Err(error) => Err(DataFusionError::External(Box::new(error))),
        }
    }

    fn table(&self, schema: &Schema, readable: Option<&HashMap<String, u64>>) -> CorpusTable {
        let schema = without_metadata(schema);
        let has_places = place_fields()
            .iter()
            .all(|field| schema.field_with_name(field.name()).is_err());
        let mut parts: Vec<Arc<dyn TableProvider>> = Vec::new();
        let mut jsonl = Vec::new();
        for group in &self.groups {
            let is_readable = |file: &SourceFile| {
                readable.is_none_or(|readable| readable.contains_key(&file.name))
            };
            let mut files = Vec::new();
            let mut rows = readable.map(|_| 0);
            for (file, path) in group.files.iter().filter(|(file, _)| is_readable(file)) {
                if file.format == FileFormat::Parquet {
                    if let (Some(rows), Some(readable)) = (&mut rows, readable) {
                        *rows += readable.get(&file.name).copied().unwrap_or(0);
                    }
                    files.push(File {
                        path: path.clone(),
                        bytes: file.bytes,
                        inputs: vec![file.name.clone()],
                    });
                } else {
                    jsonl.push(JsonlFile {
                        name: file.name.clone(),
                        store: Arc::clone(&group.store),
                        path: path.clone(),
                        format: file.format,
                    });
                }
            }
            if !files.is_empty() {
                let table = FilesTable::new(&schema, group.url.clone(), files, rows);
                parts.push(Arc::new(if has_places {
                    table.with_places()
                } else {
                    table
                }));
            }
        }
        if !jsonl.is_empty() {
            parts.push(Arc::new(JsonlTable::new(
                Arc::clone(&schema),
                jsonl,
                has_places,
            )));
        }
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        if has_places {
            fields.extend(place_fields().map(Arc::new));
        }
        CorpusTable {
            schema: Arc::new(Schema::new(fields)),
            parts,
        }
    }
}

/// What comes before the path in a URI.
fn authority(uri: &str) -> &str {
    let Some(start) = uri.find("://").map(|at| at + 3) else {
        return uri;
    };
    let end = uri[start..].find('/').map_or(uri.len(), |at| start + at);
    &uri[..end]
}

/// The corpus, opened: one part per store for Parquet, one for all lines of JSON.
#[derive(Debug)]
struct CorpusTable {
    schema: SchemaRef,
    parts: Vec<Arc<dyn TableProvider>>,
}

#[async_trait]
impl TableProvider for CorpusTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut scans = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            scans.push(part.scan(state, projection, filters, limit).await?);
        }
        match scans.len() {
            0 => {
                let schema = match projection {
                    Some(projection) => Arc::new(self.schema.project(projection)?),
                    None => self.schema(),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => Ok(scans.remove(0)),
            _ => UnionExec::try_new(scans),
        }
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        match self.parts.first() {
            Some(part) => part.supports_filters_pushdown(filters),
            None => Ok(vec![
                TableProviderFilterPushDown::Unsupported;
                filters.len()
            ]),
        }
    }
}
