//! The schema `gleaner_places`: tables of stages with the place of each row among their objects, in
//! the columns `input_file` and `input_row`, as stages that read them call it. So rows find the very
//! row that they were made from, also where ids are not unique.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::DataFusionError;
use gleaner_schemas::TableFile;

use crate::sql::catalog::PublicSchema;
use crate::sql::quote_name;
use crate::sql::table::{File, FilesTable, place_fields};

/// Name of the schema.
pub(crate) const PLACES: &str = "gleaner_places";

/// A stage's table with places, as SQL names it.
pub(crate) fn with_places(stage: &str) -> String {
    format!("{PLACES}.{}", quote_name(stage))
}

/// The schema. It lists no tables: it is for queries of this program. Queries that are stages do not
/// have it, since they say what they depend on by the names of tables.
#[derive(Debug)]
pub(crate) struct PlacesSchema(pub(crate) Arc<PublicSchema>);

impl PlacesSchema {
    /// Without the table's own columns of these names: they tell of the corpus.
    fn table_of(&self, schema: &SchemaRef, files: &[TableFile]) -> FilesTable {
        let is_place = |name: &str| place_fields().iter().any(|field| field.name() == name);
        let fields: Vec<_> = schema.fields().iter().cloned().collect();
        let fields = fields.into_iter().filter(|field| !is_place(field.name()));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let rows = files.iter().map(|file| file.rows).sum();
        let files = files.iter().map(|file| File {
            path: self.0.output.path_of(&file.path),
            bytes: file.bytes,
            inputs: vec![file.name()],
        });
        FilesTable::new(&schema, self.0.store.clone(), files.collect(), Some(rows)).with_places()
    }
}

#[async_trait]
impl SchemaProvider for PlacesSchema {
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let Some(stored) = self.0.tables.get(name) else {
            return Ok(None);
        };
        let opened = self.0.table(name).await?;
        Ok(opened.map(|opened| {
            let table = self.table_of(&opened.schema(), &stored.files);
            Arc::new(table) as Arc<dyn TableProvider>
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.tables.contains_key(name)
    }
}
