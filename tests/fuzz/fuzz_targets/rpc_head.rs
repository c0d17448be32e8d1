//! Searches for an input that breaks `properties::rpc_head`.
#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "each target uses one of them")]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::rpc_head(input));
