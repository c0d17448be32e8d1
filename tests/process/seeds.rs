//! The seeds of the fuzz targets, and variations of them, against the properties that the targets search with. A
//! finding of the fuzzer becomes a seed, so it is tried here from then on.

use std::{fs, panic, path::Path};

#[path = "../fuzz/properties.rs"]
mod properties;

/// Variations of each seed; more are tried by `tests/scripts/fuzz.sh`.
const VARIATIONS: u64 = 200;

/// One seed with some of its bytes changed, taken away, doubled or moved.
fn vary(seed: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.usize(1..6) {
        if bytes.is_empty() {
            bytes.push(rng.u8(..));
            continue;
        }
        let at = rng.usize(..bytes.len());
        let end = (at + rng.usize(1..9)).min(bytes.len());
        match rng.u8(0..6) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(0..8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = rng.usize(..=bytes.len());
                bytes.splice(to..to, piece);
            }
            4 => bytes.insert(at, *rng.choice(b"\r\n\0 :;,%./?#-0").expect("not empty")),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn every_property_holds_for_its_seeds_and_variations_of_them() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    for (target, property) in properties::ALL {
        let seeds = fs::read_dir(directory.join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
        let mut paths: Vec<_> = seeds.map(|entry| entry.expect("a readable directory").path()).collect();
        paths.sort();
        assert!(paths.len() >= 3, "{target} has too few seeds");
        for path in paths {
            let seed = fs::read(&path).expect("a readable seed");
            property(&seed);
            for number in 0..VARIATIONS {
                let varied = vary(&seed, &mut fastrand::Rng::with_seed(number));
                let held = panic::catch_unwind(|| property(&varied));
                assert!(held.is_ok(), "{target}: variation {number} of {}: {varied:?}", path.display());
            }
        }
    }
}
