#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_agent::dns::fuzz::packet(data));
