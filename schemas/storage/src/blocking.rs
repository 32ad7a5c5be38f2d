//! Reading objects from threads that may block.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gleaner_schemas::{Failure, FailureKind, SourceFile};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::output::OutputError;
use crate::read_error::ReadError;
use crate::remote_blocks::{BLOCK_BYTES, RemoteBlocks};
use crate::stores::Stores;

/// Bytes that a sequential read of a local file takes at a time.
const LOCAL_READ_BYTES: usize = 256 << 10;

/// What a blocking thread reads with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlockingIo {
    /// Stores by URI.
    pub stores: Stores,
    handle: Handle,
    cancel: CancellationToken,
}

impl BlockingIo {
    /// Reads through `stores`, on the runtime that `handle` belongs to.
    #[must_use]
    pub fn new(stores: Stores, handle: Handle) -> Self {
        Self {
            stores,
            handle,
            cancel: CancellationToken::new(),
        }
    }

    /// The same, for somebody who may stop waiting: after `cancel` is cancelled, every read ends
    /// with a transient error, also one that is under way. Only the operating system's own reads
    /// of local files cannot be left in the middle.
    #[must_use]
    pub fn until(&self, cancel: CancellationToken) -> Self {
        Self {
            cancel,
            ..self.clone()
        }
    }

    /// The runtime that it waits on.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for a store. Must not be called on a thread of the runtime.
    pub(crate) fn wait<T>(
        &self,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(cancelled()),
                result = operation => result,
            }
        })
    }
}

impl BlockingIo {
    /// Waits for an operation on an output. Must not be called on a thread of the runtime.
    ///
    /// # Errors
    ///
    /// Of the operation; transient if the task was cancelled meanwhile.
    pub fn run<T>(
        &self,
        operation: impl Future<Output = Result<T, OutputError>>,
    ) -> Result<T, Failure> {
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    Err(Failure::new(FailureKind::Transient, "the task was cancelled"))
                }
                result = operation => result.map_err(Failure::from),
            }
        })
    }
}

fn cancelled() -> object_store::Error {
    object_store::Error::Generic {
        store: "task's",
        source: "the task was cancelled".into(),
    }
}

/// A file that is read in pieces, each of which must belong to the same version of the file.
/// Clones share it.
#[derive(Clone)]
pub(crate) struct RangeReader {
    shared: Arc<Shared>,
}

struct Shared {
    io: BlockingIo,
    store: Arc<dyn ObjectStore>,
    path: Path,
    name: String,
    bytes: u64,
    etag: Option<String>,
    place: PlaceOfBytes,
    /// The first error; Parquet's own errors keep only its text.
    error: Mutex<Option<ReadError>>,
}

enum PlaceOfBytes {
    Local { file: File },
    Remote { blocks: RemoteBlocks },
}

impl RangeReader {
    /// Opens a file and makes sure that it is the version that was planned.
    pub(crate) fn open(io: &BlockingIo, source: &SourceFile) -> Result<Self, ReadError> {
        let (store, path) = io.stores.resolve(&source.uri)?;
        let local = local_file(&source.uri, &source.name)?;
        let place = match local {
            Some(file) => PlaceOfBytes::Local { file },
            None => PlaceOfBytes::Remote {
                blocks: RemoteBlocks::new(
                    Arc::clone(&store),
                    path.clone(),
                    source.bytes,
                    source.etag.clone(),
                    io.handle.clone(),
                ),
            },
        };
        let reader = Self {
            shared: Arc::new(Shared {
                io: io.clone(),
                store,
                path,
                name: source.name.clone(),
                bytes: source.bytes,
                etag: source.etag.clone(),
                place,
                error: Mutex::default(),
            }),
        };
        reader.check_unchanged()?;
        Ok(reader)
    }

    /// Opens an object of unknown size that never changes.
    pub(crate) fn open_object(io: &BlockingIo, uri: &str) -> Result<Self, ReadError> {
        let (store, path) = io.stores.resolve(uri)?;
        let meta = io
            .wait(store.head(&path))
            .map_err(|error| ReadError::store(uri, error))?;
        let source = SourceFile {
            name: uri.to_owned(),
            uri: uri.to_owned(),
            format: gleaner_schemas::FileFormat::Parquet,
            bytes: meta.size,
            identity: String::new(),
            etag: None,
        };
        Self::open(io, &source)
    }

    /// A local file is looked at before and after: its content may change under an open handle,
    /// so this is to be called when everything is read. Other stores check the etag with every
    /// read.
    pub(crate) fn check_unchanged(&self) -> Result<(), ReadError> {
        let shared = &self.shared;
        if !matches!(shared.place, PlaceOfBytes::Local { .. }) {
            return Ok(());
        }
        let meta = shared
            .io
            .wait(shared.store.head(&shared.path))
            .map_err(|error| ReadError::store(&shared.name, error))?;
        let same_etag = shared.etag.is_none() || shared.etag == meta.e_tag;
        if same_etag && meta.size == shared.bytes {
            Ok(())
        } else {
            Err(ReadError::Changed {
                name: shared.name.clone(),
            })
        }
    }

