//! Stands in for `avx512` on processors that are not x86-64: nobody has the proof.

use crate::char_class::CharTable;
use crate::split::Bounds;

/// Never there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Avx512 {}

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        None
    }

    pub(crate) fn make_ascii_lowercase(self, _: &mut str) {
        match self {}
    }

    pub(crate) fn split(self, _: &CharTable, _: &[u8], _: &mut Bounds) {
        match self {}
    }

    pub(crate) fn has_cased_beyond_ascii(self, _: &CharTable, _: &str) -> bool {
        match self {}
    }

    pub(crate) fn hash_tokens<'a>(
        self,
        _: &[u8],
        _: &[u32],
        _: &[u32],
        _: &'a mut Vec<u64>,
    ) -> &'a [u64] {
        match self {}
    }

    pub(crate) fn bigram_buckets<'a>(self, _: &[u64], _: u32, _: &'a mut Vec<u32>) -> &'a [u32] {
        match self {}
    }
}
