//! The one wrapper around `arc_swap`: a value that one writer replaces and many readers load without a lock.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// An immutable value that can be replaced as a whole while others read it.
///
/// Readers load once and keep what they got. Nothing else in the tree names `arc_swap`, whose 1.9.5 is the
/// first version without a known memory-safety bug, so that it can be replaced in this one file.
#[derive(Debug)]
pub struct Live<T>(ArcSwap<T>);

impl<T> Live<T> {
    /// Starts with `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self(ArcSwap::new(value))
    }

    /// The current value, owned: it stays as it is however often the cell is replaced afterwards.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// The current value for the length of one synchronous look; cheaper than [`Live::load`].
    /// Never keep the guard across an `.await`.
    pub fn peek(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// Replaces the value and returns the old one, so that the caller chooses where it is dropped.
    pub fn swap(&self, value: Arc<T>) -> Arc<T> {
        self.0.swap(value)
    }
}
