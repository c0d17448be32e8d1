//! A place for one waker, for state that lives on one thread.

use std::{
    cell::Cell,
    task::{Context, Waker},
};

/// A waker that several polls leave and one event takes.
#[derive(Default)]
pub(super) struct WakerSlot(Cell<Option<Waker>>);

impl WakerSlot {
    /// Leaves the waker of `cx` in place of an earlier one.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let waker = match self.0.take() {
            Some(known) if known.will_wake(cx.waker()) => known,
            _ => cx.waker().clone(),
        };
        self.0.set(Some(waker));
    }

    /// Wakes who registered last, once.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}
