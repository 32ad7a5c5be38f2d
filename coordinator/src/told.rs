//! What tasks told in the footers of their objects, read side by side.

use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_schemas::Figures;
use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{TableFile, TableVersion};
use gleaner_storage::{Output, OutputError, encode};
use parquet::errors::ParquetError;

/// Footers read at a time.
const FOOTER_READS: usize = 64;
/// Objects whose figures are held at a time.
const OBJECTS_AT_A_TIME: usize = 4096;

/// What each object tells under `key`, in order; `None` for one that tells nothing.
///
/// # Errors
///
/// Of the store, or if an object is not Parquet.
pub async fn read(
    output: &Output,
    objects: Vec<(String, u64)>,
    key: &str,
) -> Result<Vec<Option<String>>, OutputError> {
    futures::stream::iter(objects)
        .map(|(path, bytes)| async move {
            let read = encode::read_told(output.store(), &output.path_of(&path), bytes, key).await;
            read.map_err(|error| failed(output, &path, error))
        })
        .buffered(FOOTER_READS)
        .try_collect()
        .await
}

/// Why the footer of an object could not be read: the store's fault, or the object's.
pub(crate) fn failed(output: &Output, path: &str, error: ParquetError) -> OutputError {
    let uri = output.uri_of(path);
    match error {
        ParquetError::External(source) => OutputError::Store {
            operation: "read the footer of",
            uri,
            source: std::io::Error::other(source).into(),
        },
        error => OutputError::Malformed {
            uri,
            expected: "object of a table",
            message: error_chain(&error),
        },
    }
}

/// What the rows of a table come to. Where `before` holds the sums over most of its objects, only what
/// came and what went is read. `None` where an object tells nothing.
///
/// # Errors
///
/// Of the store.
pub async fn figures(
    output: &Output,
    files: &[TableFile],
    before: Option<&TableVersion>,
) -> Result<Option<Figures>, OutputError> {
    if let Some(before) = before
        && let Some(known) = &before.figures
        && let Some(figures) = carried(output, files, before, known).await?
    {
        return Ok(Some(figures));
    }
    let mut figures = Figures::default();
    let is_whole = add(output, &mut figures, files.iter(), true).await?;
    Ok(is_whole.then_some(figures))
}

/// The sums of a version, with what has changed since. `None` where that does not come out, or would
/// not be less work.
async fn carried(
    output: &Output,
    files: &[TableFile],
    before: &TableVersion,
    known: &Figures,
) -> Result<Option<Figures>, OutputError> {
    let paths = |files: &[TableFile]| -> std::collections::BTreeSet<String> {
        files.iter().map(|file| file.path.clone()).collect()
    };
    let (now, then) = (paths(files), paths(&before.files));
    let came: Vec<&TableFile> = files.iter().filter(|it| !then.contains(&it.path)).collect();
    let went = before.files.iter().filter(|it| !now.contains(&it.path));
    let went: Vec<&TableFile> = went.collect();
    if came.len() + went.len() >= files.len() {
        return Ok(None);
    }
    let mut figures = known.clone();
    // An object that went may be gone by now.
    if !matches!(
        add(output, &mut figures, went.into_iter(), false).await,
        Ok(true)
    ) {
        return Ok(None);
    }
    let is_whole = add(output, &mut figures, came.into_iter(), true).await?;
    Ok(is_whole.then_some(figures))
}

async fn add(
    output: &Output,
    figures: &mut Figures,
    files: impl Iterator<Item = &TableFile>,
    is_added: bool,
) -> Result<bool, OutputError> {
    let objects: Vec<(String, u64)> = files.map(|file| (file.path.clone(), file.bytes)).collect();
    for objects in objects.chunks(OBJECTS_AT_A_TIME) {
        for told in read(output, objects.to_vec(), encode::FIGURES).await? {
            let told = told.and_then(|told| serde_json::from_str::<Figures>(&told).ok());
            match told {
                Some(told) if figures.apply(&told, is_added) => {}
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}
