#![no_main]
#![allow(dead_code, unreachable_pub, reason = "files of the executable, of which one door is used")]

#[path = "../../src/fuzz.rs"]
mod fuzz;
#[path = "../../src/options"]
mod options {
    pub mod hcl;
    pub mod sockaddr;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::hcl(data));
