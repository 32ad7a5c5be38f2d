//! Files of tensors: their headers are checked when they are opened, their tensors read one by one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::ModelError;
use crate::half::{from_bf16, from_f16};

/// The format's own limit for headers, in bytes.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A safetensors file whose header is whole and fits its length.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    /// Where the tensors begin, in bytes.
    data_start: u64,
    metadata: Metadata,
}

impl SafetensorsFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let read = |source| ModelError::read(path, source);
        let mut file = File::open(path).map_err(read)?;
        let n_bytes = file.metadata().map_err(read)?.len();
        let mut length = [0; 8];
        if n_bytes < 8 {
            let problem = format!("{n_bytes} bytes are no safetensors file");
            return Err(ModelError::malformed(path, problem));
        }
        file.read_exact(&mut length).map_err(read)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > HEADER_BYTES_MAX || header_bytes > n_bytes - 8 {
            let problem = format!("a header of {header_bytes} bytes in a file of {n_bytes} (cut?)");
            return Err(ModelError::malformed(path, problem));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(read)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| {
            // serde tells the names of all types it knows: the one it found stands first.
            ModelError::malformed(path, format!("header of tensors: {e}"))
        })?;
        let data_start = 8 + header_bytes;
        let expected = data_start.checked_add(metadata.data_len() as u64);
        if expected != Some(n_bytes) {
            let problem = format!(
                "the header tells of {} bytes of tensors, the file has {} (cut?)",
                metadata.data_len(),
                n_bytes - data_start,
            );
            return Err(ModelError::malformed(path, problem));
        }
        Ok(Self {
            path: path.to_owned(),
            data_start,
            metadata,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// Reads a tensor as f32; infinities and NaN are errors.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let error = |problem: String| ModelError::tensor(&self.path, name, problem);
        let info = self.info(name).ok_or_else(|| error("not there".into()))?;
        let read = |source| ModelError::read(&self.path, source);
        let (start, end) = info.data_offsets;
        let mut file = File::open(&self.path).map_err(read)?;
        file.seek(SeekFrom::Start(self.data_start + start as u64))
            .map_err(read)?;
        let mut bytes = vec![0; end - start];
        file.read_exact(&mut bytes).map_err(read)?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => {
                let (numbers, _) = bytes.as_chunks::<4>();
                numbers
                    .iter()
                    .map(|four| f32::from_le_bytes(*four))
                    .collect()
            }
            Dtype::F16 => {
                let (numbers, _) = bytes.as_chunks::<2>();
                numbers
                    .iter()
                    .map(|two| from_f16(u16::from_le_bytes(*two)))
                    .collect()
            }
            Dtype::BF16 => {
                let (numbers, _) = bytes.as_chunks::<2>();
                numbers
                    .iter()
                    .map(|two| from_bf16(u16::from_le_bytes(*two)))
                    .collect()
            }
            other => return Err(error(unknown_dtype(other))),
        };
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            return Err(error(format!("value {place} is {}", values[place])));
        }
        Ok(values)
    }
}

/// What is wrong with a type, if anything.
pub(crate) fn check_dtype(dtype: Dtype) -> Result<(), String> {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
        other => Err(unknown_dtype(other)),
    }
}

fn unknown_dtype(dtype: Dtype) -> String {
    format!("type {dtype:?} where F32, F16 or BF16 are known")
}
