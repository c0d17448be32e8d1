//! Where generators of random numbers come from. Not for keys or tokens: those come from the crypto library.

/// Environment variable that makes every run choose the same.
const SEED_VARIABLE: &str = "OUTRIGGER_SEED";

/// A generator of its own stream of numbers for the owner `stream` (a worker's index, say).
///
/// Seeded by the operating system, or by `OUTRIGGER_SEED` if that is set to a number.
#[must_use]
pub fn seeded(stream: u64) -> fastrand::Rng {
    match std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse::<u64>().ok()) {
        Some(seed) => fastrand::Rng::with_seed(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        None => fastrand::Rng::new(),
    }
}
