//! Bytes that nobody can foresee, from the generator of the crypto library. Chance that may be foreseen is `rt`'s.

use aws_lc_rs::rand;

/// The machine gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the machine gives no random numbers")]
pub struct NoChance;

/// Bytes that nobody can foresee: for keys, tokens and whatever must be unlike all others.
///
/// # Errors
/// [`NoChance`].
pub fn unforeseeable<const N: usize>() -> Result<[u8; N], NoChance> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| NoChance)?;
    Ok(bytes)
}
