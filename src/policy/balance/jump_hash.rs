//! Jump consistent hash (Lamping & Veach, 2014): for sets that only grow at their end, such as numbered shards.
//! It needs no memory, and an endpoint added at the end takes exactly its share of the keys; one removed from the
//! middle moves nearly all of them.

use super::{Candidate, Choice, least_request};

/// Places of one key that are looked at before the load decides.
const MAX_PROBES: u64 = 8;

/// The endpoint of the key, or, while that is closed or full, of the places that the key leads to next.
pub(super) fn pick<C: Candidate>(
    choice: &Choice<'_, C>,
    key: u64,
    full: impl Fn(usize) -> bool,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let count = choice.len();
    if count == 0 {
        return None;
    }
    let probed = (0..MAX_PROBES).map(|step| bucket(key ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15), count));
    let found = probed.into_iter().find(|&index| choice.open(index) && !full(index));
    found.or_else(|| least_request::pick(choice, false, rng))
}

/// The bucket of the key among `buckets`, which must not be zero.
fn bucket(mut key: u64, buckets: usize) -> usize {
    let (mut bucket, mut next) = (0_i64, 0_i64);
    let buckets = i64::try_from(buckets).unwrap_or(i64::MAX);
    while next < buckets {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let jump = (1_u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * jump) as i64;
    }
    usize::try_from(bucket).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_bucket_takes_its_share_and_moves_nothing_else() {
        for buckets in [1_usize, 2, 5, 10, 100] {
            let mut moved = 0;
            for key in 0..20_000_u64 {
                let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let (before, after) = (bucket(key, buckets), bucket(key, buckets + 1));
                assert!(before < buckets && (after == before || after == buckets));
                moved += usize::from(after != before);
            }
            let expected = 20_000.0 / (buckets + 1) as f64;
            assert!((moved as f64 - expected).abs() < expected * 0.25 + 30.0, "{buckets}: {moved}");
        }
    }
}
