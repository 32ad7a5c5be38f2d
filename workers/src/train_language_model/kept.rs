//! Texts that are kept for a training: those with the smallest keys, up to a number of bytes.

use std::collections::BinaryHeap;

/// The texts with the smallest keys.
#[derive(Debug)]
pub(super) struct Kept {
    bytes_max: u64,
    bytes: u64,
    bytes_seen: u64,
    texts: BinaryHeap<(u64, String)>,
}

impl Kept {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            bytes_seen: 0,
            texts: BinaryHeap::new(),
        }
    }

    pub(super) fn push(&mut self, key: u64, text: &str) {
        self.bytes_seen += text.len() as u64;
        let is_full = self.bytes >= self.bytes_max;
        if is_full && self.texts.peek().is_some_and(|last| last.0 <= key) {
            return;
        }
        self.bytes += text.len() as u64;
        self.texts.push((key, text.to_owned()));
        while let Some((_, last)) = self.texts.peek()
            && self.bytes - last.len() as u64 >= self.bytes_max
        {
            self.bytes -= last.len() as u64;
            self.texts.pop();
        }
    }

    /// Bytes of the texts that are kept.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of all texts that came.
    pub(super) fn bytes_seen(&self) -> u64 {
        self.bytes_seen
    }

    /// The texts by their keys; nothing is kept any more.
    pub(super) fn take(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.texts).into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_that_are_kept_do_not_depend_on_their_order() {
        let texts: Vec<(u64, String)> = (0..50_u64)
            .map(|number| (number * 7919 % 50, "x".repeat(1 + number as usize % 9)))
            .collect();
        let all: usize = texts.iter().map(|(_, text)| text.len()).sum();
        let kept = |texts: &mut dyn Iterator<Item = &(u64, String)>| {
            let mut kept = Kept::new(40);
            texts.for_each(|(key, text)| kept.push(*key, text));
            assert_eq!(kept.bytes_seen(), all as u64);
            (kept.bytes(), kept.take())
        };
        let forward = kept(&mut texts.iter());
        assert_eq!(forward, kept(&mut texts.iter().rev()));
        let bytes: usize = forward.1.iter().map(|(_, text)| text.len()).sum();
        assert_eq!(forward.0, bytes as u64);
        assert!((40..49).contains(&bytes), "{bytes}");
        assert_eq!(forward.1.first().map(|it| it.0), Some(0));
    }
}
