//! Searches for an input that breaks `properties::store_quorum`.
#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "each target uses one of them")]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::store_quorum(input));
