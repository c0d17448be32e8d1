//! A ClientHello, whole and byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::proxy::tcp::client_hello::HelloReader;

fuzz_target!(|bytes: &[u8]| {
    let whole = HelloReader::default().push(bytes);
    let mut reader = HelloReader::default();
    let piecewise = bytes.iter().map(|byte| reader.push(&[*byte])).find(|found| !matches!(found, Ok(None)));
    assert_eq!(whole, piecewise.unwrap_or(Ok(None)));
    if let Ok(Some(hello)) = whole
        && let Some(name) = hello.server_name
    {
        assert!(name.len() <= 253 && !name.bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_control()));
    }
});
