//! Values that the original implementations computed: a small set in `tests/data`, and the full
//! set where it is at hand (`GLEANER_GOLDEN`, else `../shared/golden` beside the repository).

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::repository;

/// A folder of golden values; files may be compressed (`.zst`).
#[derive(Debug, Clone)]
pub struct Golden(PathBuf);

impl Golden {
    /// The set that comes with the repository.
    #[must_use]
    pub fn bundled() -> Self {
        Self(repository().join("tests/data/dsir"))
    }

    /// The full set, if it is at hand.
    #[must_use]
    pub fn full() -> Option<Self> {
        let root = std::env::var_os("GLEANER_GOLDEN")
            .map_or_else(|| repository().join("../shared/golden"), PathBuf::from);
        let folder = root.join("dsir");
        folder
            .join("token_cases.json")
            .exists()
            .then_some(Self(folder))
    }

    /// Path of a file, compressed or not.
    ///
    /// # Panics
    ///
    /// If there is neither.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        let plain = self.0.join(name);
        if plain.exists() {
            return plain;
        }
        let compressed = self.0.join(format!("{name}.zst"));
        assert!(compressed.exists(), "there is no {}", plain.display());
        compressed
    }

    /// The bytes of a file, decompressed.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    #[must_use]
    pub fn read(&self, name: &str) -> Vec<u8> {
        read(&self.path(name))
    }

    /// A file of JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// An array of 64-bit floats or integers in NumPy's format, as floats.
    ///
    /// # Panics
    ///
    /// If it is something else.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        let bytes = self.read(name);
        assert_eq!(&bytes[..6], b"\x93NUMPY", "{name}");
        let header_bytes = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = String::from_utf8_lossy(&bytes[10..10 + header_bytes]).into_owned();
        let values = bytes[10 + header_bytes..].chunks_exact(8);
        let word = |chunk: &[u8]| <[u8; 8]>::try_from(chunk).unwrap();
        if header.contains("'<f8'") {
            values
                .map(|chunk| f64::from_le_bytes(word(chunk)))
                .collect()
        } else {
            assert!(header.contains("'<i8'"), "{name}: {header}");
            values
                .map(|chunk| i64::from_le_bytes(word(chunk)) as f64)
                .collect()
        }
    }
}

/// The bytes of a file, decompressed if its name ends in `.zst`.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn read(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_none_or(|extension| extension != "zst") {
        return bytes;
    }
    let mut plain = Vec::new();
    zstd::Decoder::new(bytes.as_slice())
        .unwrap()
        .read_to_end(&mut plain)
        .unwrap();
    plain
}