    /// Why bytes could not be read or make no sense, if not by themselves: the first error of a
    /// read, or that the file has changed meanwhile.
    pub(crate) fn take_cause(&self) -> Option<ReadError> {
        self.shared
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .or_else(|| self.check_unchanged().err())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes
    }

    fn fail(&self, error: ReadError) -> io::Error {
        let text = gleaner_schemas::failure::error_chain(&error);
        self.shared
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        io::Error::other(text)
    }

    /// An error of a disk, or of a store that is mounted like one. What is cut short is told by the
    /// file itself.
    fn fail_local(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return error;
        }
        let error = object_store::Error::Generic {
            store: "LocalFileSystem",
            source: error.into(),
        };
        self.fail(ReadError::store(&self.shared.name, error))
    }

    fn read_range(&self, start: u64, length: usize) -> io::Result<Bytes> {
        if self.shared.io.cancel.is_cancelled() {
            return Err(self.fail(ReadError::store(&self.shared.name, cancelled())));
        }
        let end = start
            .checked_add(length as u64)
            .filter(|&end| end <= self.shared.bytes)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("bytes {start}.. of {length} are beyond the end of the file"),
                )
            })?;
        match &self.shared.place {
            PlaceOfBytes::Local { file } => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start)
                    .map_err(|error| self.fail_local(error))?;
                Ok(bytes.into())
            }
            PlaceOfBytes::Remote { .. } => {
                let first = start / BLOCK_BYTES;
                let within = (start % BLOCK_BYTES) as usize;
                let block = self.block(first)?;
                if within + length <= block.len() {
                    return Ok(block.slice(within..within + length));
                }
                let mut bytes = Vec::with_capacity(length);
                bytes.extend_from_slice(&block[within.min(block.len())..]);
                for idx in first + 1..=(end.max(1) - 1) / BLOCK_BYTES {
                    let missing = length - bytes.len();
                    let block = self.block(idx)?;
                    bytes.extend_from_slice(&block[..missing.min(block.len())]);
                }
                Ok(bytes.into())
            }
        }
    }

    fn block(&self, idx: u64) -> io::Result<Bytes> {
        let PlaceOfBytes::Remote { blocks } = &self.shared.place else {
            return Ok(Bytes::new());
        };
        let block = self.shared.io.wait(blocks.get(idx));
        block.map_err(|error| self.fail(ReadError::store(&self.shared.name, error)))
    }

    /// Says which bytes will be read from now on, so that they can be fetched in time.
    pub(crate) fn expect(&self, ranges: impl IntoIterator<Item = Range<u64>>) {
        if let PlaceOfBytes::Remote { blocks } = &self.shared.place {
            blocks.expect(ranges);
        }
    }

    /// Reads on from an offset.
    pub(crate) fn read_from(&self, offset: u64) -> SequentialReader {
        SequentialReader {
            reader: self.clone(),
            offset,
            buffer: Bytes::new(),
        }
    }
}

fn local_file(uri: &str, name: &str) -> Result<Option<File>, ReadError> {
    let path = url::Url::parse(uri)
        .ok()
        .filter(|url| url.scheme() == "file")
        .and_then(|url| url.to_file_path().ok());
    let Some(path) = path else {
        return Ok(None);
    };
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(source) => {
            let path = path.display().to_string();
            let source = match source.kind() {
                io::ErrorKind::NotFound => object_store::Error::NotFound {
                    path,
                    source: source.into(),
                },
                io::ErrorKind::PermissionDenied => object_store::Error::PermissionDenied {
                    path,
                    source: source.into(),
                },
                _ => object_store::Error::Generic {
                    store: "local",
                    source: source.into(),
                },
            };
            Err(ReadError::store(name, source))
        }
    }
}

impl Length for RangeReader {
    fn len(&self) -> u64 {
        self.shared.bytes
    }
}

impl ChunkReader for RangeReader {
    type T = SequentialReader;

    fn get_read(&self, start: u64) -> Result<SequentialReader, ParquetError> {
        Ok(self.read_from(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(self.read_range(start, length)?)
    }
}

/// Reads a file from some offset on.
pub(crate) struct SequentialReader {
    reader: RangeReader,
    offset: u64,
    buffer: Bytes,
}

impl Read for SequentialReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let left = self.reader.bytes().saturating_sub(self.offset);
            // Page headers are read through this as well, a few dozen bytes each.
            let wanted = if self.offset == 0 {
                LOCAL_READ_BYTES
            } else {
                LOCAL_READ_BYTES.min(into.len().max(4096))
            };
            let length = left.min(wanted as u64) as usize;
            if length == 0 {
                return Ok(0);
            }
            self.buffer = self.reader.read_range(self.offset, length)?;
            self.offset += length as u64;
        }
        let n = self.buffer.len().min(into.len());
        into[..n].copy_from_slice(&self.buffer.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
