//! The schemas `public` (stages and corpus) and `gleaner` (the version itself). Tables are opened
//! when a query names them, so a query never pays for tables that it does not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableType;
use datafusion::datasource::object_store::ObjectStoreUrl;
use gleaner_schemas::{TableFile, Version};
use gleaner_storage::{Output, encode, metadata};
use tokio::sync::OnceCell;

use crate::sql::attempts::Attempts;
use crate::sql::corpus::Corpus;
use crate::sql::paths::{PathTables, is_path};
use crate::sql::system;
use crate::sql::table::FilesTable;

/// Name of the table over the job's corpus.
pub(crate) const CORPUS: &str = "corpus";

/// A table of an output, and what has been opened of it.
#[derive(Debug)]
pub(crate) struct StoredTable {
    /// Its schema, if it is known without reading a footer.
    pub(crate) schema: Option<SchemaRef>,
    /// Its objects.
    pub(crate) files: Vec<TableFile>,
    opened: OnceCell<Arc<dyn TableProvider>>,
}

impl StoredTable {
    pub(crate) fn new(schema: Option<SchemaRef>, files: Vec<TableFile>) -> Self {
        Self {
            schema,
            files,
            opened: OnceCell::new(),
        }
    }
}

/// The schema `public`.
#[derive(Debug)]
pub(crate) struct PublicSchema {
    pub(crate) output: Output,
    pub(crate) store: ObjectStoreUrl,
    pub(crate) tables: BTreeMap<String, StoredTable>,
    pub(crate) corpus: Corpus,
    /// Where queries may name files by their paths.
    pub(crate) paths: Option<PathTables>,
}

impl PublicSchema {
    async fn open(&self, table: &StoredTable) -> Result<Arc<dyn TableProvider>> {
        let provider = table
            .opened
            .get_or_try_init(|| async {
                let schema = match (&table.schema, table.files.first()) {
                    (Some(schema), _) => Arc::clone(schema),
                    (None, Some(file)) => self.schema_of(file).await?,
                    (None, None) => {
                        return Err(DataFusionError::Plan("the table has no files".to_owned()));
                    }
                };
                let files = &table.files;
                let opened =
                    FilesTable::of_output(&schema, self.store.clone(), &self.output, files);
                Ok(Arc::new(opened) as Arc<dyn TableProvider>)
            })
            .await?;
        Ok(Arc::clone(provider))
    }

    async fn schema_of(&self, file: &TableFile) -> Result<SchemaRef> {
        let path = self.output.path_of(&file.path);
        let metadata = metadata::fetch(self.output.store(), &path, file.bytes).await?;
        Ok(Arc::new(encode::table_schema(&metadata)?))
    }
}

#[async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tables.keys().cloned().collect();
        names.push(CORPUS.to_owned());
        names
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        match self.tables.get(name) {
            Some(table) => Ok(Some(self.open(table).await?)),
            None if name == CORPUS => Ok(Some(self.corpus.open().await?)),
            None => match &self.paths {
                Some(paths) if is_path(name) => Ok(Some(paths.open(name).await?)),
                _ => Ok(None),
            },
        }
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        // Listing tables must not open them.
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        name == CORPUS || self.tables.contains_key(name)
    }
}

/// The schema `gleaner`.
#[derive(Debug)]
pub(crate) struct SystemSchema {
    pub(crate) output: Output,
    pub(crate) version: Arc<Version>,
}

impl SystemSchema {
    /// The phases that wrote the stages' tables, as one object of each tells.
    async fn phases(&self) -> BTreeMap<String, String> {
        let mut phases = BTreeMap::new();
        for stage in &self.version.stage_order {
            let file = self
                .version
                .tables
                .get(stage)
                .and_then(|table| table.files.first());
            if let Some(file) = file
                && let Some(phase) = self.phase_of(file).await
            {
                phases.insert(stage.clone(), phase);
            }
        }
        phases
    }

    /// `None` where the footer cannot be read: the rest of the table is still worth showing.
    async fn phase_of(&self, file: &TableFile) -> Option<String> {
        let path = self.output.path_of(&file.path);
        let metadata = metadata::fetch(self.output.store(), &path, file.bytes)
            .await
            .ok()?;
        let entries = metadata.file_metadata().key_value_metadata()?;
        let entry = entries
            .iter()
            .find(|entry| entry.key == encode::PROVENANCE)?;
        let provenance: serde_json::Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
        Some(provenance.get("phase")?.as_str()?.to_owned())
    }
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        system::TABLES.iter().map(|&name| name.to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        if !self.table_exist(name) {
            return Ok(None);
        }
        let (phases, attempts) = if name == "tasks" {
            let attempts = Attempts::read(&self.output, &self.version);
            tokio::join!(self.phases(), attempts)
        } else {
            Default::default()
        };
        let rows = system::rows(name, &self.version, &phases, &attempts)?;
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
        Ok(Some(Arc::new(table)))
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::View))
    }

    fn table_exist(&self, name: &str) -> bool {
        system::TABLES.contains(&name)
    }
}
