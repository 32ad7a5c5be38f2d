//! A table that is an explicit list of Parquet objects with an explicit schema: nothing is listed
//! and nothing is inferred, so that planning is fast with a hundred thousand of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{Result, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use gleaner_schemas::{TableFile, columns};
use gleaner_storage::Output;
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::arrow::RowNumber;

/// One file of a [`FilesTable`].
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Its place in the store.
    pub(crate) path: Path,
    /// Its size.
    pub(crate) bytes: u64,
    /// Values of `input_file` that its rows may have; empty if that is not known.
    pub(crate) inputs: Vec<String>,
}

impl File {
    fn partitioned(&self) -> PartitionedFile {
        PartitionedFile::new_from_meta(ObjectMeta {
            location: self.path.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: self.bytes,
            e_tag: None,
            version: None,
        })
    }
}

/// A table of Parquet files in one store.
#[derive(Debug)]
pub(crate) struct FilesTable {
    schema: TableSchema,
    store: ObjectStoreUrl,
    files: Vec<File>,
    rows: Option<u64>,
}

impl FilesTable {
    /// A table of files of the store that is registered under `store`. All rows together are
    /// `rows`, where that is known.
    pub(crate) fn new(
        schema: &Schema,
        store: ObjectStoreUrl,
        files: Vec<File>,
        rows: Option<u64>,
    ) -> Self {
        Self {
            schema: TableSchema::from(without_metadata(schema)),
            store,
            files,
            rows,
        }
    }

    /// The same table with the place of each row, in the columns `input_file` and `input_row`.
    /// Every file must have its name as its only input.
    pub(crate) fn with_places(mut self) -> Self {
        let [file, row] = place_fields();
        self.schema = TableSchema::builder(Arc::clone(self.schema.file_schema()))
            .with_table_partition_cols(vec![Arc::new(file)])
            .with_virtual_columns(vec![Arc::new(row)])
            .build();
        self
    }

    /// The table of these objects of an output.
    pub(crate) fn of_output(
        schema: &Schema,
        store: ObjectStoreUrl,
        output: &Output,
        files: &[TableFile],
    ) -> Self {
        let rows = files.iter().map(|file| file.rows).sum();
        let files = files
            .iter()
            .map(|file| File {
                path: output.path_of(&file.path),
                bytes: file.bytes,
                inputs: file.inputs.clone(),
            })
            .collect();
        Self::new(schema, store, files, Some(rows))
    }

    /// The files that may hold rows that pass all of `filters`.
    fn matching(&self, filters: &[Expr]) -> Vec<&File> {
        let wanted: Vec<BTreeSet<&str>> = filters.iter().filter_map(wanted_inputs).collect();
        self.files
            .iter()
            .filter(|file| {
                file.inputs.is_empty()
                    || wanted.iter().all(|wanted| {
                        file.inputs
                            .iter()
                            .any(|input| wanted.contains(input.as_str()))
                    })
            })
            .collect()
    }

    fn statistics_of(&self, n_files: usize) -> Statistics {
        let mut statistics = Statistics::new_unknown(self.schema.table_schema());
        if n_files == self.files.len()
            && let Some(rows) = self.rows.and_then(|rows| usize::try_from(rows).ok())
        {
            statistics.num_rows = Precision::Exact(rows);
        }
        statistics
    }
}

/// Field ids and the like describe files, not the columns of a query.
pub(crate) fn without_metadata(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_metadata(Default::default()))
        .collect();
    Arc::new(Schema::new(fields))
}

/// The values of `input_file` that an `input_file = '...'` or an `input_file IN (...)` asks for.
fn wanted_inputs(filter: &Expr) -> Option<BTreeSet<&str>> {
    let is_input_file =
        |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == columns::INPUT_FILE);
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) => {
            let value = if is_input_file(left) {
                right
            } else if is_input_file(right) {
                left
            } else {
                return None;
            };
            Some(BTreeSet::from([text_of(value)?]))
        }
        Expr::InList(list) if !list.negated && is_input_file(&list.expr) => {
            list.list.iter().map(text_of).collect()
        }
        _ => None,
    }
}

fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(
            ScalarValue::Utf8(Some(text))
            | ScalarValue::Utf8View(Some(text))
            | ScalarValue::LargeUtf8(Some(text)),
            _,
        ) => Some(text),
        _ => None,
    }
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.schema.table_schema())
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
        let files = self.matching(filters);
        if files.is_empty() {
            let schema = match projection {
                Some(projection) => Arc::new(self.schema().project(projection)?),
                None => self.schema(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let has_places = !self.schema.table_partition_cols().is_empty();
        let files = files
            .into_iter()
            .map(|file| match file.inputs.first() {
                Some(name) if has_places => file
                    .partitioned()
                    .with_partition_values(vec![ScalarValue::from(name.as_str())]),
                _ => file.partitioned(),
            })
            .collect::<Vec<_>>();
        let n_files = files.len();
        let groups = groups(files, state.config().target_partitions());
        let config = FileScanConfigBuilder::new(
            self.store.clone(),
            Arc::new(ParquetSource::new(self.schema.clone())),
        )
        .with_statistics(self.statistics_of(n_files))
        .with_file_groups(groups)
        .with_projection_indices(projection.cloned())?
        .with_limit(limit)
        .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| match wanted_inputs(filter) {
                Some(_) => TableProviderFilterPushDown::Inexact,
                None => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    fn statistics(&self) -> Option<Statistics> {
        Some(self.statistics_of(self.files.len()))
    }
}

/// The columns that tell where a row of the corpus comes from.
pub(crate) fn place_fields() -> [Field; 2] {
    [
        Field::new(columns::INPUT_FILE, DataType::Utf8, false),
        // The reader of Parquet knows by the extension type that it is to count rows.
        Field::new(columns::INPUT_ROW, DataType::Int64, false).with_extension_type(RowNumber),
    ]
}

/// The files in order, in at most `n_groups` runs of about the same number of bytes.
fn groups(files: Vec<PartitionedFile>, n_groups: usize) -> Vec<FileGroup> {
    let total: u64 = files.iter().map(|file| file.object_meta.size).sum();
    let share = total.div_ceil(n_groups.max(1) as u64).max(1);
    let mut groups: Vec<FileGroup> = Vec::new();
    let mut bytes_so_far = 0;
    for file in files {
        let is_full = bytes_so_far >= share * groups.len() as u64;
        bytes_so_far += file.object_meta.size;
        match groups.last_mut() {
            Some(group) if !is_full => group.push(file),
            _ => groups.push(FileGroup::new(vec![file])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::{col, lit};

    fn file(name: &str, bytes: u64) -> File {
        File {
            path: Path::from(name),
            bytes,
            inputs: vec![format!("{name}.parquet")],
        }
    }

    #[test]
    fn groups_keep_the_order_and_balance_bytes() {
        let files = [file("a", 10), file("b", 10), file("c", 20), file("d", 1)];
        let files: Vec<_> = files.iter().map(File::partitioned).collect();
        let names: Vec<Vec<String>> = groups(files.clone(), 2)
            .iter()
            .map(|group| group.iter().map(|file| file.path().to_string()).collect())
            .collect();
        assert_eq!(names, [vec!["a", "b", "c"], vec!["d"]]);
        assert_eq!(groups(files.clone(), 1).len(), 1);
        assert_eq!(groups(files, 100).len(), 4);
    }

    #[test]
    fn files_of_other_inputs_are_not_read() {
        let files = vec![file("a", 1), file("b", 1), file("c", 1)];
        let store = ObjectStoreUrl::parse("gleaner://output").unwrap();
        let table = FilesTable::new(&Schema::empty(), store, files, None);
        let n_matching = |filter: Expr| table.matching(&[filter]).len();
        assert_eq!(n_matching(col("input_file").eq(lit("b.parquet"))), 1);
        assert_eq!(n_matching(lit("b.parquet").eq(col("input_file"))), 1);
        let list = vec![lit("a.parquet"), lit("c.parquet"), lit("z.parquet")];
        assert_eq!(
            n_matching(col("input_file").in_list(list.clone(), false)),
            2
        );
        assert_eq!(n_matching(col("input_file").in_list(list, true)), 3);
        assert_eq!(n_matching(col("doc_id").eq(lit("b.parquet"))), 3);
    }
}
