//! How far long computations are: one object per task, replaced by the next state.
//!
//! They are no results: nothing names them, no reader looks at them, and losing one costs time.

use bytes::Bytes;
use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{Failure, TaskId};
use object_store::{GetOptions, ObjectStoreExt as _};

use crate::blocking::BlockingIo;
use crate::fetch::fetch;
use crate::layout;
use crate::output::Output;
use crate::store_error::{StoreError, StoreProblem};

/// The state of a task's computation, if one was kept.
///
/// # Errors
///
/// Of the store.
pub fn read(io: &BlockingIo, output: &Output, task: &TaskId) -> Result<Option<Bytes>, Failure> {
    let key = layout::checkpoint(task);
    let path = output.path_of(&key);
    match io.wait(fetch(output.store().as_ref(), &path, GetOptions::default())) {
        Ok(state) => Ok(Some(state)),
        Err(error) if *StoreError::of(&error).problem() == StoreProblem::Missing => Ok(None),
        Err(error) => Err(failure("read", output, &key, &error)),
    }
}

/// Keeps the state of a task's computation in place of an earlier one.
///
/// # Errors
///
/// Of the store.
pub fn write(io: &BlockingIo, output: &Output, task: &TaskId, state: Bytes) -> Result<(), Failure> {
    let key = layout::checkpoint(task);
    let path = output.path_of(&key);
    match io.wait(output.store().put(&path, state.into())) {
        Ok(_) => Ok(()),
        Err(error) => Err(failure("write", output, &key, &error)),
    }
}

fn failure(operation: &str, output: &Output, key: &str, error: &object_store::Error) -> Failure {
    let error = StoreError::of(error);
    let (uri, reason) = (output.uri_of(key), error_chain(&error));
    Failure::new(error.kind(), format!("cannot {operation} {uri}: {reason}"))
}
