//! The only reader of the clock, the only seeder of randomness, the drain signal, and the owner of tasks.

mod drain;
mod tasks;

pub mod clock;
pub mod random;

pub use drain::{Drain, DrainWatch, Phase, ShutdownParams};
pub use tasks::Tasks;
