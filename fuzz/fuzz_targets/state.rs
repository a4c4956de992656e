#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_server::store::fuzz::state(data));
